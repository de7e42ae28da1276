"""Distributions of positive numbers in a few bytes: counts in buckets whose bounds grow by one factor.

Bucket `i` holds what lies in (1e-6 * GROWTH**i, 1e-6 * GROWTH**(i + 1)]; smaller values are in bucket
0. Any two histograms merge by adding their counts, whoever made them. A quantile is told as the
geometric middle of its bucket, so it is wrong by at most a factor of sqrt(GROWTH): 4.4 %. The scheme
is that of Prometheus' native histograms at schema 3, shifted to begin at a microsecond.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from math import ceil, inf, log2, nextafter
from typing import Final, TypeVar

_STEPS: Final = 8  # buckets for each doubling
GROWTH: Final = 2.0 ** (1 / _STEPS)
_SMALLEST: Final = 1e-6
_LARGEST: Final = 1e9  # nothing that is measured here is larger

_LAST: Final = ceil(_STEPS * log2(_LARGEST / _SMALLEST)) - 1

Histogram = dict[int, int]  # bucket -> count
Key = TypeVar("Key")


def bucket(value: float) -> int:
    """The bucket that holds `value`, which is not NaN."""
    if value <= _SMALLEST:
        return 0
    if value >= _LARGEST:
        return _LAST
    return ceil(_STEPS * log2(value / _SMALLEST)) - 1


def middle(index: int) -> float:
    """The value told for a bucket, to three digits."""
    return float(f"{_SMALLEST * GROWTH ** (index + 0.5):.3g}")


def _largest(index: int) -> float:
    """The largest value in a bucket, as `bucket` computes it."""
    value: float = _SMALLEST * 2.0 ** ((index + 1) / _STEPS)
    while bucket(value) > index:
        value = nextafter(value, 0)
    while bucket(above := nextafter(value, inf)) == index:
        value = above
    return value


_UP_TO: Final = (*map(_largest, range(_LAST)), inf)


def histogram_of(values: Iterable[float]) -> Histogram:
    """Of many values: in order, so that where a bucket ends is searched for."""
    ordered = sorted(values)
    counts: Histogram = {}
    start, length = 0, len(ordered)
    while start < length:
        index = bucket(ordered[start])
        end = bisect_right(ordered, _UP_TO[index], start)
        counts[index] = end - start
        start = end
    return counts


def add(counts: dict[Key, int], others: Mapping[Key, int]) -> None:
    """Count all that `others` have counted."""
    if not counts:
        counts.update(others)
        return
    for key, count in others.items():
        counts[key] = counts.get(key, 0) + count


def quantiles(histogram: Mapping[int, int], asked: tuple[float, ...]) -> list[float]:
    """The smallest values that at least these parts (0..1, rising) of all values do not exceed.

    Raises ValueError for an empty histogram.
    """
    total = sum(histogram.values())
    if not total:
        raise ValueError("a histogram of nothing has no quantiles")
    found: list[float] = []
    seen, ordered = 0, iter(sorted(histogram.items()))
    index, count = next(ordered)
    for part in asked:
        rank = max(1, ceil(part * total))
        while seen + count < rank:
            seen += count
            index, count = next(ordered)
        found.append(middle(index))
    return found
