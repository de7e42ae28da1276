"""The worker that the start of the prompt belongs to, unless it has more than its share of load.

The first `prefix_token_count` tokens are hashed, at four bytes a token and down to the end of a
block, onto a circle of all workers (`core/ring.py`). From there the first worker is taken that has
room: at most `prefix_hash_load_factor` times an even share of all requests, this one included
(consistent hashing with bounded loads, Mirrokni et al., 2016). Nothing is remembered: equal starts
go to the same worker at every replica, also when the replicas do not share anything.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from math import ceil
from random import Random

from router.core.blocks import BOUNDARIES
from router.core.facts import BYTES_PER_TOKEN, RequestFacts
from router.core.ring import Ring
from router.core.worker import Worker
from router.policies.base import Choice, Policy, PolicyConfig, least, loads, policy


@policy("prefix_hash")
class PrefixHashPolicy(Policy):
    """Reasons: `only_candidate`, `prefix_hash`; `prefix_spill` when workers before it had no room;
    `least_loaded` for a request without text."""

    def __init__(self, config: PolicyConfig, random: Random) -> None:
        self._random = random
        self._factor = config.prefix_hash_load_factor
        self._depth = bisect_right(BOUNDARIES, config.prefix_token_count * BYTES_PER_TOKEN) - 1
        self._ring = Ring()

    def choose(self, request: RequestFacts, candidates: Sequence[Worker], now: float) -> Choice:
        in_flight = loads(candidates)
        places = {worker.target: place for place, worker in enumerate(candidates)}
        self._ring.cover(places)
        turns: list[float | None] = [None] * len(candidates)
        if not request.blocks:
            chosen, reason = least(in_flight, self._random), "least_loaded"
        else:
            key = request.blocks[: max(1, self._depth)][-1]
            room = ceil(self._factor * (sum(in_flight) + 1) / len(candidates))
            chosen = self._walk(key, room, places, in_flight, turns)
            reason = "prefix_hash" if turns[chosen] == 1 else "prefix_spill"
        return Choice(
            candidates[chosen],
            reason if len(candidates) > 1 else "only_candidate",
            {"in_flight": in_flight, "ring_turn": turns},
            [
                load if turn is None else turn - len(candidates)
                for load, turn in zip(in_flight, turns, strict=True)
            ],
            fallback=reason == "least_loaded",
        )

    def _walk(
        self,
        key: int,
        room: int,
        places: dict[str, int],
        in_flight: list[int],
        turns: list[float | None],
    ) -> int:
        """The first candidate on the circle with room; `turns` is told who was looked at."""
        turn = 0
        place = 0
        for url in self._ring.walk(key):
            if url in places:
                place = places[url]
                turn += 1
                turns[place] = turn
                if in_flight[place] < room:  # somebody always is: not all can be above average
                    break
        return place
