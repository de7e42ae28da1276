"""How fast each worker computes input, learned from how long first tokens took.

A sample is the uncached input that had to be computed before a first token, divided by the time
from the router to that token. The rate of a worker is the median of its last samples, weighted by
their input: long prompts say more than short ones, whose time is mostly the way there and back,
and a few wild samples move nothing. A worker with too few samples has the rate of the fleet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from statistics import median
from typing import Final

# A first guess. It matters only until something is known: with one rate for all, the worker with
# the least work is the same at any rate.
PRIOR_TOKENS_PER_SECOND: Final = 10_000.0
WINDOW: Final = 64  # samples kept of each worker
ENOUGH: Final = 8  # samples from which a worker has a rate of its own
EVERY: Final = 8  # samples after which a rate is worked out anew
MOST_WORKERS: Final = 4096  # also those of other replicas


class PrefillRates:
    """Tokens per second of each node."""

    def __init__(self) -> None:
        self.fleet = PRIOR_TOKENS_PER_SECOND
        self.rates: dict[str, float] = {}
        self._samples: dict[str, deque[tuple[float, float]]] = {}
        self._new: dict[str, int] = {}
        self._asked: list[str] | None = None
        self._answer: list[float] = []

    def of(self, nodes: list[str]) -> list[float]:
        """The rate of each: its own, else the fleet's. Cheap where nothing has changed."""
        if nodes != self._asked:
            known, fleet = self.rates.get, self.fleet
            self._asked = nodes
            self._answer = [known(node, fleet) for node in nodes]
        return self._answer

    def observe(self, node: str, tokens: float, seconds: float) -> None:
        """`node` gave a first token `seconds` after it was asked, with `tokens` to compute first."""
        if tokens <= 0 or seconds <= 0:
            return
        samples = self._samples.get(node)
        if samples is None:
            if len(self._samples) >= MOST_WORKERS:
                self.forget(next(iter(self._samples)))
            samples = self._samples[node] = deque(maxlen=WINDOW)
        samples.append((tokens / seconds, tokens))
        self._new[node] = new = self._new.get(node, 0) + 1
        if new >= EVERY and len(samples) >= ENOUGH:
            self._new[node] = 0
            self.rates[node] = round(weighted_median(samples), 1)
            self.fleet = median(self.rates.values())
            self._asked = None

    def forget(self, node: str) -> None:
        """The worker is another one now, or gone."""
        self.rates.pop(node, None)
        self._samples.pop(node, None)
        self._new.pop(node, None)
        self._asked = None


def weighted_median(samples: Iterable[tuple[float, float]]) -> float:
    """The value below which half of the weight lies. `samples` are (value, weight), not empty."""
    ordered = sorted(samples)
    half = sum(weight for _, weight in ordered) / 2
    below = 0.0
    for value, weight in ordered:
        below += weight
        if below >= half:
            return value
    return ordered[-1][0]
