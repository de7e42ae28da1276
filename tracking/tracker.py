"""The traces of this replica and of the fleet: one object that a router starts, feeds and asks.

It puts the parts together (store, writer, heartbeats, names, a private server where none is given)
and joins what the store holds with what only this replica knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from tracking.advice import advice
from tracking.background import BackgroundTasks
from tracking.embedded import EmbeddedStore, NoServerProgram
from tracking.feed import FeedPage, Place
from tracking.health import StoreHealth
from tracking.keys import index_text
from tracking.lifecycle import LiveTrace
from tracking.local_page import local_page
from tracking.nodes import NodeNames, renaming
from tracking.query import TraceQuery
from tracking.replicas import Events, Replicas
from tracking.sharing import Heard, Told, share
from tracking.stats import stats_object
from tracking.stats_query import PLAIN, StatsQuery
from tracking.store import Beat, Retention, Stored, TraceStore
from tracking.tail import Tail
from tracking.values import encode_cursor
from tracking.view import Found, Page, StoreState, StoreUnavailable
from tracking.worker_lists import change_worker, encode_found, read_workers
from tracking.workers import FoundWorker, WorkerChange, WorkerLists
from tracking.writer import DEFAULT_BUFFER_BYTES, TraceWriter

log = logging.getLogger("tracking")

START_SECONDS: Final = 2.0  # how long a start waits for the store
FLUSH_SECONDS: Final = 0.4  # how long a query waits for this replica's own changes
# Pauses after which another replica has mostly, then surely, committed what it had.
COMMIT_SECONDS: Final = (0.012, 0.012, 0.015)
EXAMINE_SECONDS: Final = 5.0  # between attempts to read the store's settings
LOCAL_BUDGET: Final = 20_000  # records known here that a list looks at while the store is away
SUM_UP_SECONDS: Final = 2.0
PRIVATE: Final = (
    "No --redis-url: traces are kept in a private store, visible at this router only, gone when it"
    " stops"
)


class TrackerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`redis_url` None: a private server is started. `buffer_bytes` bounds what an outage of the
    store may pile up here."""

    router_id: str
    redis_url: str | None = None
    fleet: str = "default"
    max_entries: int = 100_000
    ttl_seconds: int = 3600
    buffer_bytes: int = DEFAULT_BUFFER_BYTES


