"""The worker whose throughput rises and whose latency falls the most: a research policy.

Of each worker the last 20 finished requests of the fleet are kept, in the order they finished, and
cut into halves once there are 10. Of each half:

    throughput = tokens (input and output) / seconds from its first to its last finish
    latency    = mean of the server latency, in seconds

A gradient is the difference of the halves (later - earlier) by the seconds between their last
finishes, and

    score = 0.6 x throughput gradient - 0.4 x latency gradient

The highest score wins; of equal ones any. While any candidate has too little history (fewer than
10, or all at one moment), the one with the fewest outstanding requests gets the request, so that
everybody comes to have some.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from random import Random
from typing import Final, NamedTuple

from router.core.facts import RequestFacts
from router.core.worker import Worker
from router.policies.base import Choice, Column, Policy, PolicyConfig, least, loads, policy
from tracking.trace import Trace

WINDOW: Final = 20
NEEDED: Final = 10
THROUGHPUT_WEIGHT: Final = 0.6
LATENCY_WEIGHT: Final = 0.4
MOST_WORKERS: Final = 4096


class Sample(NamedTuple):
    """One finished request. Seconds since the epoch; seconds."""

    finished_at: float
    tokens: int
    latency: float


class Utility(NamedTuple):
    """What a window says; None where it holds too little. Tokens and seconds."""

    throughput_gradient: float | None
    latency_gradient: float | None
    score: float | None
    avg_throughput: float | None
    avg_latency: float | None
    window_size: int


NOTHING: Final = Utility(None, None, None, None, None, 0)


@policy("marginal_utility")
class MarginalUtilityPolicy(Policy):
    """Reasons: `only_candidate`, `gradient_based`, `insufficient_history`."""

    learns = True

    def __init__(self, config: PolicyConfig, random: Random) -> None:
        self._random = random
        self._windows: dict[str, list[Sample]] = {}
        self._utilities: dict[str, Utility] = {}

    def choose(self, request: RequestFacts, candidates: Sequence[Worker], now: float) -> Choice:
        in_flight = loads(candidates)
        known = self._utilities
        utilities = [known.get(worker.node_id, NOTHING) for worker in candidates]
        losses = [-u.score for u in utilities if u.score is not None]
        enough = len(losses) == len(candidates)
        ranks: Sequence[float] = losses if enough else in_flight
        worker = candidates[least(ranks, self._random)]
        numbers = zip(Utility._fields, zip(*utilities, strict=True), strict=True)
        columns: dict[str, Column] = {"in_flight": in_flight, **dict(numbers)}
        reason = "gradient_based" if enough else "insufficient_history"
        return Choice(
            worker,
            reason if len(candidates) > 1 else "only_candidate",
            columns,
            ranks,
            fallback=not enough,
        )

    def finished(self, trace: Trace, finished_at: float) -> None:
        latency = server_latency_seconds(trace)
        if trace.status != "completed" or latency is None:
            return
        if trace.input_tokens is None and trace.output_tokens is None:
            return  # a throughput without tokens would be invented
        window = self._windows.get(trace.node_id)
        if window is None:
            if len(self._windows) >= MOST_WORKERS:
                self.forget(next(iter(self._windows)))
            window = self._windows[trace.node_id] = []
        tokens = (trace.input_tokens or 0) + (trace.output_tokens or 0)
        insort(window, Sample(finished_at, tokens, latency))  # others' may come late
        del window[:-WINDOW]
        self._utilities[trace.node_id] = utility(window)

    def forget(self, node_id: str) -> None:
        self._windows.pop(node_id, None)
        self._utilities.pop(node_id, None)


def server_latency_seconds(trace: Trace) -> float | None:
    """What the engine says it took, else the time from admission to the end of the answer."""
    if trace.engine is not None and trace.engine.e2e_latency is not None:
        return trace.engine.e2e_latency
    if trace.duration_seconds is None:
        return None
    return max(0.0, trace.duration_seconds - (trace.queue_seconds or 0.0))


def utility(window: Sequence[Sample]) -> Utility:
    """Of finished requests in the order they finished."""
    average, latency = _throughput(window), _latency(window) if window else None
    unknown = Utility(None, None, None, average, latency, len(window))
    if len(window) < NEEDED:
        return unknown
    half = len(window) // 2
    earlier, later = window[:half], window[half:]
    before, after = _throughput(earlier), _throughput(later)
    seconds = later[-1].finished_at - earlier[-1].finished_at
    if before is None or after is None or seconds <= 0:
        return unknown
    throughput_gradient = (after - before) / seconds
    latency_gradient = (_latency(later) - _latency(earlier)) / seconds
    score = THROUGHPUT_WEIGHT * throughput_gradient - LATENCY_WEIGHT * latency_gradient
    return Utility(throughput_gradient, latency_gradient, score, average, latency, len(window))


def _throughput(samples: Sequence[Sample]) -> float | None:
    seconds = samples[-1].finished_at - samples[0].finished_at if samples else 0.0
    return sum(sample.tokens for sample in samples) / seconds if seconds > 0 else None


def _latency(samples: Sequence[Sample]) -> float:
    return sum(sample.latency for sample in samples) / len(samples)
