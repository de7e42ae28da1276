"""The receipt of a decision: the candidates with the numbers that were compared, for the trace."""

from __future__ import annotations

from collections.abc import Sequence

from router.core.worker import Worker
from router.policies.base import Choice, Ranks
from tracking.trace import Candidate, Decision, DecisionQuality


def receipt(
    choice: Choice,
    candidates: Sequence[Worker],
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
    count = len(candidates)
    chosen = candidates.index(choice.worker)
    columns = choice.columns
    shown = []
    for i in _best(chosen, choice.ranks, count if limit is None else limit):
        worker: Worker = candidates[i]
        numbers = {}
        for name, column in columns.items():
            number = column[i]
            if number is not None:
                numbers[name] = number
        shown.append(Candidate(worker.node_id, worker.url, i == chosen, numbers))
    return Decision(
        policy,
        choice.reason,
        "fallback" if choice.fallback else quality,
        count,
        shown,
        load_age_seconds,
        decision_seconds,
        regret(choice),
    )


def _best(chosen: int, ranks: Ranks, limit: int) -> list[int]:
    """The chosen one, then the best of the other candidates from the best down."""
    others = [i for i in range(len(ranks)) if i != chosen]
    left = max(0, limit - 1)
    if left < len(others):
        worst = sorted(ranks)[left]
        others = [i for i in others if ranks[i] <= worst]
        others = sorted(others, key=ranks.__getitem__)[:left]
    elif len(others) > 1:
        others.sort(key=ranks.__getitem__)
    return [chosen, *others]


def regret(choice: Choice) -> int | None:
    """Input tokens that are cached at the best candidate, as far as we know, and not at the one
    chosen: what the choice gave up for a shorter wait. None where nothing is known of caches."""
    best, ours = choice.best_cached_tokens, choice.predicted_cached_tokens
    return None if best is None or ours is None else best - ours
