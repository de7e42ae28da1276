"""The worker that most likely has the start of the prompt in its cache, unless it is overloaded.

A worker is *overloaded* when it has more in flight than the least loaded candidate by both
thresholds: `load - least > balance_abs_threshold` and `load > balance_rel_threshold * least`.

1. Nobody is overloaded: the longest prefix wins, if it is more than `cache_threshold` of the
   prompt (`prefix_match`); of several equal ones the least loaded.
2. Somebody is overloaded: of the workers that hold more than `cache_threshold` of the prompt and
   are not overloaded themselves, the least loaded (`prefix_spill`); of equal ones the longest
   prefix.
3. Otherwise the least loaded of all: `imbalanced` if somebody is overloaded, else `least_loaded`. A
   worker whose cache has dropped a prefix of the prompt counts as less loaded, `prefix_dropped`: computed
   again where it was it makes no second copy elsewhere, which would drop something else.

Every decision is remembered as the chosen worker's prefix. A worker that is away keeps its
prefixes; only `forget` takes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from router.core.facts import RequestFacts
from router.core.prefix import PrefixIndex
from router.core.worker import Worker
from router.policies.base import (
    Choice,
    Depths,
    Policy,
    PolicyConfig,
    Ranks,
    bearable_load,
    least,
    loads,
    node_ids,
    policy,
    prefix_depths,
)

# So much that no load outweighs the smallest step of a match, which has four digits.
MATCH_RANK: Final = 1e9
DROPPED_REQUESTS: Final = 4  # what having had the whole prompt once is worth, in requests in flight


@policy("cache_aware")
class CacheAwarePolicy(Policy):
    """Reasons: `only_candidate`, `prefix_match`, `prefix_spill`, `imbalanced`, `least_loaded`,
    `prefix_dropped`."""

    prefixes: PrefixIndex

    def __init__(self, config: PolicyConfig, random: Random) -> None:
        self._config = config
        self._random = random
        self.prefixes = PrefixIndex(config.max_tree_size)

    def choose(self, request: RequestFacts, candidates: Sequence[Worker], now: float) -> Choice:
        prefixes: PrefixIndex = self.prefixes
        in_flight = loads(candidates)
        nodes = node_ids(candidates)
        depths = prefix_depths(prefixes, request, nodes)
        matches = [depths.parts[depth] for depth in depths.kept]
        chosen, reason = _pick(in_flight, matches, depths, self._config, self._random)
        ranks: Ranks = in_flight
        if reason == "prefix_match" and len(candidates) > 2:  # of two the other one is next
            ranks = _by_match(in_flight, matches)
        predicted = hit_rate = best = None
        if request.blocks:
            hit_rate = matches[chosen]
            predicted = int(hit_rate * request.input_tokens)
            best = int(depths.longest * request.input_tokens)
        return Choice(
            candidates[chosen],
            reason if len(candidates) > 1 else "only_candidate",
            {"in_flight": in_flight, "prefix_match": matches},
            ranks,
            predicted,
            hit_rate,
            best,
            prefixes.send(request, nodes[chosen], depths.sent[chosen], depths.marks),
        )


def _pick(
    in_flight: list[int],
    matches: list[float],
    depths: Depths,
    config: PolicyConfig,
    random: Random,
) -> tuple[int, str]:
    bearable = bearable_load(in_flight, config)
    if bearable is not None:
        holders = [
            i
            for i, match in enumerate(matches)
            if match > config.cache_threshold and in_flight[i] <= bearable
        ]
        if holders:
            # A load is whole and a match at most 1, so a match only decides between equals.
            nearest = least([in_flight[i] - matches[i] / 2 for i in holders], random)
            return holders[nearest], "prefix_spill"
    else:
        longest = depths.longest
        if longest > config.cache_threshold:
            holders = [i for i, match in enumerate(matches) if match == longest]
            return holders[least([in_flight[i] for i in holders], random)], "prefix_match"
    reason = "least_loaded" if bearable is None else "imbalanced"
    if depths.kept is depths.sent:
        return least(in_flight, random), reason
    parts = depths.parts
    weighed = [
        load - DROPPED_REQUESTS * (parts[sent] - parts[kept])
        for load, sent, kept in zip(in_flight, depths.sent, depths.kept, strict=True)
    ]
    chosen = least(weighed, random)
    return chosen, "prefix_dropped" if weighed[chosen] < in_flight[chosen] else reason


def _by_match(in_flight: list[int], matches: list[float]) -> Ranks:
    ranks: list[float] = [*in_flight]
    for i, match in enumerate(matches):
        if match:
            ranks[i] -= MATCH_RANK * match
    return ranks
