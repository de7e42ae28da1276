"""What workers' caches have dropped is learned from what engines report, and believed no longer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from math import inf, log2
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.ages import Ages
from router.core.blocks import BOUNDARIES, block_hashes
from router.core.evictions import ENOUGH, EVERY, STEPS, Evictions, Reports, step_of
from router.core.facts import RequestFacts
from router.core.prefix import ENTRY_BYTES, PrefixIndex
from router.policies.base import prefix_depths

WIDTH = 60  # blocks of a prompt


class Cache:
    """An engine's: so many blocks, what was used longest ago is dropped."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def serve(self, blocks: Sequence[int]) -> int:
        """How many blocks were there."""
        found = next(
            (n for n, block in enumerate(blocks) if block not in self._blocks), len(blocks)
        )
        for block in reversed(blocks):
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self.size:
            self._blocks.popitem(last=False)
        return found


def prompt(name: object) -> RequestFacts:
    text = (f"{name} " * BOUNDARIES[WIDTH]).encode()[: BOUNDARIES[WIDTH]]
    return RequestFacts(
        route="/generate",
        blocks=block_hashes(text),
        text_bytes=len(text),
        input_tokens=len(text) // 4,
    )


PROMPTS = [prompt(number) for number in range(200)]


def use(
    index: PrefixIndex, caches: dict[str, Cache], count: int, chance: Random
) -> tuple[float, float]:
    """Prompts, popular ones more often, each at its home; how much was expected of what was sent
    before, and how much was there, in prompts."""
    expected = there = 0.0
    nodes = [*caches]
    for _ in range(count):
        number = min(int(chance.expovariate(1 / 40)), len(PROMPTS) - 1)
        asked, node = PROMPTS[number], nodes[number % len(nodes)]
        depths = prefix_depths(index, asked, nodes)
        at = nodes.index(node)
        expected += depths.parts[depths.kept[at]]
        sent = index.send(asked, node, depths.sent[at], depths.marks)
        found = BOUNDARIES[caches[node].serve(asked.blocks)] / asked.text_bytes
        sent.found(found)
        there += found
    return expected, there


@pytest.mark.parametrize("prompts_kept", [3, 10, 30])
def test_what_is_expected_of_a_small_cache_comes_close_to_what_is_there(prompts_kept: int) -> None:
    index, chance = PrefixIndex(1 << 24), Random(3)
    caches = {"a": Cache(prompts_kept * WIDTH)}
    use(index, caches, 500, chance)
    expected, there = use(index, caches, 1000, chance)
    assert expected == pytest.approx(there, abs=60)
    assert there < 900  # else there was nothing to learn


def test_workers_of_different_sizes_have_limits_of_their_own() -> None:
    index, chance = PrefixIndex(1 << 24), Random(4)
    use(index, {"small": Cache(5 * WIDTH), "large": Cache(1000 * WIDTH)}, 1500, chance)
    limits = index.evictions.limits
    assert limits["small"] < limits["large"] == inf


def test_a_cache_that_drops_nothing_has_no_limit() -> None:
    index, chance = PrefixIndex(1 << 24), Random(5)
    use(index, {"a": Cache(1000 * WIDTH)}, 500, chance)
    assert index.evictions.least == inf
    sent = [WIDTH]
    assert index.kept(["a"], sent, index.ages.marks(PROMPTS[0].blocks)) is sent


def test_odd_reports_move_nothing_and_a_worker_of_which_little_is_known_has_the_fleets_limit() -> (
    None
):
    known = Evictions()
    for number in range(10 * EVERY):
        known.reported("a", [(10, 4)], 4 if number % 5 == 0 else 0)  # computed side by side
        known.reported("a", [(1000, 4)], 0)
        known.reported("a", [(9000, 4)], 4)
    assert 1000 < known.limits["a"] <= 9000
    assert "b" not in known.limits
    assert 1000 < known.fleet <= 9000


def test_a_limit_follows_a_cache_that_becomes_larger_and_a_forgotten_worker_has_none() -> None:
    known = Evictions()
    for _ in range(ENOUGH):
        known.reported("a", [(1000, 8)], 8)
    assert known.limits["a"] <= 1000
    for _ in range(20 * ENOUGH):
        known.reported("a", [(1000, 8)], 0)
    assert known.limits["a"] == inf
    known.forget("a")
    assert known.limits == {}


