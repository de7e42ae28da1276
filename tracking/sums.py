"""What is summed up of finished requests: for each minute and hour, over all and by four names.

`sum_up` adds many lines of the log of finished requests to sums of a bounded size, whatever their
number; `tracking.tallies` keeps those in the store. Sums are by arrival: a window shows the requests
that arrived in it and are over.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Literal, get_args

import msgspec

from tracking.finished import MINUTE_US, Finished, group_of, read_lines
from tracking.histogram import Histogram, add, histogram_of, quantiles

Kind = Literal["node", "model", "policy", "route"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
Level = Literal["minute", "hour"]
ALL: Final = "all"  # the kind, and the only name, of the sums over everything
MAX_NAMES: Final = 64  # of a kind in one minute or hour; models are the clients' words
OTHER: Final = "other"
MINUTES_SECONDS: Final = 2 * 3600  # longer windows are read by the hour
AHEAD_US: Final = 5_000_000  # so far may the clocks of routers be ahead
AT_ONCE: Final = 256  # requests that are counted without a pause
_MINUTE: Final[tuple[Level, int]] = ("minute", MINUTE_US)
_HOUR: Final[tuple[Level, int]] = ("hour", 60 * MINUTE_US)
_QUANTILES: Final = (0.5, 0.9, 0.95, 0.99)


class Sums(msgspec.Struct, omit_defaults=True):
    """Counts, totals and distributions. `hit_rates` is the sum over the `hit_rates_known`.

    `predicted_tokens` and `prediction_error_tokens` are of requests whose cached tokens the worker
    told.
    """

    statuses: dict[str, int] = {}
    qualities: dict[str, int] = {}
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    predicted_tokens: int = 0
    prediction_error_tokens: int = 0
    regret_tokens: int = 0
    hit_rates: float = 0.0
    hit_rates_known: int = 0
    queue_seconds: Histogram = {}
    ttft_seconds: Histogram = {}
    inter_token_seconds: Histogram = {}
    duration_seconds: Histogram = {}
    tokens_per_second: Histogram = {}

    @property
    def requests(self) -> int:
        return sum(self.statuses.values())

    def count(self, status: str, quality: str, requests: Sequence[Finished]) -> None:
        """Add these requests, which are all of this status and quality. Empty: not known."""
        input_tokens = output_tokens = cached_tokens = regret_tokens = 0
        predicted_tokens = error_tokens = hit_rates_known = 0
        hit_rates = 0.0
        waits: list[float] = []
        durations: list[float] = []
        speeds: list[float] = []
        first_tokens: list[float] = []
        gaps: list[float] = []
        for _, wait, first, seconds, prompt, tokens, cached, rate, predicted, regret in requests:
            if prompt:
                input_tokens += prompt
            if regret:
                regret_tokens += regret
            if cached is not None:
                cached_tokens += cached
                if predicted is not None:
                    predicted_tokens += predicted
                    error_tokens += abs(predicted - cached)
            if rate is not None:
                hit_rates += rate
                hit_rates_known += 1
            if wait is not None:
                waits.append(wait)
            if tokens:
                output_tokens += tokens
            if seconds is not None:
                durations.append(seconds)
                if tokens and seconds > 0:
                    speeds.append(tokens / seconds)
                if first is not None:
                    first_tokens.append(first)
                    if tokens and tokens > 1:
                        gaps.append(max(0.0, seconds - first) / (tokens - 1))
        add(self.statuses, {status: len(requests)})
        if quality:
            add(self.qualities, {quality: len(requests)})
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens
        self.cached_tokens += cached_tokens
        self.predicted_tokens += predicted_tokens
        self.prediction_error_tokens += error_tokens
        self.regret_tokens += regret_tokens
        self.hit_rates += hit_rates
        self.hit_rates_known += hit_rates_known
        add(self.queue_seconds, histogram_of(waits))
        add(self.duration_seconds, histogram_of(durations))
        add(self.tokens_per_second, histogram_of(speeds))
        add(self.ttft_seconds, histogram_of(first_tokens))
        add(self.inter_token_seconds, histogram_of(gaps))

    def merge(self, other: Sums) -> None:
        """Add all that another has counted."""
        add(self.statuses, other.statuses)
        add(self.qualities, other.qualities)
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.cached_tokens += other.cached_tokens
        self.predicted_tokens += other.predicted_tokens
        self.prediction_error_tokens += other.prediction_error_tokens
        self.regret_tokens += other.regret_tokens
        self.hit_rates = round(self.hit_rates + other.hit_rates, 4)
        self.hit_rates_known += other.hit_rates_known
        for name in DISTRIBUTIONS:
            add(getattr(self, name), getattr(other, name))

    def summary(self, seconds: float) -> dict[str, object]:
        """What is shown of a window of so many seconds. Null: nobody knows."""
        requests = self.requests
        bad = self.statuses.get("failed", 0) + self.statuses.get("rejected", 0)
        known = self.hit_rates_known
        return {
            "requests": requests,
            "requests_per_status": self.statuses,
            "error_rate": round(bad / requests, 6) if requests else None,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cached_tokens": self.cached_tokens,
            "decisions_per_quality": self.qualities,
            "predicted_cached_tokens": self.predicted_tokens,
            "prediction_error_tokens": self.prediction_error_tokens,
            "regret_tokens": self.regret_tokens,
            "output_tokens_per_second": round(self.output_tokens / seconds, 3),
            "cache_hit_rate": round(self.hit_rates / known, 4) if known else None,
            **{name: _distribution(getattr(self, name)) for name in DISTRIBUTIONS},
        }

    def brief(self) -> dict[str, object]:
        """What is shown of one step of a series; what nobody knows is left out."""
        shown: dict[str, object] = {"requests_per_status": self.statuses}
        if self.hit_rates_known:
            shown["cache_hit_rate"] = round(self.hit_rates / self.hit_rates_known, 4)
        for name in ("ttft_seconds", "duration_seconds"):
            if histogram := getattr(self, name):
                p50, p95 = quantiles(histogram, (0.5, 0.95))
                shown[name] = {"p50": p50, "p95": p95}
        return shown


DISTRIBUTIONS: Final = tuple(
    field.name for field in msgspec.structs.fields(Sums) if field.type == Histogram
)


def _distribution(histogram: Histogram) -> dict[str, float] | None:
    if not histogram:
        return None
    names = [f"p{part * 100:.0f}" for part in _QUANTILES]
    shown = dict(zip(names, quantiles(histogram, _QUANTILES), strict=True))
    return {"count": sum(histogram.values()), **shown}


class Place(msgspec.Struct, frozen=True):
    """Where sums are kept: all names of one kind, in one minute or hour (numbered since the epoch)."""

    level: Level
    number: int
    kind: Kind | Literal["all"]

    @property
    def name(self) -> str:
        return f"{self.number}:{self.kind}"

    @property
    def since_us(self) -> int:
        return self.number * (_MINUTE if self.level == "minute" else _HOUR)[1]


def window(now_us: int, seconds: int, kinds: Sequence[Kind]) -> tuple[int, list[Place]]:
    """When a window really begins (µs), and where its sums are.

    It begins at a whole minute, if it is longer than `MINUTES_SECONDS` at a whole hour: so much earlier
    than asked. Arrivals a little ahead of `now_us` are within.
    """
    level, step = _MINUTE if seconds <= MINUTES_SECONDS else _HOUR
    first = max(0, now_us - seconds * 1_000_000) // step
    numbers = range(first, (now_us + AHEAD_US) // step + 1)
    everything: tuple[Kind | Literal["all"], ...] = (ALL, *kinds)
    return first * step, [Place(level, n, kind) for n in numbers for kind in everything]


Names = tuple[str, ...]
Summed = dict[Place, dict[str, Sums]]


async def sum_up(elements: Iterable[bytes], pause: Callable[[], Awaitable[None]]) -> Summed:
    """Sums by place and name of the requests in these elements of the log, lines of `Finished`.

    Some 2 µs a request; `pause` is awaited after each millisecond of work at the latest.
    """
    groups: defaultdict[str, list[Finished]] = defaultdict(list)
    for element in elements:
        for one in read_lines(element):
            groups[one[0]].append(one)
        await pause()
    minutes: defaultdict[int, dict[Names, Sums]] = defaultdict(dict)
    for text, requests in groups.items():
        minute, *names, status, quality = group_of(text)
        counted = minutes[minute].setdefault(tuple(names), Sums())
        while requests:  # which are freed as they are counted, not all at once in the end
            counted.count(status, quality, requests[-AT_ONCE:])
            del requests[-AT_ONCE:]
            await pause()
    summed: Summed = {}
    for minute, by_names in minutes.items():
        for kind in KINDS:
            # The sums by this name; and by all names but this one, of which the rest is made.
            rest: dict[Names, Sums] = {}
            for (name, *others), sums in by_names.items():
                if name:
                    _merge(summed, Place("minute", minute, kind), name, sums)
                rest.setdefault(tuple(others), Sums()).merge(sums)
                await pause()
            by_names = rest
        _merge(summed, Place("minute", minute, ALL), ALL, by_names[()])
    for place, by_name in list(summed.items()):
        hour = Place("hour", place.number // 60, place.kind)
        for name, counted in by_name.items():
            _merge(summed, hour, name, counted)
            await pause()
    return summed


def _merge(summed: Summed, place: Place, name: str, sums: Sums) -> None:
    summed.setdefault(place, {}).setdefault(name, Sums()).merge(sums)


def grown(stored: dict[str, Sums], more: dict[str, Sums]) -> dict[str, Sums]:
    """What is to be kept of the names in `more`, together with what is kept of them already.

    A name beyond MAX_NAMES is counted as `other`.
    """
    result: dict[str, Sums] = {}
    for name, sums in more.items():
        room = len(stored.keys() | result.keys()) < MAX_NAMES
        shown = name if name in stored or name in result or room else OTHER
        if shown not in result:
            result[shown] = stored.get(shown, Sums())
        result[shown].merge(sums)
    return result
