"""How many requests may run at all workers together (`--max-requests-per-worker`)."""

from __future__ import annotations

from router.core.breaker import Breaker, BreakerSettings
from router.core.worker import Worker
from router.fleet import Fleet

NOW = 100.0


def worker(number: int, most: int | None = 4) -> Worker:
    return Worker(
        f"http://w{number}:80",
        f"worker-{number}",
        max_in_flight=most,
        breaker=Breaker(BreakerSettings(failure_threshold=1)),
    )


def test_every_worker_in_use_has_its_places_full_or_not():
    one, other = worker(0), worker(1)
    fleet = Fleet([one, other])
    assert fleet.room() == 8
    for _ in range(4):
        one.begin(NOW)
    assert one.full
    assert fleet.room() == 8


def test_a_worker_out_of_use_counts_for_what_still_runs_there():
    one, other = worker(0), worker(1)
    fleet = Fleet([one, other])
    permits = [one.begin(NOW) for _ in range(3)]
    one.drain()
    assert fleet.room() == 4 + 3
    assert permits[0] is not None
    one.end(permits[0], None, NOW)
    assert fleet.room() == 4 + 2
    one.drain(False)
    assert fleet.room() == 8


def test_an_open_circuit_is_out_of_use():
    one, other = worker(0), worker(1)
    permit = one.begin(NOW)
    assert permit is not None
    one.end(permit, "failure", NOW)
    assert one.breaker.state == "open"
    assert Fleet([one, other]).room() == 4


def test_without_a_worker_in_use_nobody_is_kept_waiting():
    one = worker(0)
    one.healthy = False
    assert Fleet([one]).room() is None
    assert Fleet([]).room() is None


def test_without_a_limit_there_is_no_number():
    assert Fleet([worker(0, most=None)]).room() is None
