"""Requests of similar length go to the same worker; lengths are cut so that all have equal work.

What was sent in the last `bucket_adjust_interval_secs`, in bytes of text, is kept for each worker.
When the candidates differ too much in it (both thresholds, as in `cache_aware`, but in bytes),
the one with least gets the request. Otherwise lengths are cut into one range for each candidate, in
the order of registration, short ones first, and the request goes where its length falls. The cuts
are made anew once an interval, and when the number of candidates changes, so that each range held
the same number of bytes lately.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Sequence
from random import Random
from typing import Final

from router.core.facts import RequestFacts
from router.core.worker import Worker
from router.policies.base import (
    Choice,
    Policy,
    PolicyConfig,
    bearable_load,
    least,
    loads,
    policy,
)

FIRST_WIDTH: Final = 4096  # bytes over all ranges but the last, before anything is known
MOST_REQUESTS: Final = 2048  # kept of an interval


@policy("bucket")
class BucketPolicy(Policy):
    """Reasons: `only_candidate`, `bucket`, `imbalanced`."""

    def __init__(self, config: PolicyConfig, random: Random) -> None:
        self._config = config
        self._random = random
        self._interval = config.bucket_adjust_interval_secs
        self._recent: deque[tuple[float, int, str]] = deque()  # when, bytes, URL
        self._sent: Counter[str] = Counter()  # bytes by URL, of `_recent`
        self._cuts: list[int] = []  # the longest text of each range but the last
        self._cut_at = 0.0

    def choose(self, request: RequestFacts, candidates: Sequence[Worker], now: float) -> Choice:
        self._forget_old(now)
        if len(self._cuts) != len(candidates) - 1 or now - self._cut_at >= self._interval:
            self._cuts = self._cut(len(candidates))
            self._cut_at = now
        sent = [self._sent[worker.target] for worker in candidates]
        if bearable_load(sent, self._config) is not None:
            chosen, reason = least(sent, self._random), "imbalanced"
        else:
            chosen, reason = bisect_left(self._cuts, request.text_bytes), "bucket"
        worker = candidates[chosen]
        self._recent.append((now, request.text_bytes, worker.target))
        self._sent[worker.target] += request.text_bytes
        return Choice(
            worker,
            reason if len(candidates) > 1 else "only_candidate",
            {
                "in_flight": loads(candidates),
                "recent_bytes": sent,
                "longest_bytes": [*self._cuts, None],
            },
            sent,
        )

    def _cut(self, count: int) -> list[int]:
        lengths = sorted(length for _, length, _ in self._recent)
        total = sum(lengths)
        if not total:
            return [FIRST_WIDTH * (number + 1) // count for number in range(count - 1)]
        cuts: list[int] = []
        below = 0
        for length in lengths:
            below += length
            while len(cuts) < count - 1 and below * count >= total * (len(cuts) + 1):
                cuts.append(length)
        return cuts

    def _forget_old(self, now: float) -> None:
        recent = self._recent
        while recent and (now - recent[0][0] > self._interval or len(recent) >= MOST_REQUESTS):
            _, length, url = recent.popleft()
            self._sent[url] -= length
            if not self._sent[url]:
                del self._sent[url]
