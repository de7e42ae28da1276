"""Health by thresholds, and what it makes of a worker."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.core.breaker import Breaker, BreakerSettings
from router.core.health import Health, HealthSettings
from router.core.worker import Change, Worker


class Told:
    """A health and the changes it told."""

    def __init__(self, **settings: object) -> None:
        self.changes: list[tuple[str, str, str]] = []
        self.health = Health(
            HealthSettings(**settings),  # type: ignore[arg-type]
            on_change=lambda *change: self.changes.append(change),
        )


def healthy() -> Told:
    told = Told()
    told.health.probe_succeeded()
    told.changes.clear()
    return told


def test_a_new_worker_is_unknown_and_gets_nothing() -> None:
    told = Told()
    assert told.health.state == "unknown"
    assert not told.health.healthy


def test_the_first_good_check_makes_a_new_worker_healthy_also_after_many_bad_ones() -> None:
    told = Told()
    for _ in range(10):
        told.health.probe_failed("connection refused")
    assert told.health.state == "unknown"
    assert told.health.reason == "connection refused"
    told.health.probe_succeeded("200")
    assert told.changes == [("unknown", "healthy", "200")]


def test_it_takes_three_bad_checks_in_a_row_to_lose_health() -> None:
    told = healthy()
    for _ in range(5):
        told.health.probe_failed("503")
        told.health.probe_failed("503")
        told.health.probe_succeeded()
    assert told.health.healthy
    for _ in range(3):
        told.health.probe_failed("timed out")
    assert told.changes == [("healthy", "unhealthy", "timed out")]


def test_and_two_good_ones_in_a_row_to_get_it_back() -> None:
    told = healthy()
    for _ in range(3):
        told.health.probe_failed("503")
    told.health.probe_succeeded()
    told.health.probe_failed("503")
    told.health.probe_succeeded()
    assert not told.health.healthy
    told.health.probe_succeeded()
    assert told.health.healthy


def test_failed_connects_of_traffic_count_like_failed_checks() -> None:
    told = healthy()
    for _ in range(3):
        told.health.connect_failed("connection refused")
    assert told.changes == [("healthy", "unhealthy", "connection refused")]


def test_an_answer_wipes_out_failed_connects_but_not_failed_checks() -> None:
    told = healthy()
    for _ in range(10):
        told.health.connect_failed("reset")
        told.health.connect_failed("reset")
        told.health.answered()
    assert told.health.healthy
    for _ in range(3):
        told.health.answered()
        told.health.probe_failed("503")
        told.health.answered()
    assert not told.health.healthy


def test_traffic_alone_does_not_bring_a_worker_back() -> None:
    told = healthy()
    for _ in range(3):
        told.health.probe_failed("503")
    for _ in range(10):
        told.health.answered()
    assert not told.health.healthy


def test_with_checks_disabled_it_is_always_healthy() -> None:
    told = Told(enabled=False)
    for _ in range(10):
        told.health.connect_failed("refused")
        told.health.probe_failed("refused")
    told.health.probe_succeeded()
    assert told.health.healthy
    assert not told.health.enabled
    assert told.changes == []


def test_the_thresholds_are_settings() -> None:
    told = Told(failure_threshold=1, success_threshold=1)
    told.health.probe_succeeded()
    told.health.probe_failed("no")
    assert not told.health.healthy
    told.health.probe_succeeded()
    assert told.health.healthy


def test_its_state_explains_itself() -> None:
    told = healthy()
    for _ in range(3):
        told.health.probe_failed("timed out")
    assert repr(told.health) == "<Health unhealthy: timed out>"


@given(st.lists(st.sampled_from(["good", "bad", "connect", "answer"]), max_size=60))
def test_in_any_history_every_change_is_told_once_and_by_enough_evidence(events) -> None:
    told = Told()
    recent: list[str] = []
    for event in events:
        before = len(told.changes)
        match event:
            case "good":
                told.health.probe_succeeded()
            case "bad":
                told.health.probe_failed("bad")
            case "connect":
                told.health.connect_failed("connect")
            case "answer":
                told.health.answered()
        recent.append(event)
        if len(told.changes) > before:
            assert len(told.changes) == before + 1
            change = told.changes[-1]
            if change[1] == "unhealthy":
                assert recent.count(event) >= 3
                assert "good" not in recent
            else:
                assert event == "good"
            recent.clear()
        elif event == "good":
            recent = [] if told.health.healthy else recent
    states = [change[:2] for change in told.changes]
    for earlier, later in zip(states, states[1:], strict=False):
        assert earlier[1] == later[0]


# -- the worker that composes it with its breaker ------------------------------------------


def worker(**settings: int) -> tuple[Worker, list[Change]]:
    made = Worker(
        "http://127.0.0.1:30005",
        "worker-0",
        health=Health(),
        breaker=Breaker(BreakerSettings(failure_threshold=2, success_threshold=1)),
        max_in_flight=settings.get("max_in_flight"),
    )
    changes: list[Change] = []
    made.listeners.append(lambda _, change: changes.append(change))
    return made, changes


def test_a_worker_is_available_when_healthy_not_draining_not_full_and_let_through() -> None:
    one, _ = worker(max_in_flight=1)
    assert not one.available(0)
    one.health.probe_succeeded()
    assert one.available(0)
    one.drain()
    assert one.draining
    assert not one.available(0)
    one.drain(False)
    assert one.available(0)
    permit = one.begin(0)
    assert permit is not None
    assert one.full
    assert not one.available(0)
    one.end(permit, "success", 0)
    assert one.available(0)
    for _ in range(2):
        permit = one.begin(0)
        assert permit is not None
        one.end(permit, "failure", 0)
    assert not one.available(59)
    assert one.available(60)


def test_a_plain_worker_is_healthy_and_never_tripped() -> None:
    plain = Worker("http://127.0.0.1:30005", "worker-0")
    for _ in range(50):
        permit = plain.begin(0)
        assert permit is not None
        plain.end(permit, "failure", 0)
    assert plain.available(0)
    assert (plain.in_flight, plain.processed) == (0, 50)


def test_an_attempt_that_the_breaker_does_not_admit_is_not_counted() -> None:
    one, _ = worker()
    one.health.probe_succeeded()
    for _ in range(2):
        permit = one.begin(0)
        assert permit is not None
        one.end(permit, "failure", 0)
    assert one.begin(1) is None
    assert one.in_flight == 0


def test_a_client_that_leaves_gives_the_probe_back() -> None:
    one, _ = worker()
    one.health.probe_succeeded()
    for _ in range(2):
        permit = one.begin(0)
        assert permit is not None
        one.end(permit, "failure", 0)
    probe = one.begin(60)
    assert probe is not None
    assert not one.available(60)
    one.end(probe, None, 61)
    assert one.available(61)
    assert one.in_flight == 0


def test_the_head_of_a_good_answer_closes_the_breaker_and_a_bad_one_does_not() -> None:
    one, changes = worker()
    one.health.probe_succeeded()
    for _ in range(2):
        permit = one.begin(0)
        assert permit is not None
        one.end(permit, "failure", 0)
    probe = one.begin(60)
    assert probe is not None
    one.answered(probe, "failure")
    assert not one.ready
    one.answered(probe, "success")
    assert one.ready
    assert [c.after for c in changes if c.what == "breaker"] == ["open", "half_open", "closed"]


def test_a_worker_that_regains_its_health_is_tried_at_once() -> None:
    one, _ = worker()
    one.health.probe_succeeded()
    for _ in range(3):
        permit = one.begin(0)
        if permit is not None:
            one.end(permit, "failure", 0)
        one.health.connect_failed("refused")
    assert not one.available(1)
    one.health.probe_succeeded()
    one.health.probe_succeeded()
    assert one.available(2)
    assert one.breaker.state == "half_open"


def test_each_change_of_state_is_told_once() -> None:
    one, changes = worker()
    one.health.probe_succeeded("200")
    one.health.probe_succeeded("200")
    one.drain()
    one.drain()
    assert changes == [
        Change("health", "unknown", "healthy", "200"),
        Change("draining", "serving", "draining", "asked for"),
    ]


def test_health_may_be_set_by_hand() -> None:
    plain = Worker("http://127.0.0.1:30005", "worker-0")
    plain.healthy = False
    assert not plain.available(0)
    assert not plain.healthy
    plain.healthy = True
    assert plain.available(0)


def test_a_worker_explains_itself() -> None:
    one, _ = worker()
    one.health.probe_succeeded()
    permit = one.begin(0)
    assert permit is not None
    assert repr(one) == "<Worker worker-0 http://127.0.0.1:30005 healthy, 1 in flight>"
    one.end(permit, "failure", 0)
    second = one.begin(0)
    assert second is not None
    one.end(second, "failure", 0)
    assert repr(one) == (
        "<Worker worker-0 http://127.0.0.1:30005 healthy, breaker open, 0 in flight>"
    )
    one.drain()
    assert "draining" in repr(one)
