"""When a replica may declare others dead."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tracking.replicas import SweepGate

LEASE, BEAT = 3.0, 1.0


def gate_after(*beats: float) -> SweepGate:
    gate = SweepGate(LEASE, BEAT)
    for at in beats:
        gate.beat(at)
    return gate


def test_it_opens_after_two_leases_of_beats_without_a_gap():
    gate = gate_after(0, 1, 2, 3, 4, 5)
    assert not gate.open(5.9)
    gate.beat(6)
    assert gate.open(6)


def test_it_is_shut_before_the_first_beat():
    assert not SweepGate(LEASE, BEAT).open(1000)


def test_a_gap_shuts_it_for_two_leases_more():
    gate = gate_after(*range(8))
    assert gate.open(7.5)
    gate.beat(11)
    assert not gate.open(11)
    for at in (12, 13, 14, 15, 16):
        gate.beat(at)
        assert not gate.open(at)
    gate.beat(17)
    assert gate.open(17)


def test_one_failed_beat_that_is_soon_made_good_is_no_gap():
    assert gate_after(0, 1, 2, 3.75, 4.75, 5.75, 6.75).open(6.75)


@given(
    since=st.floats(0.0, BEAT),
    hang=st.floats(0.0, 30.0),
    wait=st.floats(0.0, BEAT),
)
def test_a_hang_of_the_store_never_makes_a_beating_replica_look_dead(since, hang, wait):
    """Another replica last beat `since` before the hang; we beat just before it, and again `wait`
    after it. If its lease ran out in the meantime, the gate must be shut."""
    gate = gate_after(*range(20))
    gate.beat(20.0)
    back = 20.0 + hang + wait
    gate.beat(back)
    their_lease_ends = 20.0 - since + LEASE
    if back > their_lease_ends:
        assert not gate.open(back)


def test_data_that_is_another_shuts_it_for_two_leases():
    gate = gate_after(*range(8))
    gate.shut()
    assert not gate.open(7)
    for at in (8, 9, 10, 11, 12, 13):
        gate.beat(at)
        assert not gate.open(at)
    gate.beat(14)
    assert gate.open(14)
