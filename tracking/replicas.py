"""This replica among the others: heartbeats, the fleet's clock and settings, lost requests.

One task beats once a second. A beat prolongs this replica's lease, reads the store's clock, and
learns the settings in force and whether the data is still the same. When beats went through without
a gap for two leases, the replica also sweeps: requests of replicas whose lease ran out become `lost`.
The wait keeps a hang of the store, in which every lease runs out, from making healthy routers look
dead.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from tracking.health import StoreHealth
from tracking.keys import LEASE_SECONDS
from tracking.store import Beat, Retention, SchemaMismatch, TraceStore
from tracking.view import StoreUnavailable

log = logging.getLogger("tracking.replicas")

BEAT_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 0.25


class SweepGate:
    """May this replica declare others dead? Told the time of each beat that went through.

    A gap is one in which another replica, as late as a beat allows, could have lost its lease.
    """

    def __init__(self, lease_seconds: float, beat_seconds: float) -> None:
        self._lease = lease_seconds
        self._gap = lease_seconds - beat_seconds
        self._since: float | None = None
        self._last = 0.0

    def shut(self) -> None:
        """Begin to count again: the leases of others may be gone with the data of before."""
        self._since = None

    def beat(self, now: float) -> None:
        if self._since is None or now - self._last > self._gap:
            self._since = now
        self._last = now

    def open(self, now: float) -> bool:
        return (
            self._since is not None
            and now - self._last <= self._gap
            and now - self._since >= 2 * self._lease
        )


class Events(msgspec.Struct):
    """Whom to tell of what a beat brought.

    `synchronise(unix_us, sent, received)` the store's clock at some time between two monotonic
    seconds; `same_server(at)` it was the one of before then; `server_changed()` the data may be another; `lease_lapsed()` others may have
    held us for dead.
    """

    synchronise: Callable[[int, float, float], None]
    same_server: Callable[[float], None]
    server_changed: Callable[[], None]
    lease_lapsed: Callable[[], None]


class Replicas:
    """Keeps `owner` alive in the eyes of the fleet. `now` returns monotonic seconds."""

    def __init__(
        self,
        store: TraceStore,
        health: StoreHealth,
        events: Events,
        *,
        owner: str,
        own: Retention,
        now: Callable[[], float],
        lease_seconds: float = LEASE_SECONDS,
        beat_seconds: float = BEAT_SECONDS,
    ) -> None:
        self.urls: list[str] = []
        self.static: Sequence[str] = ()
        self.found = b""  # workers discovered, encoded
        self._told_found = b""
        self.last: Beat | None = None
        self.lost_total = 0
        self._store = store
        self._health = health
        self._events = events
        self._owner = owner
        self._own = own
        self._now = now
        self._started = now()
        self._lease = lease_seconds
        self._period = beat_seconds
        self._gate = SweepGate(lease_seconds, beat_seconds)
        self._told: Retention | None = None
        self._told_namesake = False

    async def beat(self) -> Beat:
        """One heartbeat. Raises StoreUnavailable, SchemaMismatch."""
        sent, urls, found = self._now(), list(self.urls), self.found
        try:
            beat = await self._store.heartbeat(
                self._owner,
                lease_seconds=self._lease,
                urls=urls,
                age_seconds=sent - self._started,
                static=self.static,
                found=b"" if found == self._told_found else found,
            )
        except (StoreUnavailable, SchemaMismatch) as error:
            self._health.failed("heartbeat", error)
            raise
        received = self._now()
        # What was told went with the lease; where it was told just now it is there again.
        again = not beat.known and found == self._told_found
        self._told_found = b"" if again else found
        before, self.last = self.last, beat
        self._events.synchronise(beat.now_us, sent, received)
        self._health.succeeded("heartbeat")
        if before is not None and before.server != beat.server:
            log.warning("trace store: the server or its data is another one; sending again")
            self._gate.shut()
            self._events.server_changed()
        else:
            self._events.same_server(sent)
            if before is not None and not beat.known:
                self._events.lease_lapsed()
        self._gate.beat(received)
        self._tell_settings(beat.retention)
        self._tell_namesake(beat.owners)
        return beat

    def sees_clearly(self) -> bool:
        """Whoever is not seen alive now is not: no lease can have run out for want of a store."""
        return self._gate.open(self._now())

    async def sweep(self) -> int:
        """Declare lost what dead replicas left, if this replica may. How many."""
        swept = 0
        more = self.sees_clearly()
        while more:
            lost, more = await self._store.sweep()
            swept += lost
        self.lost_total += swept
        if swept:
            log.warning("%d requests of a router that went away are lost", swept)
        return swept

    async def run(self, learnt: Callable[[Beat], Awaitable[None]]) -> None:
        """Beat and sweep for ever; `learnt` is awaited after each beat."""
        while True:
            pause = self._period
            try:
                await learnt(await self.beat())
                await self.sweep()
            except (StoreUnavailable, SchemaMismatch):
                pause = min(RETRY_SECONDS, self._period)  # told by the breaker, once
            await asyncio.sleep(pause)

    def _tell_namesake(self, owners: Sequence[str]) -> None:
        """Another router with our name, which is not the one that we were before a restart: that
        one's lease has run out by the time this is asked."""
        if self._told_namesake or self._now() - self._started < 2 * self._lease:
            return
        name, _, _ = self._owner.partition("/")
        if any(one != self._owner and one.partition("/")[0] == name for one in owners):
            self._told_namesake = True
            log.warning(
                "another router is named %s, too: traces and stats do not tell which of them "
                "served a request; give each a --router-id of its own",
                name,
            )

    def _tell_settings(self, fleet: Retention) -> None:
        if fleet not in (self._own, self._told):
            log.info(
                "the fleet keeps %d traces for %d s; this router asked for %d and %d s",
                fleet.max_entries, fleet.ttl_seconds, self._own.max_entries, self._own.ttl_seconds,
            )  # fmt: skip
        self._told = fleet
