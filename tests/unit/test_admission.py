"""Who comes in, who waits, who is turned away: the pure core."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from router.core.admission import Admission, AdmissionSettings


def door(**settings: float | None) -> Admission[str]:
    return Admission(AdmissionSettings(**settings), 0.0)  # type: ignore[arg-type]


def test_without_limits_the_door_is_off() -> None:
    assert door().off
    assert door(max_concurrent=0).off
    assert not door(max_concurrent=1).off
    assert not door(rate_per_second=1).off


def test_no_more_than_the_limit_are_inside_and_time_alone_frees_no_place() -> None:
    one = door(max_concurrent=2)
    assert [one.enter(t) for t in (0, 0, 0, 1000)] == [True, True, False, False]
    one.leave()
    assert one.enter(1000)
    assert one.active == 2


def test_the_line_is_first_come_first_served_and_nobody_jumps_it() -> None:
    one = door(max_concurrent=1)
    assert one.enter(0)
    for name in "abc":
        assert one.join(name, 0)
    one.leave()
    assert not one.enter(0)
    assert one.admit(0) == ["a"]
    assert one.admit(0) == []
    one.leave()
    assert one.admit(0) == ["b"]


def test_the_line_is_bounded_and_who_finds_it_full_is_turned_away() -> None:
    one = door(max_concurrent=1, queue_size=2)
    one.enter(0)
    assert [one.join(name, 0) for name in "abc"] == [True, True, False]
    assert (one.waiting, one.turned_away) == (2, 1)


def test_a_queue_size_of_0_turns_away_at_once() -> None:
    one = door(max_concurrent=1, queue_size=0)
    one.enter(0)
    assert not one.join("a", 0)


def test_who_leaves_the_line_frees_its_place() -> None:
    one = door(max_concurrent=1, queue_size=1)
    one.enter(0)
    one.join("a", 0)
    assert one.abandon("a")
    assert not one.abandon("a")
    assert one.join("b", 0)
    one.leave()
    assert one.admit(0) == ["b"]
    assert one.abandoned == 1


def test_at_the_deadline_those_who_waited_that_long_are_sent_away() -> None:
    one = door(max_concurrent=1, queue_timeout_seconds=10)
    one.enter(0)
    one.join("a", 0)
    one.join("b", 5)
    assert one.next_event(5) == 10
    assert one.expire(9.9) == []
    assert one.expire(10) == ["a"]
    assert one.next_event(10) == 15
    assert one.expire(100) == ["b"]
    assert one.next_event(100) is None
    assert one.timed_out == 2


def test_a_rate_lets_in_a_burst_and_then_one_by_one() -> None:
    one = door(rate_per_second=2)
    assert [one.enter(0) for _ in range(3)] == [True, True, False]
    one.join("a", 0)
    one.join("b", 0)
    assert one.next_event(0) == pytest.approx(0.5)
    assert one.admit(0.4) == []
    assert one.admit(0.5) == ["a"]
    assert one.next_event(0.5) == pytest.approx(1.0)
    assert one.admit(1.0) == ["b"]


def test_a_rate_below_one_still_lets_someone_in() -> None:
    one = door(rate_per_second=0.5)
    assert one.enter(0)
    assert not one.enter(1.9)
    assert one.enter(2)


def test_both_limits_hold_together() -> None:
    one = door(max_concurrent=2, rate_per_second=1)
    assert [one.enter(0) for _ in range(3)] == [True, True, False]
    one.join("a", 0)
    assert one.next_event(0) == 60  # no token helps while nobody leaves
    one.leave()
    assert one.next_event(0.5) == 1
    assert one.admit(1) == ["a"]
    one.leave()
    assert one.active == 1
    assert not one.enter(1.5)


def test_a_larger_limit_lets_in_more_and_a_smaller_one_puts_nobody_out() -> None:
    one = door(max_concurrent=1)
    one.enter(0)
    for name in "abc":
        one.join(name, 0)
    one.resize(3)
    assert one.admit(0) == ["a", "b"]
    one.resize(1)
    assert one.active == 3
    one.leave()
    one.leave()
    assert one.admit(0) == []
    one.resize(None)
    assert one.admit(0) == ["c"]


def test_who_is_sent_away_is_told_when_to_come_again() -> None:
    assert door(max_concurrent=1).retry_after_seconds(0) == 1
    slow = door(rate_per_second=0.1, queue_timeout_seconds=60)
    slow.enter(0)
    slow.join("a", 0)
    assert slow.retry_after_seconds(0) == pytest.approx(20)
    for name in "bcdefghij":
        slow.join(name, 0)
    assert slow.retry_after_seconds(0) == 60


def test_its_state_explains_itself() -> None:
    one = door(max_concurrent=2, queue_size=5)
    one.enter(0)
    assert repr(one) == "<Admission 1 inside of 2, 0 of 5 waiting>"
    assert repr(door()) == "<Admission 0 inside no limit, 0 of 100 waiting>"


class Door(RuleBasedStateMachine):
    """Any history of arrivals, departures and waiting, against a plain list."""

    @initialize(
        limit=st.sampled_from([-1, 1, 2, 3]),
        queue=st.integers(0, 4),
        rate=st.sampled_from([None, 0.3, 1.0, 7.0]),
    )
    def open(self, limit: int, queue: int, rate: float | None) -> None:
        self.limit, self.queue, self.rate, self.now = limit, queue, rate, 0.0
        self.door: Admission[int] = Admission(
            AdmissionSettings(
                max_concurrent=limit,
                queue_size=queue,
                queue_timeout_seconds=5,
                rate_per_second=rate,
            ),
            0.0,
        )
        self.inside = 0
        self.line: list[tuple[int, float]] = []
        self.admitted_at: list[float] = []
        self.names = 0

    @rule()
    def arrive(self) -> None:
        if self.door.enter(self.now):
            assert not self.line
            self.came_in()
        else:
            self.names += 1
            joined = self.door.join(self.names, self.now)
            assert joined == (len(self.line) < self.queue)
            if joined:
                self.line.append((self.names, self.now + 5))

    def came_in(self) -> None:
        self.inside += 1
        self.admitted_at.append(self.now)

    @precondition(lambda self: self.inside)
    @rule()
    def depart(self) -> None:
        self.door.leave()
        self.inside -= 1
        self.move_up()

    def move_up(self) -> None:
        for name in self.door.admit(self.now):
            assert name == self.line.pop(0)[0]
            self.came_in()

    @precondition(lambda self: self.line)
    @rule(data=st.data())
    def walk_away(self, data) -> None:
        gone = data.draw(st.sampled_from(self.line))
        assert self.door.abandon(gone[0])
        self.line.remove(gone)
        self.move_up()

    @rule(seconds=st.floats(0, 3))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        due = [name for name, deadline in self.line if deadline <= self.now]
        assert self.door.expire(self.now) == due
        self.line = self.line[len(due) :]
        self.move_up()

    @rule()
    def wait_for_the_next_event(self) -> None:
        at = self.door.next_event(self.now)
        assert (at is None) == (not self.line)
        if at is not None:
            before = len(self.line)
            self.now = max(at, self.now)
            self.wait(0.0)
            assert len(self.line) < before, "woken for nothing"

    @invariant()
    def the_counts_agree(self) -> None:
        if hasattr(self, "door"):
            assert self.door.active == self.inside
            assert self.door.waiting == len(self.line)

    @invariant()
    def never_more_inside_than_the_limit(self) -> None:
        if hasattr(self, "door") and self.limit > 0:
            assert self.inside <= self.limit

    @invariant()
    def nobody_waits_while_there_is_room(self) -> None:
        if hasattr(self, "door") and self.line:
            assert self.door.admit(self.now) == []
            assert self.rate is not None or self.inside == self.limit

    @invariant()
    def never_faster_than_the_rate(self) -> None:
        if hasattr(self, "door") and self.rate is not None:
            burst = max(1, self.limit if self.limit > 0 else self.rate)
            for first, start in enumerate(self.admitted_at):
                spell = self.now - start
                count = len(self.admitted_at) - first
                assert count <= burst + spell * self.rate + 1e-6


TestDoor = Door.TestCase
