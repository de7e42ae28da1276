"""Which workers exist: the same answer for everybody, from lists that differ."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.core.membership import Listed, discovered, identity, members, read_listed
from tracking.workers import FoundWorker, StaticList, WorkerEntry

A, B, C = "http://a:1", "http://b:1", "http://c:1"


def test_lists_that_differ_are_put_together():
    assert members({}, [StaticList(1, [A, B]), StaticList(2, [B, C])]) == {A: A, B: B, C: C}


def test_one_worker_in_two_spellings_is_one():
    assert identity("http://a") == identity("http://a:80/") == "http://a:80"
    assert members({}, [StaticList(1, ["http://a:80/"]), StaticList(2, ["http://a"])]) == {
        "http://a:80": "http://a"
    }


def test_a_static_worker_goes_with_the_last_replica_that_lists_it():
    assert members({}, [StaticList(1, [A])]) == {A: A}
    assert members({}, [StaticList(2, [])]) == {}


def test_a_worker_added_by_api_stays_whoever_is_there_until_it_is_deleted():
    assert members({A: WorkerEntry(added_us=5)}, []) == {A: A}
    assert members({A: WorkerEntry(deleted_us=6)}, []) == {}


def test_a_deletion_holds_against_those_who_run_and_not_against_those_who_start_later():
    deleted = {A: WorkerEntry(deleted_us=5)}
    assert members(deleted, [StaticList(4, [A]), StaticList(5, [A])]) == {}
    assert members(deleted, [StaticList(4, [A]), StaticList(6, [A])]) == {A: A}
    assert members({A: WorkerEntry(added_us=6)}, [StaticList(4, [A])]) == {A: A}


def test_what_a_newer_version_calls_a_worker_is_left_out():
    assert members({}, [StaticList(1, ["grpc://a:1", B])]) == {B: B}


@given(
    st.builds(
        Listed,
        st.sampled_from([A, "https://b", "http://[::1]:5"]),
        st.sampled_from(["regular", "prefill", "decode"]),
        st.none(),
    )
    | st.builds(Listed, st.just(A), st.just("prefill"), st.integers(0, 65535))
)
def test_a_role_survives_being_told_to_another_replica(listed):
    assert read_listed(listed.text()) == listed
    assert list(members({}, [StaticList(1, [listed.text()])])) == [identity(listed.url)]


URLS = st.sampled_from([A, B, C, "http://a:1/"])
TIMES = st.integers(0, 9)
STATICS = st.lists(st.builds(StaticList, TIMES, st.lists(URLS, max_size=3)), max_size=4)
ENTRIES = st.dictionaries(
    st.sampled_from([A, B, C]),
    st.builds(WorkerEntry, added_us=TIMES) | st.builds(WorkerEntry, deleted_us=TIMES),
)


@given(ENTRIES, STATICS, st.randoms(use_true_random=False))
def test_all_replicas_agree_in_whatever_order_they_read(entries, statics, random):
    shuffled = random.sample(statics, len(statics))
    assert members(entries, shuffled) == members(entries, statics)


@given(ENTRIES, STATICS, TIMES)
def test_a_deletion_now_takes_a_worker_away_and_a_post_brings_it_back(entries, statics, now):
    running = [StaticList(min(s.started_us, now), s.urls) for s in statics]
    assert A not in members(entries | {A: WorkerEntry(deleted_us=now)}, running)
    assert A in members(entries | {A: WorkerEntry(added_us=now + 1)}, running)
    later = [*running, StaticList(now + 1, [A])]
    assert A in members(entries | {A: WorkerEntry(deleted_us=now)}, later)


@given(ENTRIES, STATICS, STATICS)
def test_another_replica_takes_no_worker_away(entries, statics, more):
    assert members(entries, statics).keys() <= members(entries, [*statics, *more]).keys()


def test_one_that_was_discovered_goes_with_the_last_replica_that_lists_it():
    found = FoundWorker(A, since_us=9, origin="dns:workers")
    assert members({}, [StaticList(1, [], [found]), StaticList(1, [B])]) == {A: A, B: B}
    assert members({}, [StaticList(1, []), StaticList(1, [B])]) == {B: B}


def test_a_deletion_holds_until_the_worker_is_discovered_anew():
    def exists(since_us: int) -> bool:
        found = FoundWorker(A, since_us, origin="dns:workers")
        return A in members({A: WorkerEntry(deleted_us=5)}, [StaticList(1, [], [found])])

    assert [exists(4), exists(5), exists(6)] == [False, False, True]


def test_of_one_that_several_have_discovered_the_first_word_counts():
    mine = FoundWorker(A, 1, "mine")
    theirs = FoundWorker(A + "/", 2, "theirs")
    odd = FoundWorker("grpc://a:1", 2, "newer")
    assert discovered([StaticList(1, [], [mine]), StaticList(1, [], [theirs, odd])]) == {A: mine}
