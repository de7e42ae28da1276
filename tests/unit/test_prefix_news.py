"""What is told of prefixes: all that is new, and hardly anything twice."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from router.core.blocks import block_hashes
from router.core.prefix import PrefixIndex
from router.core.prefix_news import BACKLOG_BLOCKS, EPOCH_BYTES, PrefixNews
from tracking.sharing import STREAM_BYTES

A, B = 11 << 40, 12 << 40  # workers


def everything(news: PrefixNews) -> list[tuple[int, list[int]]]:
    return [(digest, [*blocks]) for digest, blocks in news.take(1 << 30)]


def test_only_what_goes_beyond_the_known_is_told():
    news = PrefixNews()
    news.routed([1, 2, 3], A)
    news.routed([1, 2, 3], A)
    news.routed([1, 2, 3, 4, 5], A)
    news.routed([1, 2, 9], A)
    news.routed([1, 2], B)
    assert everything(news) == [(A, [1, 2, 3]), (A, [4, 5]), (A, [9]), (B, [1, 2])]
    assert everything(news) == []


def test_what_another_replica_told_is_not_told_again():
    news = PrefixNews()
    news.heard(A, [1, 2, 3])
    news.routed([1, 2, 3, 4], A)
    assert everything(news) == [(A, [4])]


def test_a_worker_that_lost_its_cache_is_told_anew():
    news = PrefixNews()
    news.routed([1, 2], A)
    news.routed([1, 2], B)
    everything(news)
    news.lost(A)
    news.routed([1, 2], A)
    news.routed([1, 2], B)
    assert everything(news) == [(A, []), (A, [1, 2])]
    news.heard(B, [])
    news.routed([1, 2], B)
    assert everything(news) == [(B, [1, 2])]


def test_what_is_in_use_is_told_again_in_each_epoch_which_the_store_keeps_two_of():
    news = PrefixNews()
    news.routed([1, 2], A)
    everything(news)
    news.total_told(EPOCH_BYTES - 1)
    news.routed([1, 2], A)
    assert everything(news) == []
    news.total_told(EPOCH_BYTES)
    news.routed([1, 2], A)
    assert everything(news) == [(A, [1, 2])]
    assert STREAM_BYTES >= 2 * EPOCH_BYTES


def test_what_turns_out_not_to_be_so_is_not_told_and_is_told_when_it_is():
    news = PrefixNews()
    news.routed([1, 2], A)
    everything(news)
    news.routed([1, 2, 3, 4, 5], A)
    news.routed([1, 2, 3, 4, 5], B)
    news.take_back([4, 5], A)
    assert len(news) == 6
    assert everything(news) == [(A, [3]), (B, [1, 2, 3, 4, 5])]
    news.routed([1, 2, 3, 4, 5], A)
    assert everything(news) == [(A, [4, 5])]
    news.take_back([3, 4, 5], A)  # told already
    news.routed([1, 2, 3, 4, 5], A)
    assert everything(news) == [(A, [3, 4, 5])]
    news.take_back([3, 4, 5], A)
    news.routed([3, 4, 5], A)
    news.take_back([3, 4, 5], A)
    assert everything(news) == []


def test_what_could_not_be_told_waits_in_its_place():
    news = PrefixNews()
    for number in range(5):
        news.routed([number, number + 100], A)
    first = news.take(3)
    assert [blocks for _, blocks in first] == [[0, 100], [1, 101]]
    news.put_back(first)
    assert len(news) == 10
    assert [blocks[0] for _, blocks in everything(news)] == [0, 1, 2, 3, 4]


def test_what_waits_is_bounded_and_the_oldest_goes_first():
    news = PrefixNews()
    for number in range(100):
        news.routed(range(number * 10_000, (number + 1) * 10_000), A)
    assert len(news) <= BACKLOG_BLOCKS
    assert news.dropped == 1_000_000 - len(news)
    assert everything(news)[-1][1][-1] == 999_999


TEXTS = st.text("ab", min_size=1, max_size=4).map(lambda t: "".join(c * 64 for c in t).encode())


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 1), st.sampled_from([A, B]), TEXTS | st.none())))
def test_replicas_that_hear_each_other_know_the_same(steps):
    """Two replicas, at each step one routes a prompt or loses a cache, and both tell and hear."""
    indexes = [PrefixIndex(1 << 20) for _ in range(2)]
    news = [PrefixNews() for _ in range(2)]
    for mine, digest, text in steps:
        other = 1 - mine
        if text is None:
            indexes[mine].forget(str(digest))
            news[mine].lost(digest)
        else:
            blocks = block_hashes(text)
            indexes[mine].insert(blocks, str(digest))
            news[mine].routed(blocks, digest)
        for told, blocks in news[mine].take(1 << 30):
            news[other].heard(told, blocks)
            if blocks:
                indexes[other].insert(blocks, str(told))
            else:
                indexes[other].forget(str(told))
        for _, _, asked in steps:
            if asked is not None:
                hashes = block_hashes(asked)
                assert indexes[0].match(hashes) == indexes[1].match(hashes)
