"""Distributions of positive numbers in a few bytes: counts in buckets whose bounds grow by one factor.

Bucket `i` holds what lies in (1e-6 * GROWTH**i, 1e-6 * GROWTH**(i + 1)]; smaller values are in bucket
0. Any two histograms merge by adding their counts, whoever made them. A quantile is told as the
geometric middle of its bucket, so it is wrong by at most a factor of sqrt(GROWTH): 4.4 %. The scheme
is that of Prometheus' native histograms at schema 3, shifted to begin at a microsecond.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, log2
from typing import Final

_STEPS: Final = 8  # buckets for each doubling
GROWTH: Final = 2.0 ** (1 / _STEPS)
_SMALLEST: Final = 1e-6
_LARGEST: Final = 1e9  # nothing that is measured here is larger

_LAST: Final = ceil(_STEPS * log2(_LARGEST / _SMALLEST)) - 1

Histogram = dict[int, int]  # bucket -> count


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


def observe(histogram: Histogram, value: float) -> None:
    """Count one value."""
    index = bucket(value)
    histogram[index] = histogram.get(index, 0) + 1


def add(histogram: Histogram, other: Mapping[int, int]) -> None:
    """Count all that `other` has counted."""
    for index, count in other.items():
        histogram[index] = histogram.get(index, 0) + count


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
