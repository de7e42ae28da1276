"""Observations that wait for their bucket are in it whenever somebody looks."""

from __future__ import annotations

from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.metrics.histogram import AT_ONCE, DURATION_BUCKETS, Histogram

seconds = st.one_of(st.floats(0, 300), st.sampled_from(DURATION_BUCKETS))


def observed(values: list[float]) -> Histogram:
    histogram = Histogram(DURATION_BUCKETS)
    for value in values:
        histogram.observe(value)
    return histogram


@given(st.lists(seconds, max_size=3 * AT_ONCE))
def test_each_is_counted_in_the_first_bucket_that_takes_it(values: list[float]) -> None:
    histogram = observed(values)
    counts = [0] * (len(DURATION_BUCKETS) + 1)
    for value in values:
        counts[bisect_left(DURATION_BUCKETS, value)] += 1
    assert histogram.counts() == counts
    assert histogram.total() == pytest.approx(sum(values))
    assert histogram.counts() == counts


@given(st.lists(seconds, max_size=AT_ONCE), st.lists(seconds, max_size=AT_ONCE))
def test_two_are_added_up(some: list[float], others: list[float]) -> None:
    both = observed(some)
    both.add(observed(others))
    assert both.counts() == observed(some + others).counts()
    assert both.total() == pytest.approx(sum(some + others))


@given(st.floats(0, 300), st.integers(1, 9))
def test_what_came_together_is_shared_evenly(together: float, count: int) -> None:
    histogram = Histogram(DURATION_BUCKETS)
    histogram.observe_evenly(together, count)
    assert histogram.counts()[bisect_left(DURATION_BUCKETS, together / count)] == count
    assert histogram.total() == together
