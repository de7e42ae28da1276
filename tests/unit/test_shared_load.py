"""Others' requests as last heard: summed, aged, faded, and never zero at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.core.shared_load import FADING_SECONDS, KEPT_SECONDS, Share, SharedLoad, trust
from router.core.worker import Worker


def heard(*shares: tuple[float, dict[int, tuple[int, int]]], now: float = 100.0) -> SharedLoad:
    load = SharedLoad()
    load.heard({f"r{i}": Share(*share) for i, share in enumerate(shares)}, now)
    return load


def test_a_router_that_shares_nothing_is_exact_and_never_old():
    load = SharedLoad()
    assert (load.age_seconds(1e9), load.quality(1e9), load.totals(1e9)) == (0.0, "exact", {})


def test_until_the_others_are_heard_a_decision_is_degraded():
    load = SharedLoad()
    load.expect()
    assert load.quality(100.0) == "degraded"
    load.heard({}, 100.0)
    assert load.quality(101.0) == "exact"


def test_shares_are_summed_by_worker_and_as_old_as_the_oldest():
    load = heard((99.9, {1: (2, 300), 2: (1, 0)}), (99.8, {1: (5, 40)}))
    assert load.totals(100.0) == {1: (7, 340), 2: (1, 0)}
    assert round(load.age_seconds(100.0), 6) == 0.2
    assert (load.quality(100.0), load.replicas) == ("exact", 2)


def test_a_replica_that_is_silent_makes_decisions_degraded_and_one_that_is_gone_does_not():
    load = heard((99.9, {1: (2, 0)}), (98.0, {1: (5, 0)}))
    assert load.quality(100.0) == "degraded"
    load.heard({"r0": Share(100.9, {1: (2, 0)})}, 101.0)
    assert (load.quality(101.0), load.totals(101.0)) == ("exact", {1: (2, 0)})


def test_who_was_alone_and_hears_nothing_any_more_cannot_be_sure():
    load = heard()
    assert load.quality(101.0) == "exact"
    assert load.quality(103.0) == "degraded"


def test_old_figures_hold_for_the_lease_and_then_fade_evenly():
    load = heard((100.0, {1: (10, 1000)}))
    assert load.totals(100.0 + KEPT_SECONDS) == {1: (10, 1000)}
    assert load.totals(100.0 + KEPT_SECONDS + FADING_SECONDS / 2) == {1: (5, 500)}
    assert load.totals(100.0 + KEPT_SECONDS + FADING_SECONDS) == {1: (0, 0)}


@given(st.floats(0, 1e6), st.floats(0, 1))
def test_trust_never_grows_with_age_nor_falls_at_once(age: float, later: float):
    assert 0.0 <= trust(age + later) <= trust(age) <= 1.0
    assert trust(age) - trust(age + later) <= later / FADING_SECONDS + 1e-9


def test_a_workers_load_is_its_own_and_the_others():
    worker = Worker("http://10.0.0.1:30000", "worker-0")
    worker.start()
    worker.queue(120)
    worker.heard(3, 1000)
    assert (worker.in_flight, worker.load, worker.queued_tokens) == (1, 4, 1120)
    worker.prefilled(120)
    worker.release()
    worker.heard(0, 0)
    assert (worker.load, worker.queued_tokens) == (0, 0)


def test_workers_have_the_same_digest_everywhere_and_different_ones_differ():
    one, again = Worker("http://10.0.0.1", "a"), Worker("http://10.0.0.1:80", "b")
    assert one.digest == again.digest == 13497394252679957391
    assert Worker("http://10.0.0.2:80", "a").digest != one.digest
