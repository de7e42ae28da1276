"""The circle, and the policies on it: a worker that is missing moves only its own keys."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.facts import RequestFacts
from router.core.ring import POINTS, SPARE, Ring, key_hash
from router.core.worker import Worker
from router.policies import Policy
from router.policies.base import NoTarget
from tests.choosing import built, fleet, prompt, shown

KEYS = [f"session-{number}" for number in range(300)]


def keyed(key: str) -> RequestFacts:
    return prompt("text", headers={"x-smg-routing-key": key})


def homes(chooser: Policy, workers: list[Worker]) -> dict[str, str]:
    return {key: chooser.choose(keyed(key), workers, 0.0).worker.node_id for key in KEYS}


# -- the circle ------------------------------------------------------------------------------------


@given(
    names=st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=6, unique=True),
    key=st.integers(0, 2**64 - 1),
)
def test_a_walk_meets_every_name_once_and_always_in_the_same_order(
    names: list[str], key: int
) -> None:
    ring, other = Ring(), Ring()
    ring.cover(names)
    for name in reversed(names):  # whatever the order in which they became known
        other.cover([name])
    assert sorted(ring.walk(key)) == sorted(names)
    assert list(ring.walk(key)) == list(other.walk(key))


def test_names_share_the_keys_fairly() -> None:
    ring = Ring()
    ring.cover(["a", "b", "c", "d"])
    owners = Counter(next(ring.walk(key_hash(f"key {number}"))) for number in range(4000))
    assert min(owners.values()) > 700
    assert max(owners.values()) < 1300


def test_names_that_went_away_do_not_stay_for_ever() -> None:
    ring = Ring()
    for number in range(500):
        ring.cover([f"pod-{number}", f"pod-{number + 1}"])
        assert len(list(ring.walk(0))) <= 2 + SPARE + 1


def test_a_name_that_comes_back_finds_its_points() -> None:
    ring = Ring()
    ring.cover(["a", "b"])
    before = [next(ring.walk(key_hash(key))) for key in KEYS]
    for number in range(3 * SPARE):
        ring.cover([f"pod-{number}"])
    ring.cover(["a", "b"])
    after = [next(name for name in ring.walk(key_hash(k)) if name in "ab") for k in KEYS]
    assert after == before
    assert POINTS > 100


# -- consistent hashing ----------------------------------------------------------------------------


def test_all_replicas_send_a_key_to_the_same_worker() -> None:
    assert homes(built("consistent_hashing", seed=1), fleet(0, 0, 0)) == homes(
        built("consistent_hashing", seed=2), fleet(3, 1, 2)
    )


def test_a_worker_that_is_missing_moves_only_its_own_keys_and_gets_them_back() -> None:
    workers = fleet(0, 0, 0, 0)
    chooser = built("consistent_hashing")
    before = homes(chooser, workers)
    without = homes(chooser, workers[:1] + workers[2:])
    assert all(without[key] == home for key, home in before.items() if home != "worker-1")
    moved = {without[key] for key, home in before.items() if home == "worker-1"}
    assert moved == {"worker-0", "worker-2", "worker-3"}  # spread, not all to one neighbour
    assert homes(chooser, workers) == before


def test_a_new_worker_takes_keys_only_for_itself() -> None:
    workers = fleet(0, 0, 0, 0)
    chooser = built("consistent_hashing")
    before = homes(chooser, workers[:3])
    after = homes(chooser, workers)
    assert {after[key] for key in KEYS if after[key] != before[key]} == {"worker-3"}


def test_the_routing_key_goes_before_the_session_and_the_session_before_chance() -> None:
    workers = fleet(0, 0, 0)
    chooser = built("consistent_hashing")
    both = {"x-smg-routing-key": "k", "x-session-id": "s"}
    for headers, reason in (
        (both, "routing_key"),
        ({"x-session-id": "k"}, "session"),
        ({}, "random"),
    ):
        choice = chooser.choose(prompt("t", headers=headers), workers, 0.0)
        assert choice.reason == reason
        if reason != "random":
            assert choice.worker.node_id == chooser.choose(keyed("k"), workers, 0.0).worker.node_id


@pytest.mark.parametrize("target", ["worker-2", "http://10.0.0.2:30000"])
def test_a_target_is_taken_whatever_the_key(target: str) -> None:
    workers = fleet(0, 0, 0)
    for key in KEYS[:20]:
        headers = {"x-smg-target-worker": target, "x-smg-routing-key": key}
        choice = built("consistent_hashing").choose(prompt("t", headers=headers), workers, 0.0)
        assert (choice.worker, choice.reason) == (workers[2], "target_worker")


def test_a_target_that_is_no_candidate_is_refused_and_named() -> None:
    request = prompt("t", headers={"x-smg-target-worker": "worker-2"})
    with pytest.raises(NoTarget, match="worker-2"):
        built("consistent_hashing").choose(request, fleet(0, 0), 0.0)


# -- prefix hash -----------------------------------------------------------------------------------


def test_prompts_with_the_same_first_tokens_go_together_at_every_replica() -> None:
    start = "s" * 1024  # 256 tokens
    workers = fleet(0, 0, 0, 0, 0)
    chosen = {
        built("prefix_hash", seed).choose(prompt(start + f"{seed} " * 50), workers, 0.0).worker
        for seed in range(20)
    }
    assert len(chosen) == 1
    others = [prompt(f"{number} " * 300) for number in range(40)]
    assert len({built("prefix_hash").choose(one, workers, 0.0).worker for one in others}) == 5


def test_how_much_is_hashed_can_be_chosen() -> None:
    workers = fleet(*[0] * 8)
    prompts = [prompt("s" * 512 + f"{number} " * 300) for number in range(20)]

    def spread(tokens: int) -> int:
        chooser = built("prefix_hash", prefix_token_count=tokens)
        return len({chooser.choose(one, workers, 0.0).worker for one in prompts})

    assert spread(128) == 1
    assert spread(256) > 1


def test_a_worker_with_more_than_its_share_is_passed_over() -> None:
    workers = fleet(0, 0, 0, 0)
    request = prompt("s" * 2000)
    home = built("prefix_hash").choose(request, workers, 0.0).worker
    for worker in workers:
        worker.in_flight = 10
    home.in_flight = 12  # of 42 and this one 13.4 are allowed
    choice = built("prefix_hash").choose(request, workers, 0.0)
    assert (choice.worker, choice.reason) == (home, "prefix_hash")
    home.in_flight = 20
    choice = built("prefix_hash").choose(request, workers, 0.0)
    assert choice.worker is not home
    assert choice.reason == "prefix_spill"
    first, second = shown(choice, workers).candidates[:2]
    assert (first.numbers["ring_turn"], second.numbers["ring_turn"]) == (2, 1)
    assert second.node_id == home.node_id


def test_without_text_the_least_loaded_is_taken() -> None:
    choice = built("prefix_hash").choose(prompt(""), fleet(2, 1, 3), 0.0)
    assert (choice.worker.node_id, choice.reason) == ("worker-1", "least_loaded")
