"""Tailing: everybody at this replica who watches the fleet's feed.

One task asks the store for what is new, 40 times a second, while somebody tails; nothing is asked or
written otherwise. It keeps the last events in one ring that all listeners share. A listener is no more
than a place: it takes what the ring has, at its own pace. One that fell behind the ring reads the feed
itself, and one that fell behind the feed is told how many events it missed. So a listener that stalls
holds nothing, and nobody waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import islice
from types import TracebackType
from typing import Final, Self

import msgspec

from tracking.feed import FeedEvent, FeedPage, Place, missed
from tracking.view import StoreUnavailable

log = logging.getLogger("tracking.tail")

POLL_SECONDS: Final = 0.025
RETRY_SECONDS: Final = 0.1
PAGE_EVENTS: Final = 500
SLICE_EVENTS: Final = 100  # for one listener at a time: what a client that stalls has in its buffer
RING_EVENTS: Final = 2000

Read = Callable[[Place | None, int], Awaitable[FeedPage]]
Wanted = Callable[[FeedEvent], bool]


class Dropped(msgspec.Struct, frozen=True):
    """Events are missing here, as many as `count`; None where nobody knows: the feed is another one
    than before, because the store lost its data or nobody has tailed for minutes."""

    count: int | None


class Interrupted(msgspec.Struct, frozen=True):
    """The store cannot be reached: what happens now is told later."""


class Resumed(msgspec.Struct, frozen=True):
    """The store is back."""


Told = FeedEvent | Dropped | Interrupted | Resumed


class Tail:
    """The feed at this replica. `read(after, limit)` asks the store and raises StoreUnavailable."""

    def __init__(self, read: Read, *, poll_seconds: float = POLL_SECONDS) -> None:
        self.closed = False
        self.ended = False
        """Closed, or crashed: no listener hears any more."""
        self.interrupted = False
        self.breaks = 0
        """How often the feed turned out to be another one; it went on at `broken_at`."""
        self.broken_at = Place(0, 0)
        self.changed = asyncio.Event()
        """Set, and replaced, when there is something new to look at."""
        self._read = read
        self._poll_seconds = poll_seconds
        self.listeners = 0
        self._place = Place(0, 0)
        self._doubtful = False
        self._ring: deque[FeedEvent] = deque(maxlen=RING_EVENTS)
        self._task: asyncio.Task[None] | None = None

    async def listen(self, last: Place | None, wanted: Wanted) -> Listener:
        """A listener from now on, or from just behind `last`. Raises StoreUnavailable."""
        tip = (await self._read(None, 0)).tip
        if last is None:
            return Listener(self, tip, wanted)
        if last.epoch == tip.epoch and last.number <= tip.number:
            return Listener(self, last, wanted)
        return Listener(self, Place(tip.epoch, 0), wanted, lost_place=True)

    def close(self) -> None:
        """End all listeners, now and later."""
        self.closed = self.ended = True
        self._notify()

    async def closed_down(self) -> None:
        """Wait for the task to end; `close` first."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def server_changed(self) -> None:
        """The store is another server, or has other data: what it told before it may tell anew."""
        self._doubtful = True

    def enter(self, place: Place) -> None:
        """A listener begins at `place`."""
        self.listeners += 1
        if self._task is None or self._task.done():
            self._place, self.interrupted, self.ended = place, False, self.closed
            self._doubtful = False
            self._ring.clear()
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(self._follow(), name="trace feed")
            self._task.add_done_callback(self._report_crash)

    def leave(self) -> None:
        self.listeners -= 1

    async def page(self, place: Place) -> FeedPage:
        """Events behind `place` that are no longer in the ring. Raises StoreUnavailable."""
        return await self._read(place, SLICE_EVENTS)

    def recent(self, place: Place) -> list[FeedEvent] | None:
        """Events behind `place`, some at a time; None where they are not in the ring."""
        here, ring = self._place, self._ring
        if place.epoch == here.epoch and place.number >= here.number:
            return []
        if not ring or place.epoch != here.epoch or ring[0].place.number > place.number + 1:
            return None
        start = place.number + 1 - ring[0].place.number
        return list(islice(ring, start, start + SLICE_EVENTS))

    async def _follow(self) -> None:
        while self.listeners and not self.closed:
            try:
                page = await self._read(self._place, PAGE_EVENTS)
            except StoreUnavailable as error:
                if not self.interrupted:
                    log.warning("the feed of traces is interrupted: %s", error)
                    self.interrupted = True
                    self._notify()
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if self.interrupted or self._doubtful or page.events or page.tip != self._place:
                self.interrupted = False
                self._take(page)
                self._notify()
            if not page.events or self._place == page.tip:
                await asyncio.sleep(self._poll_seconds)
        self._ring.clear()

    def _take(self, page: FeedPage) -> None:
        ring, events = self._ring, page.events
        # A fail-over can take a feed back behind what was read of it.
        behind = page.tip.epoch == self._place.epoch and page.tip.number < self._place.number
        if self._doubtful or behind or page.tip.epoch != self._place.epoch:
            self._doubtful = False
            self.breaks += 1
            ring.clear()
            first = events[0].place if events else page.tip
            self._place = self.broken_at = Place(page.tip.epoch, first.number - (len(events) > 0))
        if events:
            if missed(self._place, events[0].place):
                ring.clear()
            ring.extend(events)
            self._place = events[-1].place

    def _notify(self) -> None:
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    def _report_crash(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s crashed", task.get_name(), exc_info=error)
            self.ended = True
            self._notify()


class Listener:
    """One who tails: `async with` it, then ask for what is `next`, again and again."""

    def __init__(
        self, tail: Tail, place: Place, wanted: Wanted, *, lost_place: bool = False
    ) -> None:
        self.place = place
        """Just behind the last event looked at, whether it was wanted or not."""
        self._tail = tail
        self._wanted = wanted
        self._lost_place = lost_place
        self._interrupted = False
        self._breaks = tail.breaks

    async def __aenter__(self) -> Self:
        self._breaks = self._tail.breaks
        self._tail.enter(self.place)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tail.leave()

    async def next(self, patience_seconds: float) -> list[Told] | None:
        """What comes next, in order; nothing where nothing came in time; None at the end."""
        tail, loop = self._tail, asyncio.get_running_loop()
        end = loop.time() + patience_seconds
        while not tail.ended:
            changed, before = tail.changed, self.place
            told = self._news()
            if not self._interrupted:
                told += await self._events()
            if told:
                return told
            left = end - loop.time()
            if left <= 0:
                return []
            if before != self.place:
                await asyncio.sleep(0)  # what was looked at was not wanted; there may be more
            elif not await _set(changed, left):
                return []
        return None

    def _news(self) -> list[Told]:
        tail, told = self._tail, list[Told]()
        if self._interrupted != tail.interrupted:
            self._interrupted = tail.interrupted
            told.append(Interrupted() if self._interrupted else Resumed())
        if self._breaks != tail.breaks:
            self._breaks, self.place = tail.breaks, tail.broken_at
            self._lost_place = True
        if self._lost_place:
            self._lost_place = False
            told.append(Dropped(None))
        return told

    async def _events(self) -> list[Told]:
        told: list[Told] = []
        events = self._tail.recent(self.place)
        if events is None:
            events = await self._from_store()
        if events:
            if count := missed(self.place, events[0].place):
                told.append(Dropped(count))
            self.place = events[-1].place
        told += [event for event in events if event.row and self._wanted(event)]
        return told

    async def _from_store(self) -> list[FeedEvent]:
        try:
            page = await self._tail.page(self.place)
        except StoreUnavailable:
            page = None
        if page is None or page.tip.epoch != self.place.epoch or not page.events:
            await asyncio.sleep(RETRY_SECONDS)  # the task will notice, and say so
            return []
        return page.events


async def _set(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
