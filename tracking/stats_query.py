"""What the stats may be asked. Parsing and checking, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from tracking.query import Parameter, QueryError
from tracking.sums import KINDS, Kind
from tracking.values import FLAG, Value, names, parse_age

MOST_DAYS: Final = 31


def _window(text: str, _now_us: int) -> int:
    seconds = parse_age(text) // 1_000_000
    if not 1 <= seconds <= MOST_DAYS * 86_400:
        raise ValueError(text)
    return seconds


PARAMETERS: Final = {
    "window": Parameter(
        "adds `window`: requests of the last so long that are over",
        Value(
            f"an age such as 15m, 2h or 7d, at most {MOST_DAYS}d",
            _window,
            {"type": "string", "format": "window", "example": "15m"},
        ),
    ),
    "by": Parameter(
        "adds the same for each name; without `window` over the whole retention",
        names(KINDS, f"one or more of {', '.join(KINDS)}, separated by commas"),
    ),
    "series": Parameter("adds `window.series`: each minute of it, or hour, by itself", FLAG),
}


class StatsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked beyond the plain counts. A window of None with `by`: the retention."""

    window_seconds: int | None = None
    by: tuple[Kind, ...] = ()
    series: bool = False

    @property
    def plain(self) -> bool:
        return self.window_seconds is None and not self.by and not self.series


PLAIN: Final = StatsQuery()


def parse_stats(params: Sequence[tuple[str, str]]) -> StatsQuery:
    """The query of a URL's parameters (decoded). Raises QueryError."""
    given: dict[str, object] = {}
    for name, text in params:
        if name not in PARAMETERS:
            raise QueryError(name, f"unknown parameter {name!r}; known are {', '.join(PARAMETERS)}")
        if name in given:
            raise QueryError(name, f"parameter {name!r} is given more than once")
        value = PARAMETERS[name].value
        try:
            given[name] = value.parse(text, 0)
        except ValueError:
            raise QueryError(name, f"parameter {name!r} must be {value.allowed}") from None
    asked = msgspec.convert(given, _Given)
    return StatsQuery(
        window_seconds=asked.window,
        by=tuple(kind for kind in KINDS if kind in asked.by),
        series=asked.series,
    )


class _Given(msgspec.Struct):
    window: int | None = None
    by: tuple[Kind, ...] = ()
    series: bool = False
