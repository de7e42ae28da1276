"""What requests go to: a worker itself, or each of its data-parallel ranks where they count.

An engine says how many ranks it has when it is asked what it serves. They are its targets then, and
follow it; when it is started again with another number, those it has no more are taken out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from router.caches import Caches
from router.core.breaker import Breaker, BreakerSettings
from router.core.ranks import Rank
from router.core.worker import Change, Worker
from router.fleet import Fleet
from router.member import Member
from router.metrics import Metrics
from router.tasks import Tasks
from router.upstream.pools import Pools

log = logging.getLogger("router")

POLL_SECONDS: Final = 0.05  # how late the end of a rank's last request is noticed
WORSE: Final = ("unhealthy", "open")  # states that are told as warnings


class Targets:
    """Keeps the targets of members, and the fleet with them. `dp_size` is the number of ranks of engines
    that do not say it themselves."""

    def __init__(
        self,
        breaker: BreakerSettings,
        dp_size: int | None,
        *,
        fleet: Fleet,
        caches: Caches,
        pools: Pools,
        metrics: Metrics,
        tasks: Tasks,
    ) -> None:
        self._breaker = breaker
        self._dp_size = dp_size
        self._fleet = fleet
        self._caches = caches
        self._pools = pools
        self._metrics = metrics
        self._tasks = tasks

    def learned(self, member: Member, members: Sequence[Member]) -> None:
        """The engine of `member` has said what it is. `members`: all in the fleet, in their order."""
        if member.dp_aware:
            self._split(member, members)
        member.asked.set()
        member.told_ranks()

    def join(self, member: Member) -> None:
        for target in member.targets:
            self._fleet.add(target)

    def leave(self, member: Member) -> None:
        for target in member.targets:
            self._fleet.remove(target)
            self._caches.forget(target)

    def lost(self, member: Member, reason: str) -> None:
        """All that the worker had cached is gone, at each of its ranks."""
        for target in member.targets:
            self._caches.lost(target, reason)

    def forget(self, member: Member) -> None:
        """Nothing runs there any more, and nothing will."""
        for worker in member.everything:
            self._forget(worker)

    def _split(self, member: Member, members: Sequence[Member]) -> None:
        size = self._size(member)
        before = member.targets
        if size == 1:
            member.targets = [member.worker]
        else:
            known = {rank.rank: rank for rank in member.ranks}
            member.targets = [known.get(n) or self._rank(member.worker, n) for n in range(size)]
        if member.targets == before:
            return
        if size > 1:
            worker = member.worker
            log.info("worker %s (%s): %d data-parallel ranks", worker.node_id, worker.url, size)
        for target in before:
            if target not in member.targets:
                self._part(target, joined=member.joined)
        if member.joined:
            for target in member.targets:
                if target not in before:
                    self._fleet.add(target)
            self._fleet.arrange(target for one in members for target in one.targets)

    def _size(self, member: Member) -> int:
        worker = member.worker
        size = worker.dp_size or self._dp_size
        if size is None and not member.asked.is_set():
            log.warning(
                "worker %s (%s) does not say how many data-parallel ranks it has, and there is no "
                "--dp-size: it is one target",
                worker.node_id,
                worker.url,
            )
        return size or 1

    def _rank(self, worker: Worker, number: int) -> Rank:
        rank = Rank(worker, number, Breaker(self._breaker), worker.max_in_flight)
        rank.listeners.append(log_breaker)
        return rank

    def _part(self, target: Worker, *, joined: bool) -> None:
        if joined:
            self._fleet.remove(target)
        self._caches.forget(target)
        if isinstance(target, Rank):
            target.part()
            self._tasks.spawn(self._end(target), f"end {target.target}")

    async def _end(self, rank: Rank) -> None:
        while rank.in_flight:
            await asyncio.sleep(POLL_SECONDS)
        self._forget(rank)

    def renamed(self, member: Member) -> None:
        """The worker has another name, and so have its ranks."""
        for target in (member.worker, *member.ranks):
            self._pools.renamed(target)

    def _forget(self, worker: Worker) -> None:
        self._pools.forget(worker)
        self._metrics.forget(worker)


def log_change(worker: Worker, change: Change) -> None:
    """A listener of every worker: one line for each change of its state."""
    log.log(
        logging.WARNING if change.after in WORSE else logging.INFO,
        "worker %s (%s): %s %s -> %s, %s",
        worker.node_id,
        worker.url,
        change.what,
        change.before,
        change.after,
        change.reason,
    )


def log_breaker(worker: Worker, change: Change) -> None:
    """A listener of every rank: what is not its engine's own."""
    if change.what == "breaker":
        log_change(worker, change)
