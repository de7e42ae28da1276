"""Any candidate, each with the same chance."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from router.core.facts import RequestFacts
from router.core.worker import Worker
from router.policies.base import Choice, Policy, PolicyConfig, loads, policy


@policy("random")
class RandomPolicy(Policy):
    """Reasons: `only_candidate`, `random`."""

    def __init__(self, config: PolicyConfig, random: Random) -> None:
        self._random = random

    def choose(self, request: RequestFacts, candidates: Sequence[Worker], now: float) -> Choice:
        in_flight = loads(candidates)
        worker = self._random.choice(candidates)
        reason = "random" if len(candidates) > 1 else "only_candidate"
        return Choice(worker, reason, {"in_flight": in_flight}, in_flight)
