"""A histogram that costs one append to observe.

prometheus_client's own takes a lock and walks the buckets, over a microsecond each; inter-token
gaps are observed tens of thousands of times a second. Here what was observed waits, and buckets are
found for many at once: sorted, all that share a bucket are counted together. One event loop writes and
reads, so there is nothing to lock.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from itertools import pairwise
from math import isfinite
from typing import Final

# sglang-router 0.3.2's, so that its dashboards' quantiles stay comparable.
DURATION_BUCKETS: Final = (
    *(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
    *(5.0, 10.0, 15.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 240.0),
)
OVERHEAD_BUCKETS: Final = (
    *(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005),
    *(0.01, 0.025, 0.05, 0.1, 0.25, 1.0),
)
GAP_BUCKETS: Final = (
    *(0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05),
    *(0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5, 5.0),
)
FLUSH_BUCKETS: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
AGE_BUCKETS: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

AT_ONCE: Final = 64  # so many observations are put into their buckets together


def checked_buckets(bounds: Iterable[float]) -> tuple[float, ...]:
    """Upper bounds in seconds, as a tuple. Raises ValueError unless they rise from above 0."""
    checked = tuple(float(bound) for bound in bounds)
    rising = all(low < high for low, high in pairwise(checked))
    if not checked or not rising or checked[0] <= 0 or not all(map(isfinite, checked)):
        raise ValueError(f"buckets must be finite, above 0 and rising: {list(checked)}")
    return checked


class Histogram:
    """Counts per bucket (the last one is beyond every bound) and the sum of what was observed."""

    __slots__ = ("_counts", "_total", "_waiting", "bounds")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0
        self._waiting: list[float] = []

    def observe(self, seconds: float) -> None:
        """One observation."""
        self._waiting.append(seconds)
        if len(self._waiting) >= AT_ONCE:
            self._sort_in()

    def observe_evenly(self, seconds: float, count: int) -> None:
        """`count` (at least 1) observations of `seconds / count` each."""
        if count == 1:
            self.observe(seconds)
        else:
            self._counts[bisect_left(self.bounds, seconds / count)] += count
            self._total += seconds

    def counts(self) -> list[int]:
        self._sort_in()
        return self._counts

    def total(self) -> float:
        self._sort_in()
        return self._total

    def add(self, other: Histogram) -> None:
        """What `other` has observed, too; it has the same bounds."""
        self._counts = [
            ours + theirs for ours, theirs in zip(self.counts(), other.counts(), strict=True)
        ]
        self._total += other.total()

    def _sort_in(self) -> None:
        """A bound belongs to its bucket, as Prometheus' `le` wants it."""
        waiting = self._waiting
        waiting.sort()
        begin, end = 0, len(waiting)
        while begin < end:
            bucket = bisect_left(self.bounds, waiting[begin])
            beyond = bucket == len(self.bounds)
            next_bucket = end if beyond else bisect_right(waiting, self.bounds[bucket], begin)
            self._counts[bucket] += next_bucket - begin
            begin = next_bucket
        self._total += sum(waiting)
        waiting.clear()
