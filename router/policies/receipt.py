"""The receipt of a decision: the candidates with the numbers that were compared, for the trace."""

from __future__ import annotations

from collections.abc import Sequence

from router.core.worker import Worker
from router.policies.base import Choice
from tracking.trace import Candidate, Decision, DecisionQuality


def receipt(
    choice: Choice,
    candidates: Sequence[Worker],
    *,
    policy: str,
    decision_seconds: float,
    limit: int | None,
    load_age_seconds: float = 0.0,
    quality: DecisionQuality = "exact",
) -> Decision:
    """What to write down of `choice` among `candidates`, the sequence it was made from.

    At most `limit` candidates (None: all), the chosen one first, then the others from the best
    down. The numbers are those the policy saw, whatever has happened since.
    """
    chosen = candidates.index(choice.worker)
    order = sorted(range(len(candidates)), key=choice.ranks.__getitem__)
    order.remove(chosen)
    order.insert(0, chosen)
    columns = choice.columns.items()
    shown = []
    for i in order if limit is None else order[: max(1, limit)]:
        worker, numbers = candidates[i], {}
        for name, column in columns:
            number = column[i]
            if number is not None:
                numbers[name] = number
        shown.append(Candidate(worker.node_id, worker.url, i == chosen, numbers))
    return Decision(
        policy,
        choice.reason,
        "fallback" if choice.fallback else quality,
        len(candidates),
        shown,
        load_age_seconds,
        decision_seconds,
        regret(choice),
    )


def regret(choice: Choice) -> int | None:
    """Input tokens that are cached at the best candidate, as far as we know, and not at the one
    chosen: what the choice gave up for a shorter wait. None where nothing is known of caches."""
    best, ours = choice.best_cached_tokens, choice.predicted_cached_tokens
    return None if best is None or ours is None else best - ours
