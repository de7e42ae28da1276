"""What this replica believes of the workers' prefix caches, and how it learns that it is wrong.

A worker that was sent a prompt holds it: the policy notes that itself, and here it becomes news for
the other replicas. A cache is lost when it is flushed through a router, when its worker's process
went away, or when the engine itself denies, several times in a row, nearly all of what was expected
there. Then nothing is known of that worker until it is sent prompts again.

An engine that reports less than expected for one prompt has evicted that prefix, and holds it again
by the time it says so: what is learned from that is how long it keeps one (`core/evictions.py`). One
that never reports leaves hits to be guessed: that is said once, with the flag that changes it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from router.core.ages import TICK
from router.core.engines import engine_named
from router.core.prefix import Sent
from router.core.prefix_news import PrefixNews
from router.core.worker import Worker
from router.policies.base import Policy

log = logging.getLogger("router.caches")

REFRESH: Final = 0.25  # of the age at which the first worker drops a prefix
EXPECTED_TOKENS: Final = 256  # engines cache whole pages; a smaller miss says nothing
DENIED_SHARE: Final = 0.1  # of what was expected, or less, was there
DENIALS: Final = 4  # in a row
SILENT_ANSWERS: Final = 20  # with tokens counted and none said to be cached, until it is told


class Caches:
    """`news` is None where there is nobody to tell, or where no policy knows prefixes."""

    def __init__(self, policies: Sequence[Policy], news: PrefixNews | None = None) -> None:
        self._policies = policies
        self.news = news
        self._refreshed: Counter[int] = Counter()  # policy -> when, in the time of its index
        self._denials: dict[Worker, int] = {}
        self._silent: dict[Worker, int] = {}

    def routed(self, blocks: Sequence[int], worker: Worker) -> None:
        """The policy sent a prompt there."""
        if self.news is not None:
            if self._time_to_refresh():
                self.news.refresh()
            self.news.routed(blocks, worker.digest)

    def not_computed(self, worker: Worker, sent: Sent | None) -> None:
        """The prompt that was sent there failed before the worker got to it."""
        blocks = [] if sent is None else sent.not_computed()
        if blocks and self.news is not None:
            self.news.take_back(blocks, worker.digest)

    def _time_to_refresh(self) -> bool:
        """Has so much been used that what others were told of would soon count as gone there?"""
        due = False
        for number, policy in enumerate(self._policies):
            index = policy.prefixes
            if (
                index is not None
                and index.ages.now - self._refreshed[number]
                > TICK * REFRESH * index.evictions.least
            ):
                self._refreshed[number] = index.ages.now
                due = True
        return due

    def reported(
        self,
        worker: Worker,
        expected_tokens: int | None,
        cached_tokens: int,
        input_tokens: int | None = None,
        sent: Sent | None = None,
    ) -> None:
        """The engine said how much of a prompt it found in its cache."""
        self._silent[worker] = SILENT_ANSWERS
        if sent is not None and input_tokens:
            sent.found(cached_tokens / input_tokens)
        if expected_tokens is None or expected_tokens < EXPECTED_TOKENS:
            return
        if cached_tokens > expected_tokens * DENIED_SHARE:
            self._denials.pop(worker, None)
            return
        denials = self._denials.get(worker, 0) + 1
        self._denials[worker] = denials
        if denials >= DENIALS:
            self.lost(worker, f"{denials} prompts in a row were not there")

    def unreported(self, worker: Worker) -> None:
        """The engine counted a prompt's tokens and did not say how many were cached."""
        silent = self._silent.get(worker, 0)
        if silent >= SILENT_ANSWERS:  # told, or it does report, if not on every route
            return
        self._silent[worker] = silent + 1
        if silent + 1 == SILENT_ANSWERS:
            flag = engine_named(worker.engine).cache_report_flag
            log.warning(
                "worker %s (%s) reports no cached tokens: its cache hits are guessed%s",
                worker.node_id,
                worker.url,
                "" if flag is None else f"; start {worker.engine} with {flag}",
            )

    def lost(self, worker: Worker, reason: str) -> None:
        """The worker holds nothing any more; the other replicas are told."""
        log.info("cache of worker %s (%s) is empty: %s", worker.node_id, worker.url, reason)
        self.forget(worker)
        if self.news is not None:
            self.news.lost(worker.digest)

    def heard(self, worker: Worker, blocks: Sequence[int]) -> None:
        """Another replica sent a prompt there that goes on like this; without blocks: it is lost."""
        if not blocks:
            self.forget(worker)
            return
        for policy in self._policies:
            if policy.prefixes is not None:
                policy.prefixes.insert(blocks, worker.node_id)

    def renamed(self, names: Mapping[str, str]) -> None:
        """Workers have other names: old -> new."""
        for policy in self._policies:
            if policy.prefixes is not None:
                policy.prefixes.rename(names)

    def forget(self, worker: Worker) -> None:
        """Nothing is known of this worker any more."""
        self._denials.pop(worker, None)
        self._silent.pop(worker, None)
        for policy in self._policies:
            policy.forget(worker.node_id)
