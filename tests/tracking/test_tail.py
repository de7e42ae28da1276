"""Tailing at one replica: each listener gets every event once, or is told how many it missed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracking.feed import FeedEvent, FeedPage, Place
from tracking.tail import Dropped, Interrupted, Listener, Resumed, Tail, Told
from tracking.view import StoreUnavailable


class Feed:
    """A feed as the store keeps it, in memory."""

    def __init__(self, cap: int = 10_000) -> None:
        self.cap = cap
        self.epoch, self.number = 1, 0
        self.events: list[FeedEvent] = []
        self.down = self.crash = False
        self.reads = 0

    def tell(self, count: int = 1) -> None:
        for _ in range(count):
            self.number += 1
            place = Place(self.epoch, self.number)
            self.events.append(FeedEvent(place, b'{"n":%d}' % self.number))
        del self.events[: -self.cap]

    def lose(self, epoch: int | None = None, number: int = 0) -> None:
        """The store comes back with other data."""
        self.epoch = self.epoch + 1 if epoch is None else epoch
        self.number = number
        self.events = [
            e for e in self.events if e.place in [(self.epoch, n + 1) for n in range(number)]
        ]

    async def read(self, after: Place | None, limit: int) -> FeedPage:
        self.reads += 1
        await asyncio.sleep(0)
        if self.down:
            raise StoreUnavailable("down")
        if self.crash:
            raise RuntimeError("a bug")
        tip = Place(self.epoch, self.number)
        if after is None:
            return FeedPage(tip, [])
        behind = [e for e in self.events if after.epoch != self.epoch or e.place > after]
        return FeedPage(tip, behind[:limit])


def everything(_event: FeedEvent) -> bool:
    return True


@pytest.fixture(autouse=True)
def the_store_is_asked_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracking.tail.RETRY_SECONDS", 0)


async def looks(feed: Feed, count: int) -> None:
    """Until the tail has asked `feed` so often."""
    before = feed.reads
    while feed.reads < before + count:
        await asyncio.sleep(0)


async def heard(feed: Feed, listener: Listener) -> list[Told]:
    """All there is to hear now."""
    told: list[Told] = []
    while True:
        await looks(feed, 3)
        before = listener.place
        news = await listener.next(0)
        assert news is not None
        if not news and listener.place == before:
            return told
        told += news


def numbers(told: list[Told]) -> list[int]:
    return [one.place.number for one in told if isinstance(one, FeedEvent)]


def others(told: list[Told]) -> list[Told]:
    return [one for one in told if not isinstance(one, FeedEvent)]


def quick(feed: Feed) -> Tail:
    return Tail(feed.read, poll_seconds=0)


async def test_a_listener_hears_what_happens_from_now_on():
    feed = Feed()
    feed.tell(3)
    async with await quick(feed).listen(None, everything) as listener:
        feed.tell(2)
        assert numbers(await heard(feed, listener)) == [4, 5]


async def test_a_listener_that_comes_back_goes_on_where_it_was():
    feed = Feed()
    tail = quick(feed)
    feed.tell(7)
    async with await tail.listen(Place(1, 4), everything) as listener:
        feed.tell(1)
        assert numbers(await heard(feed, listener)) == [5, 6, 7, 8]


async def test_one_that_comes_back_too_late_is_told_how_many_events_are_gone():
    feed = Feed(cap=10)
    feed.tell(30)
    async with await quick(feed).listen(Place(1, 4), everything) as listener:
        told = await heard(feed, listener)
    assert told[0] == Dropped(16)
    assert numbers(told) == list(range(21, 31))


@pytest.mark.parametrize("last", [Place(0, 9), Place(2, 1), Place(1, 99)])
async def test_one_that_comes_back_to_another_feed_is_told_that_nobody_knows(last):
    feed = Feed()
    feed.tell(2)
    async with await quick(feed).listen(last, everything) as listener:
        told = await heard(feed, listener)
    assert told[0] == Dropped(None)
    assert numbers(told) == [1, 2]


async def test_one_that_stalls_is_told_its_count_and_another_hears_all():
    feed = Feed(cap=5000)
    tail = quick(feed)
    stalled = await tail.listen(None, everything)
    async with stalled, await tail.listen(None, everything) as other:
        all_told: list[Told] = []
        for _ in range(120):
            feed.tell(100)
            all_told += await heard(feed, other)
        assert numbers(all_told) == list(range(1, 12_001))
        assert others(all_told) == []
        told = await heard(feed, stalled)
    assert told[0] == Dropped(7000)
    assert numbers(told) == list(range(7001, 12_001))


async def test_one_that_is_merely_slow_loses_nothing():
    feed = Feed()
    async with await quick(feed).listen(None, everything) as listener:
        feed.tell(5000)  # more than is kept at the replica
        await looks(feed, 15)
        told = await heard(feed, listener)
    assert numbers(told) == list(range(1, 5001))
    assert others(told) == []


async def test_filters_hold_events_back_and_the_place_moves_on():
    feed = Feed()

    def seventh(event: FeedEvent) -> bool:
        return event.place.number % 700 == 0

    async with await quick(feed).listen(None, seventh) as listener:
        feed.tell(3000)
        assert numbers(await heard(feed, listener)) == [700, 1400, 2100, 2800]
        assert listener.place == Place(1, 3000)


async def test_what_was_deleted_is_passed_over():
    feed = Feed()
    async with await quick(feed).listen(None, everything) as listener:
        feed.tell(3)
        feed.events[1].row = b""
        assert numbers(await heard(feed, listener)) == [1, 3]


async def test_an_outage_is_told_and_its_end_and_nothing_is_missing():
    feed = Feed()
    async with await quick(feed).listen(None, everything) as listener:
        feed.tell(1)
        assert numbers(await heard(feed, listener)) == [1]
        feed.down = True
        assert await heard(feed, listener) == [Interrupted()]
        feed.tell(2)
        feed.down = False
        told = await heard(feed, listener)
    assert told[0] == Resumed()
    assert numbers(told) == [2, 3]


@pytest.mark.parametrize(("epoch", "number"), [(2, 0), (1, 1)])
async def test_a_store_that_comes_back_with_other_data_is_told(epoch, number):
    feed = Feed()
    async with await quick(feed).listen(None, everything) as listener:
        feed.tell(3)
        assert numbers(await heard(feed, listener)) == [1, 2, 3]
        feed.lose(epoch, number)
        assert await heard(feed, listener) == [Dropped(None)]
        feed.tell(1)
        assert numbers(await heard(feed, listener)) == [number + 1]


async def test_another_server_may_have_lost_what_its_numbers_do_not_show():
    feed = Feed()
    tail = quick(feed)
    async with await tail.listen(None, everything) as listener:
        feed.tell(3)
        assert numbers(await heard(feed, listener)) == [1, 2, 3]
        feed.down = True
        assert await heard(feed, listener) == [Interrupted()]
        feed.lose(1, 1)
        feed.tell(4)  # as many as were lost, and more
        tail.server_changed()
        feed.down = False
        told = await heard(feed, listener)
        assert others(told) == [Resumed(), Dropped(None)]
        assert numbers(told) == [4, 5]


async def test_a_crash_ends_the_listeners_and_the_next_one_begins_anew(caplog):
    feed = Feed()
    tail = quick(feed)
    async with await tail.listen(None, everything) as listener:
        feed.crash = True
        assert await listener.next(10) is None
    assert "trace feed crashed" in caplog.text
    feed.crash = False
    async with await tail.listen(None, everything) as listener:
        feed.tell(1)
        assert numbers(await heard(feed, listener)) == [1]


async def test_a_store_that_is_away_lets_nobody_begin():
    feed = Feed()
    feed.down = True
    with pytest.raises(StoreUnavailable):
        await quick(feed).listen(None, everything)


async def test_nobody_asks_the_store_when_nobody_listens():
    feed = Feed()
    tail = quick(feed)
    async with await tail.listen(None, everything) as listener:
        await heard(feed, listener)
    await tail.closed_down()
    reads = feed.reads
    await asyncio.sleep(0.05)
    assert feed.reads == reads
    async with await tail.listen(None, everything) as listener:
        feed.tell(1)
        assert numbers(await heard(feed, listener)) == [1]


async def test_closing_ends_every_listener():
    feed = Feed()
    tail = quick(feed)
    async with await tail.listen(None, everything) as listener:
        waiting = asyncio.create_task(listener.next(10))
        await asyncio.sleep(0)
        tail.close()
        assert await waiting is None
        assert await listener.next(10) is None
    await tail.closed_down()


STEP = st.one_of(
    st.tuples(st.just("tell"), st.integers(1, 40)),
    st.tuples(st.just("listen"), st.integers(0, 2)),
    st.tuples(st.just("blink"), st.just(0)),
)


@settings(max_examples=25)
@given(st.lists(STEP, max_size=25), st.integers(1, 60))
def test_what_is_heard_and_what_is_dropped_is_everything_in_order(steps, cap):
    async def story() -> None:
        feed = Feed(cap)
        tail = quick(feed)
        listeners = [await tail.listen(None, everything) for _ in range(3)]
        told: list[list[Told]] = [[] for _ in listeners]

        for listener in listeners:
            await listener.__aenter__()
        actions: dict[str, Callable[[int], object]] = {"tell": feed.tell}
        for what, number in steps:
            if what == "listen":
                told[number] += await listeners[number].next(0) or []
            elif what == "blink":
                feed.down = not feed.down
                await asyncio.sleep(0)
            else:
                actions[what](number)
        feed.down = False
        for which, listener in enumerate(listeners):
            told[which] += await heard(feed, listener)
            place = 0
            for one in told[which]:
                if isinstance(one, Dropped):
                    assert one.count is not None
                    place += one.count
                elif isinstance(one, FeedEvent):
                    assert one.place.number == place + 1
                    place += 1
            assert place == feed.number
            await listener.__aexit__(None, None, None)
        await tail.closed_down()

    asyncio.run(story())
