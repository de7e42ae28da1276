"""Chained block hashes, and the index of which node holds which prefix."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.blocks import (
    BOUNDARIES,
    HASHED_BYTES,
    LARGEST_BLOCK_BYTES,
    block_hashes,
    landmarks,
    matched_bytes,
)
from router.core.prefix import ENTRY_BYTES, PrefixIndex

MIB = 1024 * 1024


def test_hashes_are_the_same_in_every_process_and_version():
    assert block_hashes(b"x" * 65, "m") == [6073252744090905898, 3007361463691769722]


def test_equal_prefixes_have_equal_hashes_and_the_first_difference_ends_that():
    one = bytearray(b"abcdefgh" * 1000)
    other = bytearray(one)
    other[4500] ^= 1
    same = [
        a == b for a, b in zip(block_hashes(bytes(one)), block_hashes(bytes(other)), strict=True)
    ]
    depth = same.index(False)
    assert not any(same[depth:])
    assert BOUNDARIES[depth] <= 4500 < BOUNDARIES[depth + 1]


def test_blocks_are_never_more_than_an_eighth_of_what_came_before():
    sizes = list(zip(BOUNDARIES, BOUNDARIES[1:], strict=False))
    assert all(end - start <= max(64, start / 8) for start, end in sizes)
    assert max(end - start for start, end in sizes) == LARGEST_BLOCK_BYTES


def test_a_text_is_hashed_up_to_a_bound():
    assert block_hashes(b"a" * HASHED_BYTES) == block_hashes(b"a" * (HASHED_BYTES + 9))
    assert block_hashes(b"") == []


def test_no_model_is_the_default_model():
    assert block_hashes(b"a", None) == block_hashes(b"a", "") == block_hashes(b"a", "unknown")
    assert block_hashes(b"a", None) != block_hashes(b"a", "m")


@given(st.binary(min_size=1, max_size=5000), st.binary(max_size=300))
def test_a_continued_text_matches_all_full_blocks_and_no_more_than_itself(text, more):
    index = PrefixIndex(MIB)
    index.insert(block_hashes(text), "a")
    depth = index.match(block_hashes(text + more)).get("a", 0)
    matched = matched_bytes(depth, len(text + more))
    full = max(end for end in BOUNDARIES if end <= len(text))
    assert full <= matched <= len(text)
    assert index.match(block_hashes(text)) == {"a": len(block_hashes(text))}


def test_each_node_is_matched_as_far_as_it_goes():
    index = PrefixIndex(MIB)
    blocks = list(range(1, 11))
    index.insert(blocks, "deep")
    index.insert(blocks[:4], "middle")
    index.insert(blocks[:1], "shallow")
    index.insert([99], "other")
    assert index.match(blocks) == {"deep": 10, "middle": 4, "shallow": 1}
    assert index.match([99, 2, 3]) == {"other": 1}
    assert index.match([7]) == {"deep": 1}
    assert index.match([]) == {}


def test_a_forgotten_node_holds_nothing_and_the_others_keep_theirs():
    index = PrefixIndex(MIB)
    index.insert([1, 2, 3], "a")
    index.insert([1, 2], "b")
    index.forget("a")
    index.forget("never seen")
    assert index.match([1, 2, 3]) == {"b": 2}
    index.insert([1], "a")
    assert index.match([1, 2, 3]) == {"a": 1, "b": 2}


def test_nodes_that_come_and_go_for_ever_leave_nothing_behind():
    index = PrefixIndex(MIB)
    index.insert([1, 2], "stays")
    for number in range(1000):
        index.insert([10 + number, 1], f"pod-{number}")
        index.forget(f"pod-{number}")
    assert index.match([1, 2]) == {"stays": 2}
    assert len(index) < 100
    assert index.nodes == {"stays"}


def test_what_is_in_use_stays_and_the_index_never_exceeds_its_bytes():
    index = PrefixIndex(100 * ENTRY_BYTES)
    index.insert([1, 2, 3], "a")
    for number in range(10, 500):
        index.insert([number], "b")
        index.insert([1, 2, 3], "a")
        assert index.bytes_used <= index.max_bytes
    assert index.match([1, 2, 3]) == {"a": 3}
    assert index.match([499]) == {"b": 1}
    assert index.match([10]) == {}
    assert len(index) > 50


def test_a_node_that_was_not_sent_a_prefix_for_long_is_no_holder_though_others_use_it():
    index = PrefixIndex(100 * ENTRY_BYTES)
    index.insert([1, 2, 3], "a")
    for number in range(10, 200):
        index.insert([1, 2, 3], "b")
        index.insert([number], "b")
    assert index.match([1, 2, 3]) == {"b": 3}


def test_a_prompt_larger_than_a_generation_keeps_its_start():
    index = PrefixIndex(10 * ENTRY_BYTES)
    index.insert(list(range(50)), "a")
    assert index.match(list(range(50))) == {"a": 5}


def test_an_index_without_room_knows_nothing():
    index = PrefixIndex(0)
    index.insert([1, 2], "a")
    assert (index.match([1, 2]), index.bytes_used) == ({}, 0)


def test_many_nodes_cost_more_per_entry_and_stay_within_the_bound():
    index = PrefixIndex(200 * ENTRY_BYTES)
    for number in range(300):
        index.insert([number, number + 1000], f"n{number}")
    assert index.bytes_used <= index.max_bytes
    assert len(index) < 200


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c"]),
            st.lists(st.integers(0, 1), min_size=1, max_size=6) | st.none(),
        ),
        max_size=40,
    )
)
def test_the_index_agrees_with_a_plain_model_of_prefixes(history):
    index = PrefixIndex(MIB)
    model: dict[str, set[tuple[int, ...]]] = {}
    for node, path in history:
        if path is None:
            index.forget(node)
            model.pop(node, None)
        else:
            index.insert(chained(path), node)
            model.setdefault(node, set()).update(tuple(path[:n]) for n in range(1, len(path) + 1))
    for probe in ([0] * 6, [0, 1, 0, 1, 0, 1], [1] * 6, [1, 1, 0, 0, 1, 0]):
        expected = {
            node: max(n for n in range(7) if n == 0 or tuple(probe[:n]) in held)
            for node, held in model.items()
        }
        matched = index.match(chained(probe))
        assert matched == {node: depth for node, depth in expected.items() if depth}


PATHS = st.lists(st.integers(0, 1), min_size=1, max_size=8)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), PATHS | st.none()), max_size=60),
    st.integers(0, 60),
)
def test_a_start_is_never_forgotten_before_what_continues_it_nor_what_was_used_just_now(
    history, entries
):
    index = PrefixIndex(entries * ENTRY_BYTES)
    used: dict[tuple[str, tuple[int, ...]], int] = {}
    noted = 0  # blocks, over all of history
    for node, path in history:
        if path is None:
            index.forget(node)
            used = {key: since for key, since in used.items() if key[0] != node}
            continue
        index.insert(chained(path), node)
        noted += len(path)
        used[node, tuple(path)] = noted
        assert index.bytes_used <= index.max_bytes
        for (name, known), since in used.items():
            blocks = chained(known)
            depth = index.match(blocks).get(name, 0)
            # Asked for one by one: it holds the first `depth` and nothing that goes on from there.
            alone = [name in index.match([block]) for block in blocks]
            assert alone == [place < depth for place in range(len(blocks))]
            if noted - since + len(known) <= entries // 2:
                assert depth == len(blocks)


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), PATHS), max_size=30),
    PATHS,
    st.lists(st.lists(st.sampled_from("abcdx"), unique=True), min_size=1, max_size=4),
)
def test_any_nodes_are_told_how_far_they_hold_a_prefix_in_their_order(history, asked, orders):
    index = PrefixIndex(MIB)
    for node, path in history:
        index.insert(chained(path), node)
        for nodes in orders:
            matched = index.match(chained(asked))
            depths, different = index.depths(chained(asked), nodes)
            assert depths == [matched.get(n, 0) for n in nodes]
            assert [0, *different] == sorted({0, *different, *depths})
            assert [0, *different][-1] == max(depths, default=0)


def chained(path: Sequence[int]) -> list[int]:
    return [hash(tuple(path[:n])) for n in range(1, len(path) + 1)]


@pytest.mark.parametrize("size", [1, 64, 2047, 2048, 2049, 5000, 40_000])
def test_landmarks_name_every_two_kibibytes_and_the_end(size):
    text = bytes(range(256)) * 200
    ends = sorted({*range(2048, size + 1, 2048), size})
    assert landmarks(block_hashes(text[:size])) == [block_hashes(text[:end])[-1] for end in ends]


def test_landmarks_are_bounded():
    assert len(landmarks(block_hashes(b"a" * MIB))) == 64
    assert landmarks([]) == []


def test_nodes_may_swap_their_names_and_keep_what_they_hold():
    index = PrefixIndex(MIB)
    index.insert([1, 2], "a")
    index.insert([1], "b")
    index.rename({"a": "b", "b": "a"})
    assert index.match([1, 2]) == {"b": 2, "a": 1}
    index.rename({"b": "c", "nobody": "a"})
    assert index.match([1, 2]) == {"c": 2}
