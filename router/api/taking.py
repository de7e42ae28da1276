"""Taking a worker for an attempt: what the policy chooses, with a permit, and why in words."""

from __future__ import annotations

from collections.abc import Collection

from router.api.forwarding import Forwarding
from router.api.leg import Leg
from router.core.facts import RequestFacts
from router.core.rounding import rounded
from router.core.worker import Worker
from router.errors import NoWorker
from router.fleet import Group
from router.policies.base import Choice, NoTarget
from router.policies.receipt import receipt


def take_worker(
    shared: Forwarding, group: Group, facts: RequestFacts, tried: Collection[Worker], now: float
) -> Leg:
    """One of `group`, with its permit. Raises NoWorker."""
    candidates = group.candidates(now, tried)
    if not candidates:
        raise NoWorker(group.why_none())
    policy, others = group.policy, shared.fleet.others
    try:
        choice: Choice = policy.choose(facts, candidates, now)
    except NoTarget as reason:
        raise NoWorker(str(reason)) from None
    worker = choice.worker
    queue_size = worker.load
    permit = worker.begin(now)
    if permit is None:  # its breaker's last probe was taken between the two questions
        raise NoWorker(group.why_none())
    limit = shared.settings.receipt_candidates
    decision = receipt(
        choice,
        candidates,
        policy.name,
        rounded(shared.clock.now() - now),
        None if limit is None else limit + 1,
        rounded(age) if (age := others.age_seconds(now)) else 0.0,
        others.quality(now),
    )
    series = shared.metrics.worker(worker)
    series.chose(decision)
    return Leg(choice, permit, series, decision, queue_size)
