"""Two candidates drawn at random; the one with less in flight."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from router.core.facts import RequestFacts
from router.core.worker import Worker
from router.policies.base import Choice, Column, Policy, PolicyConfig, loads, policy, two_of


@policy("power_of_two")
class PowerOfTwoPolicy(Policy):
    """Reasons: `only_candidate`, `two_choices`. Equal ones: the first drawn, which is random."""

    def __init__(self, config: PolicyConfig, random: Random) -> None:
        self._random = random

    def choose(self, request: RequestFacts, candidates: Sequence[Worker], now: float) -> Choice:
        in_flight = loads(candidates)
        if len(candidates) == 1:
            return Choice(candidates[0], "only_candidate", {"in_flight": in_flight}, in_flight)
        first, second = two_of(len(candidates), self._random)
        winner = first if in_flight[first] <= in_flight[second] else second
        drawn = [0.0] * len(candidates)
        drawn[first] = drawn[second] = 1.0
        # The two that were compared come before all others in the receipt.
        ranks = [load - 1e9 * was_drawn for load, was_drawn in zip(in_flight, drawn, strict=True)]
        columns: dict[str, Column] = {"in_flight": in_flight, "drawn": drawn}
        return Choice(candidates[winner], "two_choices", columns, ranks)
