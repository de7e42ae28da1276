"""The circuit breaker of one worker."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from router.core.breaker import Breaker, BreakerSettings, Permit, Verdict, verdict
from router.errors import (
    BadRequest,
    ConnectFailed,
    FirstByteTimeout,
    IdleTimeout,
    StaleConnection,
    TotalTimeout,
    WorkerCut,
)

SETTINGS = BreakerSettings(
    failure_threshold=3, success_threshold=2, timeout_seconds=10, window_seconds=100
)


class Rig:
    """A breaker and the transitions it told."""

    def __init__(self, settings: BreakerSettings = SETTINGS) -> None:
        self.told: list[str] = []
        self.breaker = Breaker(
            settings, on_change=lambda before, after, reason: self.told.append(f"{before}>{after}")
        )

    @property
    def state(self) -> str:
        return self.breaker.state

    def permit(self, now: float) -> Permit:
        permit = self.breaker.acquire(now)
        assert permit is not None
        return permit

    def request(self, verdict: Verdict, now: float = 0.0) -> None:
        self.breaker.record(self.permit(now), verdict, now)

    def trip(self, now: float = 0.0) -> None:
        for _ in range(3):
            self.request("failure", now)
        assert self.breaker.state == "open"


@pytest.mark.parametrize("status", [200, 204, 301, 400, 401, 404, 408, 413, 422, 499])
def test_every_answer_below_500_but_429_is_the_workers_success(status: int) -> None:
    assert verdict(status) == "success"


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_worker_is_neither_good_nor_bad(status: int) -> None:
    assert verdict(status) == "neutral"


@pytest.mark.parametrize("status", [500, 501, 502, 504, 599])
def test_other_5xx_are_failures(status: int) -> None:
    assert verdict(status) == "failure"


@pytest.mark.parametrize("error", [ConnectFailed, FirstByteTimeout, IdleTimeout, WorkerCut])
def test_transport_errors_and_timeouts_are_failures_whatever_the_status_was(error) -> None:
    assert verdict(None, error("gone")) == "failure"
    assert verdict(200, error("gone")) == "failure"


@pytest.mark.parametrize(
    "error", [TotalTimeout("long"), StaleConnection("closed"), BadRequest("no"), OSError("ours")]
)
def test_errors_that_do_not_blame_the_worker_are_neutral(error: Exception) -> None:
    assert verdict(200, error) == "neutral"


def test_an_attempt_without_any_outcome_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="status or an error"):
        verdict(None)


def test_it_opens_after_that_many_failures_in_a_row() -> None:
    rig = Rig()
    rig.request("failure")
    rig.request("failure")
    assert rig.breaker.allows(0)
    rig.request("failure")
    assert not rig.breaker.allows(9.9)
    assert rig.breaker.acquire(9.9) is None
    assert rig.told == ["closed>open"]


def test_a_success_between_them_starts_the_count_again_and_a_neutral_answer_does_not() -> None:
    rig = Rig()
    for outcome in ("failure", "failure", "success", "failure", "neutral", "failure"):
        rig.request(outcome)
    assert rig.state == "closed"
    rig.request("failure")
    assert rig.state == "open"


def test_failures_older_than_the_window_do_not_count() -> None:
    rig = Rig()
    rig.request("failure", 0)
    rig.request("failure", 50)
    rig.request("failure", 100.1)
    assert rig.state == "closed"
    rig.request("failure", 149)
    assert rig.state == "open"


def test_after_the_timeout_it_admits_as_many_probes_at_a_time_as_close_it() -> None:
    rig = Rig()
    rig.trip()
    assert rig.breaker.allows(10)
    first, second = rig.permit(10), rig.permit(10)
    assert not rig.breaker.allows(10)
    rig.breaker.record(first, "neutral", 11)
    assert rig.breaker.allows(11)
    rig.breaker.record(second, "success", 11)
    rig.request("success", 11)
    assert rig.state == "closed"
    assert rig.told == ["closed>open", "open>half_open", "half_open>closed"]


def test_one_failed_probe_opens_it_again_for_a_whole_timeout() -> None:
    rig = Rig()
    rig.trip()
    good, bad = rig.permit(10), rig.permit(10)
    rig.breaker.record(bad, "failure", 12)
    assert not rig.breaker.allows(21.9)
    rig.breaker.record(good, "success", 13)
    assert rig.state == "open"
    assert rig.breaker.allows(22)


def test_a_probe_whose_client_leaves_is_given_back() -> None:
    rig = Rig()
    rig.trip()
    first, second = rig.permit(10), rig.permit(10)
    rig.breaker.cancel(first)
    rig.breaker.cancel(first)
    third = rig.permit(10)
    assert not rig.breaker.allows(10)
    rig.breaker.record(second, "success", 10)
    rig.breaker.record(third, "success", 10)
    assert rig.state == "closed"


def test_a_probe_counts_when_its_head_arrives_and_not_again_at_its_end() -> None:
    rig = Rig()
    rig.trip()
    stream = rig.permit(10)
    rig.breaker.answered(stream)
    rig.breaker.answered(stream)
    rig.breaker.record(stream, "success", 300)
    assert rig.state == "half_open"
    rig.request("success", 300)
    assert rig.state == "closed"


def test_a_probe_that_breaks_off_after_its_head_is_a_failure() -> None:
    rig = Rig()
    rig.trip()
    stream = rig.permit(10)
    rig.breaker.answered(stream)
    rig.breaker.record(stream, "failure", 11)
    assert rig.state == "open"


def test_probes_that_hang_do_not_keep_the_worker_out_for_good() -> None:
    rig = Rig()
    rig.trip()
    hanging = [rig.permit(10), rig.permit(11)]
    assert not rig.breaker.allows(20.9)
    late = rig.permit(21)
    assert not rig.breaker.allows(30.9)
    for permit in (*hanging, late):
        rig.breaker.cancel(permit)
    assert rig.breaker.allows(30.9)


def test_outcomes_of_requests_from_before_the_trip_say_nothing() -> None:
    rig = Rig()
    old = [rig.permit(0) for _ in range(4)]
    rig.trip()
    rig.breaker.record(old[0], "failure", 5)
    assert rig.breaker.allows(10)
    probe = rig.permit(10)
    rig.breaker.record(old[1], "success", 11)
    rig.breaker.record(old[2], "failure", 11)
    rig.breaker.answered(old[3])
    assert repr(rig.breaker) == "<Breaker half_open 0/2 successes, 1 probing>"
    rig.breaker.record(probe, "success", 12)
    assert repr(rig.breaker) == "<Breaker half_open 1/2 successes, 0 probing>"


def test_only_the_first_word_on_a_request_counts() -> None:
    rig = Rig()
    permit = rig.permit(0)
    for _ in range(5):
        rig.breaker.record(permit, "failure", 0)
    cancelled = rig.permit(0)
    rig.breaker.cancel(cancelled)
    rig.breaker.record(cancelled, "failure", 0)
    assert repr(rig.breaker) == "<Breaker closed 1/3 failures>"


def test_news_of_the_worker_shortens_the_timeout() -> None:
    rig = Rig()
    rig.trip()
    rig.breaker.try_again("healthy again")
    assert rig.breaker.allows(1)
    rig.request("failure", 1)
    assert not rig.breaker.allows(10.9)
    assert rig.breaker.allows(11)


def test_disabled_it_never_opens() -> None:
    rig = Rig(BreakerSettings(failure_threshold=1, enabled=False))
    for _ in range(100):
        rig.request("failure")
    assert rig.breaker.allows(0)
    assert rig.told == []
    assert repr(rig.breaker) == "<Breaker off>"


def test_its_state_explains_itself() -> None:
    rig = Rig()
    rig.request("failure", 0)
    assert repr(rig.breaker) == "<Breaker closed 1/3 failures>"
    rig.request("failure", 1)
    rig.request("failure", 1)
    assert repr(rig.breaker) == "<Breaker open until 11.0>"


class BreakerMachine(RuleBasedStateMachine):
    """Any history, against a plain account of who holds a probe's place."""

    permits = Bundle("permits")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.rig = Rig()
        self.places: dict[int, set[Permit]] = {}  # by period: how many transitions were before
        self.last_probe_at = 0.0

    @property
    def period(self) -> int:
        return len(self.rig.told)

    @rule(target=permits)
    def acquire(self):
        before, held = self.rig.state, len(self.places.get(self.period, ()))
        permit = self.rig.breaker.acquire(self.now)
        if before == "closed":
            assert permit is not None
        elif before == "half_open":
            free = held < SETTINGS.success_threshold
            assert (permit is not None) == (free or self.now >= self.last_probe_at + 10)
        else:
            assert self.rig.state == ("open" if permit is None else "half_open")
        if permit is not None and self.rig.state == "half_open":
            self.places.setdefault(self.period, set()).add(permit)
            self.last_probe_at = self.now
        return permit

    def freed(self, permit: Permit) -> None:
        for holders in self.places.values():
            holders.discard(permit)

    @rule(permit=consumes(permits), outcome=st.sampled_from(["success", "neutral", "failure"]))
    def record(self, permit: Permit | None, outcome: Verdict) -> None:
        if permit is not None:
            self.rig.breaker.record(permit, outcome, self.now)
            self.freed(permit)

    @rule(permit=permits)
    def answered(self, permit: Permit | None) -> None:
        if permit is not None:
            self.rig.breaker.answered(permit)
            self.freed(permit)

    @rule(permit=permits)
    def cancel(self, permit: Permit | None) -> None:
        if permit is not None:
            self.rig.breaker.cancel(permit)
            self.freed(permit)

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 10.0, 200.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def news(self) -> None:
        self.rig.breaker.try_again("news")
        assert self.rig.state != "open"

    @invariant()
    def transitions_are_told_once_and_follow_the_picture(self) -> None:
        told = self.rig.told
        assert set(told) <= {"closed>open", "open>half_open", "half_open>closed", "half_open>open"}
        for before, after in zip(told, told[1:], strict=False):
            assert before.split(">")[1] == after.split(">")[0]
        assert (told[-1].split(">")[1] if told else "closed") == self.rig.state

    @invariant()
    def no_worker_is_out_for_longer_than_the_timeout(self) -> None:
        assert self.rig.breaker.allows(self.now + SETTINGS.timeout_seconds)


TestBreakerMachine = BreakerMachine.TestCase
