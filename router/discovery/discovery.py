"""All sources together: what they found is put together and handed on, the whole of it.

A source that fails keeps what it found last; one log line says so, and another when it works again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from router.core.membership import identity
from router.core.worker import WorkerUrlError
from router.discovery.source import Found, Source
from router.metrics import SourceState
from router.tasks import Tasks
from tracking.workers import FoundWorker

log = logging.getLogger("router.discovery")

FIRST_SECONDS: Final = 5.0  # a start waits so long for sources to have looked

ListFound = Callable[[Sequence[FoundWorker]], Awaitable[None]]


class Reported:
    """What one source said last. Its `Report`."""

    def __init__(self, name: str, changed: Callable[[], None], unix_us: Callable[[], int]) -> None:
        self.name = name
        self.workers: Sequence[Found] = ()
        self.looked = asyncio.Event()
        self.succeeded_us = 0
        self.errors = 0
        self.problem: str | None = None
        self._changed = changed
        self._unix_us = unix_us

    def found(self, workers: Sequence[Found]) -> None:
        if self.problem is not None:
            log.info("%s works again", self.name)
            self.problem = None
        self.succeeded_us = self._unix_us()
        if list(workers) != list(self.workers) or not self.looked.is_set():
            log.info("%s lists %d workers", self.name, len(workers))
            self.workers = workers
            self._changed()
        self.looked.set()

    def failed(self, reason: str) -> None:
        self.errors += 1
        if reason != self.problem:
            log.warning(
                "%s: %s; the %d workers found last stay", self.name, reason, len(self.workers)
            )
            self.problem = reason
        self.looked.set()

    def state(self) -> SourceState:
        return SourceState(self.name, len(self.workers), self.succeeded_us / 1e6, self.errors)


class Discovery:
    """`list_found` is told all that is found whenever it changes. `start`, `close`."""

    def __init__(
        self, sources: Sequence[Source], list_found: ListFound, unix_us: Callable[[], int]
    ) -> None:
        self._sources = sources
        self._list_found = list_found
        self._unix_us = unix_us
        self._news = asyncio.Event()
        self._reports = [Reported(source.name, self._news.set, unix_us) for source in sources]
        self._since: dict[tuple[str, str], int] = {}
        self._tasks = Tasks()

    async def start(self) -> None:
        """Begin to look, and wait, for a bounded time, until every source has looked once."""
        for source, report in zip(self._sources, self._reports, strict=True):
            self._tasks.spawn(source.run(report), source.name)
        looked = asyncio.gather(*(report.looked.wait() for report in self._reports))
        try:
            await asyncio.wait_for(looked, FIRST_SECONDS)
        except TimeoutError:
            silent = [report.name for report in self._reports if not report.looked.is_set()]
            log.warning("nothing heard within %g s from %s", FIRST_SECONDS, ", ".join(silent))
        self._news.clear()
        await self._list_found(self.listing())
        self._tasks.spawn(self._hand_on(), "discovery")

    async def close(self) -> None:
        await self._tasks.cancel()

    def states(self) -> list[SourceState]:
        return [report.state() for report in self._reports]

    def listing(self) -> list[FoundWorker]:
        """All that is found now, each URL once: the first source's word counts."""
        now = self._unix_us()
        listing: dict[str, FoundWorker] = {}
        since: dict[tuple[str, str], int] = {}
        for report in self._reports:
            for worker in report.workers:
                try:
                    key = identity(worker.url)
                except WorkerUrlError as error:
                    log.error("%s: %s", report.name, error)
                    continue
                if key not in listing:
                    kind = (key, worker.generation)
                    since[kind] = self._since.get(kind, now)
                    listing[key] = told(worker, since[kind])
        self._since = since
        return list(listing.values())

    async def _hand_on(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            await self._list_found(self.listing())


def told(worker: Found, since_us: int) -> FoundWorker:
    """As the other replicas are told of it."""
    said = msgspec.to_builtins(worker.details)
    fields = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in said.items()}
    return FoundWorker(worker.url, since_us, worker.origin, worker.generation, fields)
