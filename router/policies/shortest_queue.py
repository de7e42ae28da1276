"""The candidate with the least in flight."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from router.core.facts import RequestFacts
from router.core.worker import Worker
from router.policies.base import Choice, Policy, PolicyConfig, least, loads, policy


@policy("shortest_queue")
class ShortestQueuePolicy(Policy):
    """Reasons: `only_candidate`, `least_loaded`. Equal ones: any of them."""

    def __init__(self, config: PolicyConfig, random: Random) -> None:
        self._random = random

    def choose(self, request: RequestFacts, candidates: Sequence[Worker], now: float) -> Choice:
        in_flight = loads(candidates)
        worker = candidates[least(in_flight, self._random)]
        reason = "least_loaded" if len(candidates) > 1 else "only_candidate"
        return Choice(worker, reason, {"in_flight": in_flight}, in_flight)
