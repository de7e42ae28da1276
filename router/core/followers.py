"""How many requests a second come to a worker behind one that waits or is computed there.

They all wait longer by what that one adds. Nobody counts them: arrivals per second are the share of
time in which there is work, divided by the work that one request brings (the utilisation law), and
both are seen when a worker is chosen. Poisson arrivals see time averages, so the share of candidates
at which input waits stands for the share of time; and the last choices of one replica are a fair
sample of those of all.

A worker's part of the arrivals is its part of the work it was given lately, in this replica's last
`WINDOW` choices, with `PRIOR` typical requests more at each: where little is known all are alike.
And until much is known the fleet is thought to be idle.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

WINDOW: Final = 256
PRIOR: Final = 8
ANEW: Final = 32  # the share of the window, one by so much, that makes them be worked out anew


class Followers:
    """Input tokens are the unit of work, as far as they are expected not to be cached."""

    def __init__(self) -> None:
        self._tokens: dict[str, int] = {}  # node -> work it was given in the window
        self._window: deque[tuple[str, int, float]] = deque()
        self._total = 0
        self._busy = 0.0
        self._new = 0  # choices since they were worked out
        self._rates: Sequence[float] = ()
        self._per_token: list[float] = []

    def chosen(self, node: str, tokens: int, busy: float) -> None:
        """`node` was given so much work; `busy`, 0..1, is the part of candidates that had some."""
        work = self._tokens
        if len(self._window) == WINDOW:
            oldest, less, was_busy = self._window.popleft()
            self._total -= less
            self._busy -= was_busy
            left = work.pop(oldest, 0) - less
            if left:
                work[oldest] = left
        self._window.append((node, tokens, busy))
        self._total += tokens
        self._busy += busy
        work[node] = work.get(node, 0) + tokens
        self._new += 1

    def per_token(self, nodes: Sequence[str], rates: Sequence[float], rate: float) -> list[float]:
        """How many requests come to each of `nodes` while it computes one token.

        It computes its one of `rates` tokens per second, and the typical one `rate`. Of the same
        `rates` (the very object) it may be what was said a few choices ago.
        """
        if rates is not self._rates or self._new * ANEW >= len(self._window):
            scale, prior = self._scale(len(nodes), rate)
            work = self._tokens.get
            self._per_token = [
                scale * (work(node, 0) + prior) / own
                for node, own in zip(nodes, rates, strict=True)
            ]
            self._rates = rates
            self._new = 0
        return self._per_token

    def _scale(self, nodes: int, rate: float) -> tuple[float, float]:
        """(a, b) such that a * (tokens.get(node, 0) + b) requests per second come to a node."""
        choices = len(self._window)
        if not self._total:
            return 0.0, 0.0
        typical = self._total / choices
        busy = max(0.0, self._busy) / (choices + PRIOR)
        nodes = max(nodes, len(self._tokens))
        per_token = busy * rate * nodes / (typical * typical * (choices + PRIOR * nodes))
        return per_token, PRIOR * typical
