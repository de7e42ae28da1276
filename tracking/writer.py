"""From changed traces to committed records, off the path of the requests.

`put` only remembers which trace changed. Every 10 ms, or at once when 64 have ended, they are encoded
and written in one call. What still runs is not part of it before it has waited for one whole such time,
so a short request is written once, when it is over. Several calls may be under way, so that a store that
is far away is kept up with; the store takes the newest version of a record in whatever order they
arrive. What cannot be written is kept:

    changes   traces changed and not yet encoded, and those that run (`tracking.changes`): they need no
              copy, they can always be written again
    sending   records under way, by batch
    backlog   terminal records the store has not taken (`tracking.spool`)
    recent    records committed lately (`tracking.recent`), to be sent again when the server turns
              out to be another one

After a failure one call at a time tries again. When the store is back, new changes go first (they are
what people look at) and the backlog follows in order, in steps, with a pause between.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import Final, Protocol

import msgspec

from tracking.changes import Changes
from tracking.health import StoreHealth
from tracking.known import newest_by_id, once
from tracking.lifecycle import LiveTrace
from tracking.recent import Recent
from tracking.record import Record, rename_running
from tracking.spool import Spool
from tracking.waiters import Waiters

log = logging.getLogger("tracking.writer")

BATCH_RECORDS: Final = 64  # with a tail, and as many trimmed, 2 ms of Redis; 3 on a busy machine
BATCH_BYTES: Final = 256 << 10  # of `Record.size`: large records, told to a tail, take 4 ms
LINGER_SECONDS: Final = 0.010  # what runs is written 10 to 20 ms after it has changed
RETRY_SECONDS: Final = 0.25
BACKFILL_PAUSE_SECONDS: Final = 0.005
LANES: Final = 12  # calls under way at once: 3,800 records a second to a store 200 ms away
MOST_CHANGES: Final = 30 * BATCH_RECORDS  # beyond, finished ones become bytes, which are bounded
RECENT_SECONDS: Final = 10.0
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
    failed_flushes_total: int
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
        self._on_flush = on_flush
        self._changes = Changes()
        self._ended = 0  # put since the last batch
        self._more = False  # the last batch had no room for all
        self._sending: dict[int, list[Record]] = {}
        self._backlog = Spool(buffer_bytes)
        self._recent = Recent(buffer_bytes // 4)
        self._lanes: dict[int, asyncio.Task[bool]] = {}  # by number of the batch
        self._batches = 0
        self._backfill: asyncio.Task[None] | None = None
        self._taking = True  # the last call went through
        self._waiters = Waiters()
        self._hurry = asyncio.Event()
        self._idle = False  # the next change begins a wait
        self._timer: asyncio.TimerHandle | None = None
        self._held = False
        self._flushed = self._unencodable = self._flushes = self._failed_flushes = 0
        self._flush_seconds = 0.0

    # --- the request path -----------------------------------------------------------------------

    def put(self, live: LiveTrace) -> None:
        """`live` has changed. Costs two dictionary stores, once for each batch; nothing is encoded or awaited."""
        if live.terminal:
            self._ended += 1
            if self._ended >= BATCH_RECORDS:
                self._hurry.set()
        if self._changes.put(live):
            self._changed()

    # --- the writing task -----------------------------------------------------------------------

    async def run(self) -> None:
        """Commit for ever; ended by cancellation, which loses nothing."""
        try:
            while True:
                await self._linger()
                if self._held or not self._taking:
                    await self._wait_for_the_store()
                if not self._held:
                    await self._start_calls()
        finally:
            await self._end_calls()

    async def _linger(self) -> None:
        """Until a batch is due: a whole wait after a change, or when somebody hurries."""
        idle = not self._changes and (not self._backlog or self._backfill is not None)
        enough = self._more or self._ended >= BATCH_RECORDS
        if not idle and (enough or self._waiters or not self._taking):
            return
        self._hurry.clear()
        self._idle = True
        if not idle:
            self._changed()
        await self._hurry.wait()
        self._idle = False
        if self._timer is not None:
            self._timer.cancel()

    def _changed(self) -> None:
        """There is something to do: a wait begins, if none has."""
        if self._idle:
            self._idle = False
            self._changes.begin_wait()
            self._timer = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._hurry.set)

    async def _wait_for_the_store(self) -> None:
        """Let what is under way end, keep everything in bounds, and pause before the next try."""
        while running := self._calls():
            await asyncio.wait(running)
        self._waiters.failed()
        await self._spool_ended()
        await asyncio.sleep(RETRY_SECONDS)  # a call that fails at once never yields

    async def _start_calls(self) -> None:
        self._ended, self._more = 0, False
        # All, in order, where somebody waits for them or the store is tried again.
        everything = bool(self._waiters) or not self._taking
        if due := self._changes.due(BATCH_RECORDS, everything):
            lane = self._send(*self._take(due))
            if not self._taking:
                await asyncio.wait([lane])  # a single try
            while len(self._lanes) >= LANES:
                if len(self._changes) > MOST_CHANGES:
                    await self._spool_ended()
                if self._lanes:  # they may have ended meanwhile
                    await asyncio.wait(self._lanes.values(), return_when=asyncio.FIRST_COMPLETED)
        if self._backlog and self._backfill is None:
            self._backfill = asyncio.get_running_loop().create_task(self._fill_in())
            self._backfill.add_done_callback(self._filled_in)
            if not self._taking:
                await asyncio.wait([self._backfill])

    def _calls(self) -> list[asyncio.Task[bool] | asyncio.Task[None]]:
        return [*self._lanes.values(), *([] if self._backfill is None else [self._backfill])]

    async def _end_calls(self) -> None:
        # More than once, as in Tracker: before Python 3.12 a cancellation may be swallowed.
        while running := self._calls():
            for call in running:
                call.cancel()
            await asyncio.wait(running, timeout=0.05)

    def _send(self, number: int, batch: list[Record]) -> asyncio.Task[bool]:
        """Commit fresh records, in a task of its own."""
        self._sending[number] = batch
        lane = asyncio.get_running_loop().create_task(self._commit(batch))
        self._lanes[number] = lane
        lane.add_done_callback(lambda ended: self._sent(number, batch, ended))
        return lane

    def _sent(self, number: int, batch: list[Record], lane: asyncio.Task[bool]) -> None:
        # As a callback: a task that is cancelled before its first step runs no `finally`.
        committed = False
        if not lane.cancelled():
            if error := lane.exception():
                log.error("a commit of traces crashed", exc_info=error)
            else:
                committed = lane.result()
        del self._sending[number]
        if not committed:
            self._restore(batch)
        del self._lanes[number]
        if committed:
            self._waiters.ended(self._lanes)
        else:
            self._waiters.failed()
            self._hurry.set()

    async def _fill_in(self) -> None:
        """Commit the oldest of the backlog."""
        batch = self._backlog.oldest(BATCH_RECORDS, BATCH_BYTES)
        if await self._commit(batch):
            self._backlog.stored(batch)
            await asyncio.sleep(BACKFILL_PAUSE_SECONDS)

    def _filled_in(self, _ended: asyncio.Task[None]) -> None:
        self._backfill = None
        self._changed()

    async def _commit(self, batch: list[Record]) -> bool:
        started = self._now()
        try:
            if batch:
                await self._sink.write(batch)
        except Exception as error:  # whatever it is, the records stay and the next try says so
            self._health.failed("write", error)
            self._failed_flushes += 1
            self._taking = False
            return False
        ended = self._now()
        self._health.succeeded("write")
        self._taking = True
        self._flushed += len(batch)
        self._flushes += 1
        self._flush_seconds += ended - started
        self._recent.add(batch, ended)
        if self._on_flush is not None:
            self._on_flush(ended - started, len(batch))
        return True

    def _take(self, keys: list[str]) -> tuple[int, list[Record]]:
        """Encode these of the changes, as many as a batch holds: its number, its records."""
        batch: list[Record] = []
        taken = size = 0
        for key in keys:
            record = self._encode(self._changes.take(key))
            taken += 1
            if record is not None:
                batch.append(record)
                size += record.size
            if size >= BATCH_BYTES:
                break
        self._batches += 1
        self._waiters.taken(taken, self._batches)
        self._more = taken == BATCH_RECORDS or taken < len(keys)
        return self._batches, batch

    def _encode(self, live: LiveTrace) -> Record | None:
        try:
            record = Record(live, self._owner, fresh=live.sent_revision == 0)
        except Exception:
            # One trace that cannot be encoded is a bug of ours; it must not stop the others.
            log.exception("trace %r cannot be encoded and is dropped", live.key)
            self._unencodable += 1
            self._changes.forget(live.key)
            return None
        live.sent_revision = live.revision
        return record

    def _restore(self, batch: Sequence[Record]) -> None:
        for record in batch:
            if record.terminal:
                self._backlog.add(record)
            else:
                self._changes.put_again(record.key)

    async def _spool_ended(self) -> None:
        """While the store is away: finished traces become bytes, so that memory can be bounded."""
        for done, key in enumerate(self._changes.ended(), 1):
            if (record := self._encode(self._changes.take(key))) is not None:
                self._backlog.add(record)
            if done % BATCH_RECORDS == 0:
                await asyncio.sleep(0)

    # --- the store's fate -----------------------------------------------------------------------

    def hold(self) -> None:
        """Commit nothing until `release`: node names are still provisional."""
        self._held = True

    def release(self, rename: Callable[[str], str] | None = None) -> None:
        """Commit again, with node names as `rename` has them."""
        if rename is not None:
            for live in self._changes.known().values():
                rename_running(live, rename)
            self._backlog.renamed(rename)
            for record in self._recent.newest_first():
                record.renamed(rename)
        self._held = False

    def rewrite_open(self) -> None:
        """Write every running request again: the fleet may hold them for lost."""
        self._changes.put_all_again()
        if self._changes:
            self._changed()

    def settle(self, at: float) -> None:
        """The server was still the one of before at that monotonic second."""
        self._recent.settle(at - RECENT_SECONDS)

    def send_again(self) -> None:
        """The server is another one: write running requests and the last 10 s again."""
        self.rewrite_open()
        for record in self._recent.take_all():
            # It is probably there: nothing that surely is not may be dropped for it.
            if self._backlog.has_room_for(record):
                self._backlog.add(record)
        self._changed()

    def forget(self, deleted: Callable[[Record], bool]) -> None:
        """Records were deleted at the store: what waits here, or is kept, may not bring them back."""
        self._backlog.discard(deleted)
        self._recent.discard(deleted)

    # --- what is known here ---------------------------------------------------------------------

    def _ended_on_the_way(self) -> list[Record]:
        """Of what was running when it was sent there is a newer version elsewhere: it runs still, or
        has ended since, and its end may be in a call that failed before this one."""
        return [r for batch in self._sending.values() for r in batch if r.terminal]

    def known(self, ids: Sequence[str]) -> list[Record | None]:
        """The newest version known here, by request id, key or engine id; committed or not."""
        newest = newest_by_id(self._changes.known().values(), self._ended_on_the_way())
        found = [newest.get(one) or self._backlog.find(one) for one in ids]
        recent = self._recent.find([one for one, here in zip(ids, found, strict=True) if not here])
        return [
            Record(here, self._owner) if isinstance(here, LiveTrace) else here or recent.get(one)
            for one, here in zip(ids, found, strict=True)
        ]

    def all_known(self, budget: int) -> Iterator[Record]:
        """Records known here, each once, at most `budget`; roughly newest first."""
        everything = chain(
            (Record(live, self._owner) for live in reversed(self._changes.known().values())),
            reversed(self._ended_on_the_way()),
            self._backlog.newest_first(),
            self._recent.newest_first(),
        )
        return once(islice(everything, budget))

    def stats(self) -> WriterStats:
        return WriterStats(
            buffered=len(self._changes)
            + sum(map(len, self._sending.values()))
            + len(self._backlog),
            buffered_bytes=self._backlog.bytes,
            flushed_total=self._flushed,
            dropped_total=self._backlog.dropped + self._unencodable,
            failed_flushes_total=self._failed_flushes,
            flushes_total=self._flushes,
            flush_seconds_total=self._flush_seconds,
        )

    # --- waiting --------------------------------------------------------------------------------

    async def flush(self, timeout_seconds: float) -> bool:
        """Commit what was put before this call. False when that did not happen in time, or when
        finished traces from an outage still wait their turn."""
        if not self._changes and not self._sending:
            return not self._backlog
        if self._held or not self._health.up:
            return False
        self._hurry.set()
        # They are a queue: what has changed by now is among the next this many taken.
        waiting = self._waiters.wait(len(self._changes), self._batches, timeout_seconds)
        return await waiting and not self._backlog

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
