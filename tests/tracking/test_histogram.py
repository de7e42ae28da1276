"""Distributions in buckets: how wrong a quantile may be, and that merging loses nothing."""

from __future__ import annotations

from collections import Counter
from math import ceil, inf, nextafter, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracking.histogram import GROWTH, add, bucket, histogram_of, middle, quantiles

values = st.floats(1e-6, 1e9)
edges = st.integers(-8, 480).map(lambda eighths: 1e-6 * 2 ** (eighths / 8))
beside_edges = st.builds(nextafter, edges, st.sampled_from([0.0, 1e-6, inf]))
microseconds = st.integers(0, 10**8).map(lambda number: number / 1e6)
PARTS = (0.5, 0.9, 0.95, 0.99)


@given(st.lists(values | edges | beside_edges | microseconds | st.sampled_from([-1.0, inf])))
def test_a_histogram_has_each_value_in_its_bucket(observed):
    assert histogram_of(observed) == Counter(map(bucket, observed))


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


def test_what_was_added_to_nothing_can_grow_by_itself():
    some, grown = {1: 2}, dict[int, int]()
    add(grown, some)
    add(grown, some)
    assert (some, grown) == ({1: 2}, {1: 4})


def test_what_is_out_of_range_is_in_the_first_or_last_bucket():
    assert bucket(0.0) == bucket(-1.0) == bucket(1e-9) == 0
    assert bucket(1e300) == bucket(float("inf")) > bucket(1e6)


def test_nothing_has_no_quantiles():
    with pytest.raises(ValueError, match="nothing"):
        quantiles({}, PARTS)