class Tracker:
    """Implements `view.TraceView`, and takes changed traces (`put`).

    `now` returns monotonic seconds; `synchronise(unix_us, sent, received)` is told what the
    store's clock said between two of these; `renamed` is told {url: name} when names given by `bind_nodes` have changed; `on_flush(seconds, records)` is
    told of each commit. Raises ValueError for a URL or a fleet name that cannot be used.
    """

    def __init__(
        self,
        config: TrackerConfig,
        *,
        now: Callable[[], float],
        synchronise: Callable[[int, float, float], None],
        renamed: Callable[[dict[str, str]], None] = lambda _names: None,
        on_flush: Callable[[float, int], None] | None = None,
    ) -> None:
        if config.max_entries < 1 or config.ttl_seconds < 1:
            raise ValueError("max_entries and ttl_seconds must be at least 1")
        self._config = config
        self._now = now
        self._renamed = renamed
        self._embedded: EmbeddedStore | None = None
        url = config.redis_url
        if url is None:
            self._embedded = EmbeddedStore()
            url = self._embedded.url
        # A router that starts again under its old name is not the one that died.
        self.owner = f"{config.router_id[:80]}/{secrets.token_hex(4)}"
        self._own = Retention(config.max_entries, config.ttl_seconds)
        self._health = StoreHealth()
        self._tasks = BackgroundTasks()
        self._store = TraceStore.from_url(url, config.fleet, self._own)
        self._writer = TraceWriter(
            self._store,
            self._health,
            owner=self.owner,
            now=now,
            buffer_bytes=config.buffer_bytes,
            on_flush=on_flush,
        )
        self.tail = Tail(self._feed)
        self._nodes = NodeNames(self._store, self.owner)
        self._replicas = Replicas(
            self._store,
            self._health,
            Events(
                synchronise=synchronise,
                same_server=self._writer.settle,
                server_changed=self._server_changed,
                lease_lapsed=self._writer.rewrite_open,
            ),
            owner=self.owner,
            own=self._own,
            now=now,
        )

    # --- life -----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect, waiting at most 2 s; without the store it goes on and connects later.

        Raises NoServerProgram (private store only) and SchemaMismatch.
        """
        log.info("Initializing request tracker")
        try:
            await self._connect()
        except BaseException:
            await self.close(0)
            raise
        self._tasks.start(self._writer.run(), "trace writer")
        self._tasks.start(self._replicas.run(self._learn), "trace heartbeat")
        self._tasks.start(self._keep_sums(), "trace sums")
        if self._embedded is not None:
            self._tasks.start(self._keep_embedded(self._embedded), "private trace store")
        else:
            self._tasks.start(self._examine_server(), "examination of the trace store")

    async def _connect(self) -> None:
        if self._embedded is not None:
            log.info(PRIVATE)
            await self._embedded.start()
        with suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                while not self._health.up:
                    try:
                        await self._replicas.beat()
                    except StoreUnavailable:
                        await asyncio.sleep(0.1)

    async def close(self, deadline_seconds: float) -> None:
        """Commit what is left, at most so long, then leave the fleet and stop everything."""
        self.tail.close()
        if self._tasks:
            await self._writer.close(deadline_seconds)
        await self.tail.closed_down()
        await self._tasks.end()
        try:
            if self._health.up:
                await self._store.leave(self.owner)
            await self._store.close()
        except StoreUnavailable as error:
            log.info("trace store: gone before we left it (%s)", error)
        if self._embedded is not None:
            await self._embedded.stop()

    async def bind_nodes(
        self, urls: Sequence[str], names: Mapping[str, str] | None = None
    ) -> list[str]:
        """List workers and learn their node names, in the order given.

        `names` are names chosen by a person, by URL; the others are called worker-0, worker-1, ... A
        URL that is bound in the store keeps its name. Without the store names are provisional, and
        `renamed` tells when they change. Raises NodeNameTaken.
        """
        bound = await self._nodes.add(urls, names or {}, reachable=self._health.up)
        self._replicas.urls = self._nodes.urls
        if self._nodes.provisional:
            self._writer.hold()
        return bound

    def forget_nodes(self, urls: Sequence[str]) -> None:
        """List these workers no more. A name is free when no held record names it either."""
        self._nodes.remove(urls)
        self._replicas.urls = self._nodes.urls

    async def _learn(self, beat: Beat) -> None:
        before = self._nodes.names()
        was_provisional = self._nodes.provisional
        changed = await self._nodes.reconcile(beat.names)
        if was_provisional:
            self._writer.release(renaming(before, changed) if changed else None)
        if changed:
            self._renamed(changed)

    async def _keep_sums(self) -> None:
        """Sum up what has finished, in turns with the other replicas."""
        while True:
            await asyncio.sleep(SUM_UP_SECONDS)
            if self._health.up:
                with suppress(StoreUnavailable):  # told by the writer's breaker
                    await self._store.tallies.sum_up()

    async def _examine_server(self) -> None:
        while True:
            try:
                server = await self._store.examine()
            except StoreUnavailable:
                await asyncio.sleep(EXAMINE_SECONDS)  # told by the breaker
                continue
            for line in advice(server, self._config.max_entries):
                log.warning("trace store: %s (docs/redis.md)", line)
            return

    async def _keep_embedded(self, embedded: EmbeddedStore) -> None:
        while True:
            await asyncio.sleep(1.0)
            if not embedded.running:
                log.error("the private trace store died; starting another")
                try:
                    await embedded.start()
                except NoServerProgram as error:
                    log.error("%s", error)

    # --- the request path -----------------------------------------------------------------------

    def put(self, live: LiveTrace) -> None:
        """`live` was made or has changed. Never waits."""
        self._writer.put(live)

    # --- the other replicas ---------------------------------------------------------------------

    @property
    def private(self) -> bool:
        """The store is this router's own: there are no other replicas."""
        return self._embedded is not None

    async def share(self, told: Told) -> Heard:
        """Tell the other replicas what this one has, and hear of theirs. Raises
        StoreUnavailable."""
        self._require_store()
        return await share(self._store, self.owner, told)

    async def list_static(self, urls: Sequence[str]) -> None:
        """Tell the others which workers this router was started with."""
        self._replicas.static = tuple(urls)
        if self._health.up:
            with contextlib.suppress(StoreUnavailable):
                await self._replicas.beat()

    async def list_found(self, found: Sequence[FoundWorker]) -> None:
        """Tell the others which workers this router has discovered: all that it lists now."""
        self._replicas.found = encode_found(found)
        if self._health.up:
            with contextlib.suppress(StoreUnavailable):
                await self._replicas.beat()

    async def workers(self) -> WorkerLists:
        """What all replicas say of workers. Raises StoreUnavailable."""
        self._require_store()
        return await read_workers(self._store, self.owner)

    async def change_worker(self, change: WorkerChange) -> None:
        """Tell all replicas. Raises StoreUnavailable."""
        self._require_store()
        await change_worker(self._store, change)

    def sees_clearly(self) -> bool:
        """Whoever is not seen alive now is not."""
        return self._replicas.sees_clearly()

    # --- answers --------------------------------------------------------------------------------

    async def get(self, ids: Sequence[str]) -> Found:
        """Traces by request id, record key or engine id. Raises StoreUnavailable unless every id is
        known here."""
        if not ids:
            return Found([])
        flushed = await self._writer.flush(FLUSH_SECONDS)
        stored: list[Stored | None] | None = None
        failure: StoreUnavailable | None = None
        try:
            self._require_store()
            stored = await self._stored(ids)
        except StoreUnavailable as error:
            failure = error
        if stored is not None and flushed:
            return Found([None if one is None else one.body for one in stored])
        found: list[bytes | None] = []
        known = self._writer.known(ids)
        for ours, theirs in zip(known, stored or [None] * len(ids), strict=True):
            if ours is not None and (theirs is None or ours.arrived_us >= theirs.arrived_us):
                found.append(ours.whole())
            elif failure is not None:
                raise failure
            else:
                found.append(None if theirs is None else theirs.body)
        return Found(found)

    async def _stored(self, ids: Sequence[str]) -> list[Stored | None]:
        """What the store has. Ids it does not know are asked for again, a moment later: whoever asks
        for a request that has just been answered may ask another replica than its own."""
        stored = await self._store.get(ids)
        for pause in COMMIT_SECONDS:
            missing = [place for place, one in enumerate(stored) if one is None]
            if not missing:
                break
            await asyncio.sleep(pause)
            again = await self._store.get([ids[place] for place in missing])
            for place, one in zip(missing, again, strict=True):
                stored[place] = one
        return stored

    async def list(self, query: TraceQuery) -> Page:
        """One page, newest first. Raises StoreUnavailable if nothing at all is known here."""
        flushed = await self._writer.flush(FLUSH_SECONDS)
        try:
            self._require_store()
            listed = await self._store.page(query)
        except StoreUnavailable:
            return local_page(self._writer.all_known(LOCAL_BUDGET), query)
        cursor = None if listed.next_cursor is None else encode_cursor(*listed.next_cursor)
        if not flushed:
            return Page(listed.rows, cursor, "store-unavailable")
        return Page(listed.rows, cursor, "scan-budget" if listed.budget_spent else None)

    async def stats(self, asked: StatsQuery = PLAIN) -> bytes:
        """The stats object as JSON. Raises StoreUnavailable."""
        await self._writer.flush(FLUSH_SECONDS)
        self._require_store()
        stats = await self._store.stats()
        window = None
        if not asked.plain:
            seconds = asked.window_seconds or stats.retention.ttl_seconds
            window = await self._store.tallies.window(seconds, asked.by, stepwise=asked.series)
        return msgspec.json.encode(stats_object(stats, self.state(), self._alive(), window))

    async def delete(self, record_id: str | None) -> int:
        """Delete what is held under an id, or everything (None): how many. Raises
        StoreUnavailable."""
        await self._writer.flush(FLUSH_SECONDS)
        self._require_store()
        if record_id is None:
            self._writer.forget(lambda _record: True)
            return await self._store.delete_all()
        self._writer.forget(
            lambda record: record_id in (record.request_id, record.key, record.engine_id)
        )
        return await self._store.delete(record_id)

    async def delete_session(self, session_id: str) -> int:
        """Delete what is held of a session: how many. Raises StoreUnavailable."""
        await self._writer.flush(FLUSH_SECONDS)
        self._require_store()
        session = index_text(session_id)
        self._writer.forget(lambda record: index_text(record.session_id) == session)
        return await self._store.delete_session(session_id)

    def _server_changed(self) -> None:
        self._writer.send_again()
        self.tail.server_changed()

    async def _feed(self, after: Place | None, limit: int) -> FeedPage:
        # Asked also of a store that is held for down: it should have a feed before writers find it.
        page = await self._store.feed(after, limit)
        self._require_store()
        return page

    def state(self) -> StoreState:
        """State of store and writer as known now; no I/O."""
        writer = self._writer.stats()
        beat = self._replicas.last
        return StoreState(
            kind="redis" if self._embedded is None else "embedded",
            state="up" if self._health.up else "down",
            buffered=writer.buffered,
            buffered_bytes=writer.buffered_bytes,
            dropped=writer.dropped_total,
            failed_flushes=writer.failed_flushes_total,
            lost=self._replicas.lost_total,
            memory_bytes=0 if beat is None else beat.memory_bytes,
            memory_limit_bytes=0 if beat is None else beat.memory_limit_bytes,
        )

    def _require_store(self) -> None:
        if not self._health.up:
            raise StoreUnavailable("the trace store cannot be reached")

    def _alive(self) -> Sequence[str]:
        """Router ids of the replicas that live, as of the last heartbeat."""
        beat = self._replicas.last
        return [] if beat is None else sorted({owner.rpartition("/")[0] for owner in beat.owners})
