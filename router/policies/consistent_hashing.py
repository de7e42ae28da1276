"""The worker that a key belongs to, on a circle of all workers (`core/ring.py`).

The key is `X-SMG-Routing-Key`, else the session (`X-Session-Id`, or SGLang's `session_params`).
`X-SMG-Target-Worker` goes before any key and names a worker: by its place among the registered
ones, counted from 0, by its `node_id` or its URL; when it is no candidate the request is refused.
A worker that is away is passed over, and gets its own keys back when it returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from router.core.facts import RequestFacts
from router.core.ring import Ring, key_hash
from router.core.worker import Worker
from router.policies.base import Choice, NoTarget, Policy, PolicyConfig, loads, policy


@policy("consistent_hashing")
class ConsistentHashingPolicy(Policy):
    """Reasons: `only_candidate`, `target_worker`, `routing_key`, `session`; `random` without any
    of these. Raises NoTarget for a target that cannot be used."""

    def __init__(self, config: PolicyConfig, random: Random) -> None:
        self._random = random
        self._ring = Ring()

    def choose(self, request: RequestFacts, candidates: Sequence[Worker], now: float) -> Choice:
        places = {worker.target: place for place, worker in enumerate(candidates)}
        self._ring.cover(places)
        chosen, reason = self._pick(request, candidates, places)
        in_flight = loads(candidates)
        return Choice(
            candidates[chosen],
            reason if len(candidates) > 1 else "only_candidate",
            {"in_flight": in_flight},
            in_flight,
            fallback=reason == "random",
        )

    def _pick(
        self, request: RequestFacts, candidates: Sequence[Worker], places: dict[str, int]
    ) -> tuple[int, str]:
        target = request.target_worker
        if target is not None:
            for place, worker in enumerate(candidates):
                if target in (worker.node_id, worker.target, worker.url):
                    return place, "target_worker"
            raise NoTarget(f"X-SMG-Target-Worker: {target} cannot be used now")
        key, reason = request.routing_key, "routing_key"
        if key is None:
            key, reason = request.session_id, "session"
        if key is None:
            return self._random.randrange(len(candidates)), "random"
        at = next(url for url in self._ring.walk(key_hash(key)) if url in places)
        return places[at], reason
