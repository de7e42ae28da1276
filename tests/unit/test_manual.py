"""manual: a session stays where it was assigned, at every replica."""

from __future__ import annotations

from collections import Counter

import pytest

from router.core.facts import RequestFacts
from router.core.worker import Worker
from router.policies import Policy
from tests.choosing import built, ended, fleet, prompt

MODES = ("random", "min_load", "min_group")


def keyed(key: str | None) -> RequestFacts:
    return prompt("text", headers={} if key is None else {"x-smg-routing-key": key})


def choose(
    chooser: Policy, key: str | None, workers: list[Worker], now: float = 0.0
) -> tuple[str, str]:
    choice = chooser.choose(keyed(key), workers, now)
    return choice.worker.node_id, choice.reason


@pytest.mark.parametrize("mode", MODES)
def test_a_key_stays_with_its_worker_whatever_the_load(mode: str) -> None:
    workers = fleet(0, 0, 0)
    chooser = built("manual", assignment_mode=mode)
    home, reason = choose(chooser, "k", workers)
    assert reason == "assigned"
    for worker in workers:
        worker.in_flight = 50 if worker.node_id == home else 0
    assert choose(chooser, "k", workers) == (home, "sticky")


@pytest.mark.parametrize("mode", MODES)
def test_a_key_returns_to_its_first_worker_when_that_is_back(mode: str) -> None:
    workers = fleet(0, 0, 0)
    chooser = built("manual", assignment_mode=mode)
    home, _ = choose(chooser, "k", workers)
    others = [worker for worker in workers if worker.node_id != home]
    second, reason = choose(chooser, "k", others)
    assert (second != home, reason) == (True, "reassigned")
    assert choose(chooser, "k", others) == (second, "sticky")
    assert choose(chooser, "k", workers) == (home, "sticky")


def test_a_key_remembers_two_workers() -> None:
    a, b, c = fleet(0, 0, 0)
    chooser = built("manual")
    for only in (a, b, c):
        chooser.choose(keyed("k"), [only], 0.0)
    assert choose(chooser, "k", [a, b, c]) == ("worker-1", "sticky")


def test_by_default_replicas_agree_without_talking() -> None:
    workers = fleet(0, 0, 0, 0)
    one, other = built("manual", seed=1), built("manual", seed=2)
    keys = [f"key-{number}" for number in range(100)]
    assert [choose(one, key, workers) for key in keys] == [
        choose(other, key, workers) for key in keys
    ]


def test_a_new_worker_takes_no_session_away() -> None:
    workers = fleet(0, 0, 0, 0)
    chooser = built("manual")
    keys = [f"key-{number}" for number in range(100)]
    before = [choose(chooser, key, workers[:3])[0] for key in keys]
    assert [choose(chooser, key, workers) for key in keys] == [(home, "sticky") for home in before]


def test_what_another_replica_assigned_is_learned_from_its_traces() -> None:
    workers = fleet(0, 0, 5)
    chooser = built("manual", assignment_mode="min_load")
    trace = ended("worker-2")
    trace.session_id, trace.worker_url = "k", workers[2].url
    chooser.finished(trace, 0.0)
    assert choose(chooser, "k", workers) == ("worker-2", "sticky")


def test_a_request_that_failed_teaches_nothing() -> None:
    workers = fleet(0, 0, 5)
    chooser = built("manual", assignment_mode="min_load")
    trace = ended("worker-2")
    trace.session_id, trace.worker_url, trace.status = "k", workers[2].url, "failed"
    chooser.finished(trace, 0.0)
    assert choose(chooser, "k", workers)[1] == "assigned"


def test_new_keys_go_where_the_mode_says() -> None:
    loaded = fleet(2, 0, 1)
    assert choose(built("manual", assignment_mode="min_load"), "k", loaded)[0] == "worker-1"
    groups = built("manual", assignment_mode="min_group")
    chosen = Counter(choose(groups, f"key-{number}", loaded)[0] for number in range(30))
    assert set(chosen.values()) == {10}


def test_a_key_that_is_not_used_is_forgotten() -> None:
    chooser = built("manual", max_idle_secs=10)
    workers = fleet(0, 0)
    choose(chooser, "k", workers, now=0.0)
    assert choose(chooser, "k", workers, now=10.0)[1] == "sticky"
    assert choose(chooser, "k", workers, now=20.1)[1] == "assigned"


def test_a_request_without_a_key_is_not_remembered() -> None:
    workers = fleet(0, 0, 0)
    chooser = built("manual")
    chosen = Counter(choose(chooser, None, workers) for _ in range(60))
    assert {worker for worker, _ in chosen} == {"worker-0", "worker-1", "worker-2"}
    assert {reason for _, reason in chosen} == {"no_key"}


def test_the_session_is_the_key_where_no_routing_key_is_given() -> None:
    workers = fleet(0, 0, 0)
    chooser = built("manual")
    home, _ = choose(chooser, "s", workers)
    choice = chooser.choose(prompt("t", headers={"x-session-id": "s"}), workers, 0.0)
    assert (choice.worker.node_id, choice.reason) == (home, "sticky")
