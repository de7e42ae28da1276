"""Each worker with a fixed probability.

`policy_weights` gives workers their weights, by `node_id`, by URL or by port; a candidate is chosen
with its share of the weights of all candidates. Without any weights all are equal. Where some are
given, a worker without one gets a request only while no worker that has one is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from router.core.facts import RequestFacts
from router.core.worker import Worker, WorkerUrlError, normalise_worker_url
from router.policies.base import Choice, Policy, PolicyConfig, loads, policy


@policy("weighted")
class WeightedPolicy(Policy):
    """Reasons: `only_candidate`, `weighted`; `unweighted` when no candidate has a weight."""

    def __init__(self, config: PolicyConfig, random: Random) -> None:
        self._random = random
        self._weights = {_name(key): weight for key, weight in config.policy_weights.items()}

    def choose(self, request: RequestFacts, candidates: Sequence[Worker], now: float) -> Choice:
        weights = [self._weight(worker) for worker in candidates]
        reason = "weighted"
        drawn = weights
        if not any(weights):
            reason = "unweighted"
            drawn = [1.0] * len(candidates)
        (chosen,) = self._random.choices(range(len(candidates)), drawn)
        return Choice(
            candidates[chosen],
            reason if len(candidates) > 1 else "only_candidate",
            {"in_flight": loads(candidates), "weight": weights},
            [-weight for weight in weights],
            fallback=reason == "unweighted",
        )

    def _weight(self, worker: Worker) -> float:
        weights = self._weights
        if not weights:
            return 1.0
        for name in (worker.node_id, worker.url.rstrip("/"), str(worker.port)):
            if name in weights:
                return weights[name]
        return 0.0


@policy("fixed_probability")
class FixedProbabilityPolicy(WeightedPolicy):
    """`weighted` under the name that the user's scripts give it."""


def _name(key: str) -> str:
    """A URL as workers have it, anything else as it is."""
    try:
        return normalise_worker_url(key).rstrip("/")
    except WorkerUrlError:
        return key
