"""Distributions in buckets: how wrong a quantile may be, and that merging loses nothing."""

from __future__ import annotations

from math import ceil, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracking.histogram import GROWTH, Histogram, add, bucket, middle, observe, quantiles

values = st.floats(1e-6, 1e9)
PARTS = (0.5, 0.9, 0.95, 0.99)


def histogram_of(observed: list[float]) -> Histogram:
    histogram: Histogram = {}
    for value in observed:
        observe(histogram, value)
    return histogram


@given(values)
def test_a_value_is_told_wrong_by_at_most_half_a_bucket(value):
    assert 1 / sqrt(GROWTH) / 1.006 <= middle(bucket(value)) / value <= sqrt(GROWTH) * 1.006


@given(values, values)
def test_buckets_keep_the_order_of_values(a, b):
    assert (a <= b) == (bucket(a) <= bucket(b)) or bucket(a) == bucket(b)


@given(st.lists(values, min_size=1))
def test_a_quantile_is_that_of_the_values_as_far_as_buckets_can_tell(observed):
    ordered = sorted(observed)
    exact = [ordered[max(1, ceil(part * len(ordered))) - 1] for part in PARTS]
    assert quantiles(histogram_of(observed), PARTS) == [middle(bucket(value)) for value in exact]


@given(st.lists(values), st.lists(values))
def test_merging_is_observing_both(some, others):
    merged = histogram_of(some)
    add(merged, histogram_of(others))
    assert merged == histogram_of([*some, *others])


def test_what_is_out_of_range_is_in_the_first_or_last_bucket():
    assert bucket(0.0) == bucket(-1.0) == bucket(1e-9) == 0
    assert bucket(1e300) == bucket(float("inf")) > bucket(1e6)


def test_nothing_has_no_quantiles():
    with pytest.raises(ValueError, match="nothing"):
        quantiles({}, PARTS)
