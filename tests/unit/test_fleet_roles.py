"""Workers of several roles: each is asked for its own part, and it takes one of each."""

from __future__ import annotations

from random import Random

import pytest

from router.core.worker import Role, Worker
from router.fleet import Fleet, Group
from router.policies import PolicyConfig, build_policy

NOW = 100.0


def worker(number: int, role: Role, most: int | None = None) -> Worker:
    return Worker(f"http://w{number}:80", f"worker-{number}", role=role, max_in_flight=most)


def pair() -> tuple[Fleet, Worker, Worker]:
    prefill, decode = worker(0, "prefill"), worker(1, "decode", most=4)
    return Fleet([prefill, decode], ("prefill", "decode")), prefill, decode


def group(fleet: Fleet, role: Role) -> Group:
    policy = build_policy("random", PolicyConfig(), Random(0))
    return Group(policy, fleet.of(role), f"{role} workers")


def test_only_workers_of_the_role_are_candidates():
    fleet, prefill, decode = pair()
    prefills, decodes = group(fleet, "prefill"), group(fleet, "decode")
    assert prefills.candidates(NOW, []) == [prefill]
    assert decodes.candidates(NOW, []) == [decode]
    assert not prefills.others_left(NOW, [prefill])
    fleet.remove(prefill)
    assert prefills.candidates(NOW, []) == []
    assert prefills.why_none() == "No available prefill workers: none is registered"


def test_a_fleet_serves_while_it_has_a_healthy_worker_of_each_role():
    fleet, prefill, _ = pair()
    assert fleet.serves
    prefill.healthy = False
    assert not fleet.serves


def test_places_are_counted_at_decode_workers():
    fleet, _, _ = pair()
    assert fleet.room() == 4


def test_a_worker_of_another_role_is_not_taken_in():
    with pytest.raises(KeyError):
        pair()[0].add(worker(2, "regular"))
