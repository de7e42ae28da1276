"""The feed in the store: what is told, in which order, and what a reader can tell of what it missed."""

from __future__ import annotations

import msgspec
import pytest

from tests.tracking.traces import live, record
from tracking.feed import FeedPage, Place, missed, parse_place
from tracking.query import Matcher, TraceQuery
from tracking.record import Record
from tracking.store import Retention, TraceStore
from tracking.trace import Decision


async def begun(store: TraceStore) -> Place:
    return (await store.feed(None, 0)).tip


def seen(page: FeedPage) -> list[tuple[str, str]]:
    rows = [msgspec.json.decode(event.row) for event in page.events if event.row]
    return [(row["key"], row["status"]) for row in rows]


async def test_each_change_of_status_is_told_in_order(backend):
    store = backend.store()
    start = await begun(store)
    await store.write([record("a", status="queued", node="none", revision=1)])
    await store.write([record("a", status="routed", revision=2), record("b", status="rejected")])
    await store.write([record("a", revision=3)])
    page = await store.feed(start, 10)
    assert seen(page) == [("a", "queued"), ("a", "routed"), ("b", "rejected"), ("a", "completed")]
    assert [event.place.number for event in page.events] == [1, 2, 3, 4]
    assert page.tip == page.events[-1].place


async def test_a_retry_on_another_worker_is_told_and_other_changes_are_not(backend):
    store = backend.store()
    start = await begun(store)
    await store.write([record("a", status="routed", node="worker-0", revision=1)])
    await store.write([record("a", status="routed", node="worker-0", revision=2, engine="e")])
    await store.write([record("a", status="routed", node="worker-1", revision=3)])
    await store.write([record("a", status="routed", node="worker-1", revision=3)])  # a repeat
    nodes = [event.facts.node_id for event in (await store.feed(start, 10)).events]
    assert nodes == ["worker-0", "worker-1"]


async def test_an_event_is_the_row_that_lists_show(backend):
    store = backend.store()
    start = await begun(store)
    one = record("a")
    await store.write([one])
    (event,) = (await store.feed(start, 10)).events
    assert event.row == one.row
    assert event.frame == b"event: trace\nid: %b\ndata: %b\n\n" % (
        str(event.place).encode(),
        one.row,
    )


async def test_nothing_is_written_while_nobody_tails(backend):
    store = backend.store()
    await store.write([record("a")])
    assert "feed" not in await backend.keys()
    await begun(store)
    await store.write([record("b")])
    assert 0 < (await backend.keys())["feed"] <= 300


async def test_a_lost_request_is_told_and_so_is_its_return(backend):
    store = backend.store()
    start = await begun(store)
    await store.write([record("a", status="processing", revision=2, owner="dead/1")])
    assert await store.sweep() == (1, False)
    await store.write([record("a", status="processing", revision=2, owner="dead/1")])
    page = await store.feed(start, 10)
    assert [status for _, status in seen(page)] == ["processing", "lost", "processing"]
    assert page.events[1].facts.error is not None


async def test_pages_go_on_where_the_last_one_ended(backend):
    store = backend.store()
    place = await begun(store)
    await store.write([record(f"k{n}") for n in range(5)])
    keys: list[str] = []
    while (page := await store.feed(place, 2)).events:
        keys += [key for key, _ in seen(page)]
        place = page.events[-1].place
    assert keys == [f"k{n}" for n in range(5)]
    assert place == page.tip


async def test_a_page_of_large_rows_is_shorter_and_none_is_passed_over(backend):
    store = backend.store()
    place = await begun(store)
    large = []
    for number in range(160):
        one = live(f"k{number}")
        one.label = "x" * 7000
        large.append(Record(one, "a/1"))
    for batch in (large[:80], large[80:]):
        await store.write(batch)
    counts: list[int] = []
    keys: list[str] = []
    while (page := await store.feed(place, 500)).events:
        counts.append(len(page.events))
        keys += [key for key, _ in seen(page)]
        place = page.events[-1].place
    assert counts == [100, 60]
    assert keys == [record.key for record in large]


@pytest.mark.parametrize("which", ["one", "all"])
async def test_what_was_deleted_is_not_told_any_more_and_the_count_goes_on(backend, which):
    store = backend.store()
    start = await begun(store)
    await store.write([record("a"), record("b"), record("c")])
    await (store.delete("b") if which == "one" else store.delete_all())
    await store.write([record("d")])
    page = await store.feed(start, 10)
    assert seen(page) == [("d", "completed")]
    assert missed(start, page.events[0].place) == 3


async def test_a_feed_that_was_lost_is_another_one(backend):
    store = backend.store()
    before = await begun(store)
    await store.write([record("a")])
    await backend.client.delete(backend.key("feed"))
    await store.write([record("unheard")])
    after = await begun(store)
    assert after.epoch > before.epoch
    await store.write([record("b")])
    page = await store.feed(before, 10)
    assert seen(page) == [("b", "completed")]


@pytest.mark.slow
@pytest.mark.redis
async def test_the_feed_keeps_the_last_ten_thousand_and_counts_what_it_let_go(own_server):
    store = TraceStore.from_url(
        own_server.url, "f", Retention(100_000, 86_400), call_timeout_seconds=5
    )
    start = await begun(store)
    for batch in range(110):
        await store.write([record(f"k{batch}-{n}") for n in range(100)])
    page = await store.feed(start, 1)
    gone = missed(start, page.events[0].place)
    assert 900 <= gone <= 1000  # whole nodes of the stream are let go
    assert page.tip.number == 11_000
    await store.close()


@pytest.mark.parametrize("text", ["", "1", "1-2-3", "-1-2", "1-x", "1-", "²-1", "1" * 17 + "-1"])
def test_what_is_no_place_is_refused(text):
    with pytest.raises(ValueError, match="place"):
        parse_place(text)


def test_a_place_is_read_as_it_was_written():
    assert parse_place(str(Place(1764000000000000, 17))) == Place(1764000000000000, 17)


async def test_the_reason_of_the_decision_can_be_asked_for(backend):
    store = backend.store()
    start = await begun(store)
    chosen = live("a")
    chosen.decision = Decision("cache_aware", "prefix_match", "exact", 1, [], 0.0, 0.0)
    await store.write([Record(chosen, "a/1"), record("b")])
    wanted = Matcher(TraceQuery(reason="prefix_match"))
    events = (await store.feed(start, 10)).events
    assert [wanted.passes(event.facts) for event in events] == [True, False]
