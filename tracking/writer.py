"""From changed traces to committed records, off the path of the requests.

`put` only remembers which trace changed. Every 10 ms, or at once when 100 have gathered, they are
encoded and written in one call, so a short request is written once, when it is over. What cannot
be written is kept:

    dirty     traces changed and not yet encoded, by key; the latest state wins
    backlog   terminal records the store has not taken, encoded, bounded in bytes, oldest dropped
    recent    records committed in the last 10 s, to be sent again when the server turns out to be
              another one: fail-over loses acknowledged writes
    open      traces of requests that still run; they need no copy, they can always be written again

When the store is back, new changes go first (they are what people look at) and the backlog follows in
order, in steps, with a pause between.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import Final, Protocol

import msgspec

from tracking.health import StoreHealth
from tracking.lifecycle import LiveTrace
from tracking.record import Record, record_key, rename_nodes
from tracking.spool import Spool

log = logging.getLogger("tracking.writer")

BATCH_RECORDS: Final = 100  # 100 block Redis for 1 to 2 ms
BATCH_BYTES: Final = 1 << 20
LINGER_SECONDS: Final = 0.010
RETRY_SECONDS: Final = 0.25
BACKFILL_PAUSE_SECONDS: Final = 0.005
RECENT_SECONDS: Final = 10.0
RECENT_BYTES: Final = 32 << 20
DEFAULT_BUFFER_BYTES: Final = 256 << 20


class RecordSink(Protocol):
    """Where records go. Raises StoreUnavailable; a repeated or older record changes nothing."""

    async def write(self, records: Sequence[Record]) -> int: ...


class WriterStats(msgspec.Struct):
    """Numbers for metrics. Counts are records, since start."""

    buffered: int
    buffered_bytes: int
    flushed_total: int
    dropped_total: int
    flushes_total: int
    flush_seconds_total: float


class TraceWriter:
    """Owns every trace of this replica from `put` until the store has it.

    `owner` names this process to the store. `now` returns monotonic seconds. `on_flush(seconds,
    records)` is told of each commit.
    """

    def __init__(
        self,
        sink: RecordSink,
        health: StoreHealth,
        *,
        owner: str,
        now: Callable[[], float],
        buffer_bytes: int = DEFAULT_BUFFER_BYTES,
        on_flush: Callable[[float, int], None] | None = None,
    ) -> None:
        self._sink = sink
        self._health = health
        self._owner = owner
        self._now = now
        self._buffer_bytes = buffer_bytes
        self._on_flush = on_flush
        self._dirty: dict[str, LiveTrace] = {}
        self._open: dict[str, LiveTrace] = {}
        self._sent_revision: dict[str, int] = {}  # of open ones
        self._sending: dict[str, Record] = {}  # fresh ones under way
        self._backlog = Spool()
        self._recent = Spool()
        self._recent_times: deque[tuple[float, Record]] = deque()
        self._waiters: list[_Waiter] = []
        self._changed = asyncio.Event()
        self._hurry = asyncio.Event()
        self._held = self._overflowing = False
        self._flushed = self._dropped = self._flushes = 0
        self._flush_seconds = 0.0

    # --- the request path -----------------------------------------------------------------------

    def put(self, live: LiveTrace) -> None:
        """`live` has changed. Costs two dictionary stores; nothing is encoded or awaited."""
        key = record_key(live.trace)
        sent = self._sent_revision.get(key)
        if sent is not None and live.revision <= sent:
            live.revision = sent + 1  # changed without a move: the store must see it as newer
        if live.terminal:
            self._open.pop(key, None)
        else:
            self._open[key] = live
        self._dirty[key] = live
        self._changed.set()
        if len(self._dirty) >= BATCH_RECORDS:
            self._hurry.set()

    # --- the writing task -----------------------------------------------------------------------

    async def run(self) -> None:
        """Commit for ever; ended by cancellation, which loses nothing."""
        while True:
            if not self._dirty and not self._backlog:
                self._changed.clear()
                await self._changed.wait()
            if len(self._dirty) < BATCH_RECORDS and not self._waiters and not self._backlog:
                await self._linger()
            if self._held or not await self._commit_round():
                self._release_waiters(committed=False)
                await self._spool_dirty()
                await asyncio.sleep(RETRY_SECONDS)  # a call that fails at once never yields

    async def _linger(self) -> None:
        self._hurry.clear()
        timer = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._hurry.set)
        try:
            await self._hurry.wait()
        finally:
            timer.cancel()

    async def _commit_round(self) -> bool:
        if self._dirty:
            batch, taken = self._take_dirty()
            self._sending = {record.key: record for record in batch}
            committed = False
            try:
                committed = await self._commit(batch)
            finally:
                self._sending = {}
                if not committed:
                    self._restore(batch)
            if not committed:
                return False
            self._release_waiters(committed=True, taken=taken)
        if self._backlog:
            batch = _bounded(self._backlog.oldest(BATCH_RECORDS))
            if not await self._commit(batch):
                return False
            for record in batch:
                self._backlog.remove(record.key)
            self._overflowing = False
            await asyncio.sleep(BACKFILL_PAUSE_SECONDS)
        return True

    async def _commit(self, batch: list[Record]) -> bool:
        started = self._now()
        try:
            if batch:
                await self._sink.write(batch)
        except Exception as error:  # whatever it is, the records stay and the next try says so
            self._health.failed("write", error)
            return False
        ended = self._now()
        self._health.succeeded("write")
        self._flushed += len(batch)
        self._flushes += 1
        self._flush_seconds += ended - started
        self._remember(batch, ended)
        if self._on_flush is not None:
            self._on_flush(ended - started, len(batch))
        return True

    def _take_dirty(self) -> tuple[list[Record], int]:
        """Encode the first of the dirty ones: records of one batch, and how many were taken."""
        batch: list[Record] = []
        taken = size = 0
        for key in list(islice(self._dirty, BATCH_RECORDS)):
            record = self._encode(key, self._dirty.pop(key))
            taken += 1
            if record is not None:
                batch.append(record)
                size += record.size
            if size >= BATCH_BYTES:
                break
        return batch, taken

    def _encode(self, key: str, live: LiveTrace) -> Record | None:
        try:
            record = Record(live, self._owner)
        except Exception:
            # One trace that cannot be encoded is a bug of ours; it must not stop the others.
            log.exception("trace %r cannot be encoded and is dropped", key)
            self._dropped += 1
            self._open.pop(key, None)
            self._sent_revision.pop(key, None)
            return None
        if record.terminal:
            self._sent_revision.pop(key, None)
            self._open.pop(key, None)
        else:
            self._sent_revision[key] = record.revision
        return record

    def _restore(self, batch: Sequence[Record]) -> None:
        for record in batch:
            if record.terminal:
                self._buffer(record)
            elif (live := self._open.get(record.key)) is not None:
                self._dirty.setdefault(record.key, live)

    async def _spool_dirty(self) -> None:
        """While the store is away: finished traces become bytes, so that memory can be bounded."""
        finished = [key for key, live in self._dirty.items() if live.terminal]
        for done, key in enumerate(finished, 1):
            live = self._dirty.pop(key, None)
            if live is not None and (record := self._encode(key, live)) is not None:
                self._buffer(record)
            if done % BATCH_RECORDS == 0:
                await asyncio.sleep(0)

    def _buffer(self, record: Record) -> None:
        self._backlog.add(record)
        while self._backlog.bytes > self._buffer_bytes and self._backlog.pop_oldest() is not None:
            if not self._overflowing:
                log.warning("trace buffer is full: the oldest traces are dropped")
            self._overflowing = True
            self._dropped += 1

    def _remember(self, batch: Sequence[Record], now: float) -> None:
        for record in batch:
            if record.terminal:
                self._recent.add(record)
                self._recent_times.append((now, record))
        times = self._recent_times
        while times and (times[0][0] < now - RECENT_SECONDS or self._recent.bytes > RECENT_BYTES):
            _, record = times.popleft()
            if self._recent.find(record.key) is record:
                self._recent.remove(record.key)

    # --- the store's fate -----------------------------------------------------------------------

    def hold(self) -> None:
        """Commit nothing until `release`: node names are still provisional."""
        self._held = True

    def release(self, rename: Callable[[str], str] | None = None) -> None:
        """Commit again, with node names as `rename` has them."""
        if rename is not None:
            for live in self._running().values():
                rename_nodes(live.trace, live.detail, rename)
            for record in chain(self._backlog.newest_first(), self._recent.newest_first()):
                record.renamed(rename)
        self._held = False

    def rewrite_open(self) -> None:
        """Write every running request again: the fleet may hold them for lost."""
        for key, live in self._open.items():
            self._dirty.setdefault(key, live)
        if self._dirty:
            self._changed.set()

    def send_again(self) -> None:
        """The server is another one: write running requests and the last 10 s again."""
        self.rewrite_open()
        for record in self._recent.oldest(len(self._recent)):
            self._buffer(record)
        self._forget_recent()
        self._changed.set()

    def forget(self, record_id: str | None) -> None:
        """Records were deleted at the store: by any id, or all (None)."""
        if record_id is None:
            self._forget_recent()
        elif (record := self._recent.find(record_id)) is not None:
            self._recent.remove(record.key)

    def _forget_recent(self) -> None:
        self._recent.clear()
        self._recent_times.clear()

    # --- what is known here ---------------------------------------------------------------------

    def _running(self) -> dict[str, LiveTrace]:
        return {**self._open, **self._dirty}

    def known(self, ids: Sequence[str]) -> list[Record | None]:
        """The newest version known here, by request id, key or engine id; committed or not."""
        by_id: dict[str, LiveTrace | Record] = {}
        encoded = sorted(self._sending.values(), key=lambda record: record.arrived_us)
        for record in encoded:
            by_id |= dict.fromkeys(filter(None, (record.engine_id, record.key)), record)
            by_id[record.request_id] = record
        running = sorted(self._running().items(), key=lambda item: item[1].arrived_us)
        for key, live in running:
            by_id |= dict.fromkeys(filter(None, (live.trace.engine_request_id, key)), live)
            by_id[live.trace.request_id] = live
        found: list[Record | None] = []
        for one in ids:
            here = by_id.get(one) or self._backlog.find(one) or self._recent.find(one)
            found.append(Record(here, self._owner) if isinstance(here, LiveTrace) else here)
        return found

    def all_known(self, budget: int) -> Iterator[Record]:
        """Records known here, each once, at most `budget`; roughly newest first."""
        seen: set[str] = set()
        everything = chain(
            (Record(live, self._owner) for live in reversed(self._running().values())),
            self._sending.values(),
            self._backlog.newest_first(),
            self._recent.newest_first(),
        )
        for record in islice(everything, budget):
            if record.key not in seen:
                seen.add(record.key)
                yield record

    def stats(self) -> WriterStats:
        return WriterStats(
            buffered=len(self._dirty) + len(self._sending) + len(self._backlog),
            buffered_bytes=self._backlog.bytes,
            flushed_total=self._flushed,
            dropped_total=self._dropped,
            flushes_total=self._flushes,
            flush_seconds_total=self._flush_seconds,
        )

    # --- waiting --------------------------------------------------------------------------------

    async def flush(self, timeout_seconds: float) -> bool:
        """Commit what was put before this call. False when that did not happen in time, or when
        finished traces from an outage still wait their turn."""
        if not self._dirty and not self._sending:
            return not self._backlog
        if self._held or not self._health.up:
            return False
        # The dictionary is a queue: what is dirty now is among the next this many taken.
        waiter = _Waiter(
            len(self._dirty) + len(self._sending), asyncio.get_running_loop().create_future()
        )
        self._waiters.append(waiter)
        self._changed.set()
        self._hurry.set()
        try:
            async with asyncio.timeout(timeout_seconds):
                return await waiter.future and not self._backlog
        except TimeoutError:
            return False
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _release_waiters(self, *, committed: bool, taken: int = 0) -> None:
        for waiter in self._waiters[:]:
            waiter.remaining -= taken
            if not committed or waiter.remaining <= 0:
                self._waiters.remove(waiter)
                if not waiter.future.done():
                    waiter.future.set_result(committed)

    async def close(self, deadline_seconds: float) -> int:
        """Wait until all is committed, at most so long; `run` must still be running.

        How many records are left and will be lost with this process.
        """
        end = self._now() + deadline_seconds
        while (left := self.stats().buffered) and self._now() < end:
            self._hurry.set()
            await asyncio.sleep(LINGER_SECONDS / 2)
        if left:
            log.warning("%d traces could not be stored before the end", left)
        return left


class _Waiter:
    __slots__ = ("future", "remaining")

    def __init__(self, remaining: int, future: asyncio.Future[bool]) -> None:
        self.remaining = remaining
        self.future = future


def _bounded(records: list[Record]) -> list[Record]:
    """The first of `records` that make one batch in bytes; at least one."""
    size = 0
    for count, record in enumerate(records, 1):
        size += record.size
        if size >= BATCH_BYTES:
            return records[:count]
    return records