@given(st.integers(0, 2**40))
def test_ages_have_two_steps_to_the_doubling(age: int) -> None:
    assert step_of(age) == min(STEPS - 1, int(2 * log2(age + 1)))


@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(0, STEPS - 1), st.integers(0, 3), st.integers(0, 3)), max_size=4
        ),
        max_size=40,
    ),
    st.integers(1, 9),
)
def test_a_limit_is_the_highest_that_the_fewest_blocks_contradict(reported, every) -> None:
    reports, blocks = Reports(), []
    for number, told in enumerate(reported):
        reports.add(told)
        blocks += told
        if number % every == 0:
            wrong = [
                sum(gone if step < limit else found for step, found, gone in blocks)
                for limit in range(STEPS + 1)
            ]
            best = max(limit for limit in range(STEPS + 1) if wrong[limit] == min(wrong))
            assert reports.limit() == (inf if best == STEPS else 2 ** (best / 2) - 1)


def test_what_nobody_can_have_any_more_is_not_held_by_those_it_was_sent_to_long_ago() -> None:
    index, old = PrefixIndex(1 << 24), PROMPTS[0]
    index.insert(old.blocks, "before")
    for _ in range(EVERY):
        index.evictions.reported("before", [(5 * WIDTH, 8)], 8)
    for other in PROMPTS[1:50]:
        index.insert(other.blocks, "now")
    index.insert(old.blocks, "now")
    held = index.match(old.blocks)
    assert held["now"] == len(old.blocks)
    assert held.get("before", 0) < len(old.blocks)


def test_ages_are_bounded_and_the_end_of_a_prefix_says_that_its_start_was_used() -> None:
    ages = Ages(10_000)
    for asked in PROMPTS:
        ages.use(len(asked.blocks), ages.marks(asked.blocks).blocks, True)
    assert len(ages._young) + len(ages._old) <= 10_000 // 8
    whole = PROMPTS[-1].blocks
    before = ages.now
    for asked in PROMPTS[:20]:
        ages.use(len(asked.blocks), ages.marks(asked.blocks).blocks, True)
    assert ages.marks(whole).since(before + 2, len(whole)) < len(whole) // 2
    end = whole[len(whole) // 2 :]
    ages.use(len(end), ages.marks(end).blocks, False)
    assert ages.marks(whole).since(before + 2, len(whole)) == len(whole)


def test_a_prompt_that_was_not_computed_is_taken_back_but_for_what_others_sent_there() -> None:
    index, asked = PrefixIndex(1 << 24), PROMPTS[0]
    start = asked.blocks[:20]
    index.insert(start, "a")
    sent = index.send(asked, "a", 20, index.ages.marks(asked.blocks))
    assert index.match(asked.blocks) == {"a": len(asked.blocks)}
    taken = sent.not_computed()
    left = index.match(asked.blocks)["a"]
    assert 20 <= left == len(asked.blocks) - len(taken) < len(asked.blocks)

    sent = index.send(asked, "a", left, index.ages.marks(asked.blocks))
    index.insert(asked.blocks[:40], "a")
    sent.not_computed()
    assert 40 <= index.match(asked.blocks)["a"] < len(asked.blocks)

    sent = index.send(asked, "a", left, index.ages.marks(asked.blocks))
    index.insert(asked.blocks, "a")
    assert sent.not_computed() == ()
    assert index.match(asked.blocks) == {"a": len(asked.blocks)}


def test_an_index_without_room_remembers_no_ages() -> None:
    index, asked = PrefixIndex(ENTRY_BYTES), PROMPTS[0]
    sent = index.send(asked, "a", 0, index.ages.marks(asked.blocks))
    sent.found(0.5)
    assert sent.not_computed() == ()


def test_the_facts_of_a_request_are_not_changed() -> None:
    index, asked = PrefixIndex(1 << 24), prompt("as it was")
    before = [*asked.blocks], asked.text_bytes
    index.send(asked, "a", 0, index.ages.marks(asked.blocks)).not_computed()
    assert (asked.blocks, asked.text_bytes) == before
