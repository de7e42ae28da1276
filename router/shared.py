"""This replica among the others: it tells them what it has, and decides with what they have.

One exchange with the store some twenty times a second, five times when nobody else is there, and
never on the path of a request. When the store is away, what was last heard fades slowly
(`core/shared_load.py`) and the prefixes that are to be told wait.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from router.caches import Caches
from router.core.shared_load import NOTHING, Requests, Share
from router.fleet import Fleet
from tracking.sharing import (
    Heard,
    Told,
    decode_prefixes,
    decode_requests,
    encode_prefixes,
    encode_requests,
    encode_run,
)
from tracking.view import StoreUnavailable

SHARE_SECONDS: Final = 0.05
ALONE_SECONDS: Final = 0.2  # so soon who comes is noticed
RETRY_SECONDS: Final = 0.25
CATCH_UP_SECONDS: Final = 1.0  # a start reads what the others told, at most so long
BLOCKS_PER_CALL: Final = 4096  # 32 KB

Exchange = Callable[[Told], Awaitable[Heard]]
Synchronise = Callable[[int, frozenset[str]], Awaitable[None]]


class Sharing:
    """`exchange` is one call of the store; it raises StoreUnavailable. `now`: monotonic seconds.

    `synchronise(version, others)` is awaited after each: the version of the lists of workers, and
    which other replicas there are. `sees_clearly()`: who is not among the others is not there.
    `hurry` is set when something should not wait. `on_call(seconds, ok)` is told of each exchange.
    """

    def __init__(
        self,
        exchange: Exchange,
        fleet: Fleet,
        caches: Caches,
        synchronise: Synchronise,
        now: Callable[[], float],
        *,
        sees_clearly: Callable[[], bool] = lambda: True,
        hurry: asyncio.Event | None = None,
        on_call: Callable[[float, bool], None] = lambda _seconds, _ok: None,
    ) -> None:
        self._exchange = exchange
        self._fleet = fleet
        self._caches = caches
        self._synchronise = synchronise
        self._now = now
        self._sees_clearly = sees_clearly
        self._hurry = hurry or asyncio.Event()
        self._on_call = on_call
        self._told: bytes | None = None
        self._since_us = 0
        self._position = -1 if caches.news is None else 0
        self._shares: dict[str, Share] = {}
        self._more = False
        fleet.others.expect()

    async def start(self) -> None:
        """Hear of everything the others told, at most for a moment."""
        end = self._now() + CATCH_UP_SECONDS
        while await self.share() and self._more and self._now() < end:
            pass

    async def run(self) -> None:
        """For ever."""
        while True:
            self._hurry.clear()
            pause = self._pause(await self.share())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._hurry.wait()

    async def share(self) -> bool:
        """One exchange; False when the store is away."""
        news = self._caches.news
        requests = encode_requests(
            {w.digest: (w.in_flight, w.own_queued_tokens) for w in self._fleet.workers}
        )
        runs = [] if news is None else news.take(BLOCKS_PER_CALL)
        sent = self._now()
        heard = None
        try:
            heard = await self._exchange(
                Told(
                    None if requests == self._told else requests,
                    encode_prefixes([encode_run(*run) for run in runs]),
                    self._since_us,
                    self._position,
                )
            )
        except StoreUnavailable:
            self._told = None  # whether it was heard is not known
        finally:
            if heard is None and news is not None:
                news.put_back(runs)
        received = self._now()
        self._on_call(received - sent, heard is not None)
        if heard is not None:
            self._told = requests if heard.known else None
            self._hear(heard, sent, received)
            # Workers first: prefixes of workers that are not known here mean nothing.
            await self._synchronise(heard.workers_version, frozenset(self._shares))
            self._learn_all(heard)
        self._weigh(received)
        return heard is not None

    def _pause(self, reached: bool) -> float:
        if not reached:
            return RETRY_SECONDS
        waiting = self._more or bool(self._caches.news)
        return SHARE_SECONDS if waiting or self._shares else ALONE_SECONDS

    def _hear(self, heard: Heard, sent: float, received: float) -> None:
        shares: dict[str, Share] = {}
        self._since_us = heard.now_us
        for other in heard.others:
            before = self._shares.get(other.name)
            if other.requests is not None:
                requests: Requests = decode_requests(other.requests)
            elif before is not None:
                requests = before.requests
            else:
                self._since_us = 0  # ask for all of them again
                continue
            shares[other.name] = Share((sent + received) / 2 - other.age_us / 1e6, requests)
        if not self._sees_clearly():
            # Who is missing may only not have come back to a store that was away, or is empty.
            for name, share in self._shares.items():
                shares.setdefault(name, share)
        self._shares = shares
        self._fleet.others.heard(shares, received)
        self._position, self._more = heard.position, heard.more

    def _learn_all(self, heard: Heard) -> None:
        news = self._caches.news
        if news is not None:
            news.total_told(heard.total)
            for message in heard.prefixes:
                self._learn(message)

    def _learn(self, message: bytes) -> None:
        news = self._caches.news
        assert news is not None
        workers = {worker.digest: worker for worker in self._fleet.workers}
        for digest, blocks in decode_prefixes(message):
            news.heard(digest, blocks)
            if (worker := workers.get(digest)) is not None:
                self._caches.heard(worker, blocks)

    def _weigh(self, now: float) -> None:
        """Put the others' requests on the workers."""
        totals = self._fleet.others.totals(now)
        for worker in self._fleet.workers:
            worker.others_in_flight, worker.others_queued_tokens = totals.get(
                worker.digest, NOTHING
            )
