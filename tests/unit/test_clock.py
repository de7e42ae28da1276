"""The fleet's clock: told by the store now and then, within what its answers leave open."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from router.clock import Clock

# How far the store's clock is from ours, seconds; and for each answer its two ways, seconds.
AHEAD = st.floats(-100_000, 100_000)
WAYS = st.tuples(st.floats(0, 30), st.floats(0, 30))
MICROSECOND = 2e-6  # of a float of today's size


def error(clock: Clock, truth: float) -> float:
    """Seconds by which the clock is wrong; `truth` is the store's, less the monotonic one."""
    now = time.monotonic()
    return clock.unix_us(now) / 1e6 - (now + truth)


def hear(clock: Clock, truth: float, there: float, back: float) -> None:
    at = time.monotonic()
    clock.synchronise(int((at + truth) * 1e6), at - there, at + back)


@given(AHEAD, st.lists(WAYS, min_size=1))
def test_it_is_never_wrong_by_more_than_the_quickest_answer_took(
    ahead: float, answers: list[tuple[float, float]]
) -> None:
    clock, truth = Clock(), time.time() - time.monotonic() + ahead
    for there, back in answers:
        hear(clock, truth, there, back)
    assert abs(error(clock, truth)) <= min(map(sum, answers)) + MICROSECOND


@given(st.lists(WAYS))
def test_a_clock_that_is_right_is_not_moved_however_slow_the_answers(
    answers: list[tuple[float, float]],
) -> None:
    clock = Clock()
    now = time.monotonic()
    before = clock.unix_us(now)
    truth = before / 1e6 - now
    for there, back in answers:
        hear(clock, truth, there, back)
    assert abs(clock.unix_us(now) - before) <= 2


def test_another_server_with_another_clock_moves_it() -> None:
    clock = Clock()
    for truth in (1000.0, 5000.0):
        hear(clock, truth, 0.001, 0.001)
        assert abs(error(clock, truth)) < 0.003
