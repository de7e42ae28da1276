"""Each candidate in turn.

The turn belongs to the candidate that was chosen longest ago, not to an index: an index over a
list that changes skips some workers and favours others.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from random import Random
from typing import Final

from router.core.facts import RequestFacts
from router.core.worker import Worker
from router.policies.base import Choice, Policy, PolicyConfig, loads, policy

NEVER: Final = -1
SPARE_TURNS: Final = 1024  # workers remembered beyond the candidates, for when they come back


@policy("round_robin")
class RoundRobinPolicy(Policy):
    """Reasons: `only_candidate`, `round_robin`. A worker without a turn yet goes first."""

    def __init__(self, config: PolicyConfig, random: Random) -> None:
        self._turns = count()
        self._last: dict[str, int] = {}

    def choose(self, request: RequestFacts, candidates: Sequence[Worker], now: float) -> Choice:
        last = self._last
        turns = [last.get(worker.node_id, NEVER) for worker in candidates]
        worker = candidates[turns.index(min(turns))]
        if len(last) > len(candidates) + SPARE_TURNS:
            last = self._last = dict(zip((w.node_id for w in candidates), turns, strict=True))
        last[worker.node_id] = next(self._turns)
        reason = "round_robin" if len(candidates) > 1 else "only_candidate"
        return Choice(worker, reason, {"in_flight": loads(candidates), "last_turn": turns}, turns)

    def forget(self, node_id: str) -> None:
        self._last.pop(node_id, None)
