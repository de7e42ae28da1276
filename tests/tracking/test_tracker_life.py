"""A whole tracker, two of them, and what happens to the server between them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import AsyncIterator

import msgspec
import pytest

from tests import waiting
from tests.tracking.traces import live, now_us, record
from tests.tracking.trackers import Fleet, down, has, holds, is_now, one, rows, until
from tests.waiting import PATIENCE_SECONDS
from tracking.health import StoreHealth
from tracking.query import parse_query
from tracking.replicas import Events, Replicas
from tracking.stats_query import StatsQuery
from tracking.store import NodeNameTaken, Retention, SchemaMismatch, TraceStore
from tracking.tracker import Tracker, TrackerConfig
from tracking.view import StoreUnavailable

pytestmark = pytest.mark.redis


@pytest.fixture
async def fleet(own_server) -> AsyncIterator[Fleet]:
    one = Fleet(own_server.url)
    yield one
    with contextlib.suppress(ProcessLookupError):
        if own_server.process is not None:
            own_server.send(signal.SIGCONT)
    await one.close()


async def test_what_one_replica_puts_the_other_shows_and_its_own_shows_at_once(fleet):
    a, b = await fleet.tracker("a"), await fleet.tracker("b")
    running = live("k", request_id="mine", status="processing")
    a.put(running)
    assert (await one(a, "mine"))["status"] == "processing"
    running.move("completed")
    a.put(running)
    assert [row["status"] for row in await rows(a, status="completed")] == ["completed"]
    assert (await one(b, "mine"))["status"] == "completed"
    assert await a.get([]) is not None


async def test_a_request_just_put_is_found_at_another_replica_at_the_first_asking(
    fleet, monkeypatch
):
    monkeypatch.setattr("tracking.tracker.COMMIT_SECONDS", (1.0,))  # however slow this machine is
    a, b = await fleet.tracker("a"), await fleet.tracker("b")
    a.put(live("k", request_id="mine"))
    known, unknown = (await b.get(["mine", "nobody's"])).records
    assert msgspec.json.decode(known)["request_id"] == "mine"
    assert unknown is None


async def test_the_stats_object_is_the_one_of_the_contract(fleet):
    tracker = await fleet.tracker("a", max_entries=500, ttl_seconds=60)
    tracker.put(live("k1", node="worker-0"))
    tracker.put(live("k2", node="worker-1", status="processing"))
    stats = msgspec.json.decode(await tracker.stats())
    oldest, newest = stats.pop("oldest_trace"), stats.pop("newest_trace")
    # A fake does not tell; how much a real server uses is its own business.
    assert stats["store"].pop("memory_bytes") >= 0
    assert oldest <= newest
    assert newest == (await one(tracker, "k2"))["timestamp"]
    assert stats == {
        "total_requests": 2,
        "active_traces": 2,
        "requests_per_node": {"worker-0": 1, "worker-1": 1},
        "requests_per_status": {"completed": 1, "processing": 1},
        "requests_per_route": {"/generate": 1},
        "requests_per_policy": {"cache_aware": 1},
        "requests_per_model": {"m": 1},
        "in_flight": 1,
        "total_traces": 2,
        "node_distribution": {"worker-0": 1, "worker-1": 1},
        "status_distribution": {"completed": 1, "processing": 1},
        "route_distribution": {"/generate": 1},
        "config": {"enabled": True, "max_entries": 500, "ttl_seconds": 60},
        "store": {
            "kind": "redis",
            "state": "up",
            "buffered": 0,
            "buffered_bytes": 0,
            "dropped": 0,
            "failed_flushes": 0,
            "lost": 0,
            "memory_limit_bytes": 0,
        },
        "replicas": ["a"],
    }
    assert await tracker.delete(None) == 2
    empty = msgspec.json.decode(await tracker.stats())
    assert (empty["total_requests"], empty["oldest_trace"], empty["newest_trace"]) == (
        0,
        None,
        None,
    )


async def test_a_window_of_one_replica_shows_what_all_have_finished(fleet):
    a, b = await fleet.tracker("a"), await fleet.tracker("b")
    a.put(live("k1"))
    b.put(live("k2", node="worker-1", status="failed"))
    await rows(a)
    stats = msgspec.json.decode(await b.stats(StatsQuery(window_seconds=900, by=("node",))))
    assert stats["window"]["total"]["requests_per_status"] == {"completed": 1, "failed": 1}
    assert stats["window"]["total"]["error_rate"] == 0.5
    assert stats["window"]["by"]["node"].keys() == {"worker-0", "worker-1"}
    whole = msgspec.json.decode(await b.stats(StatsQuery(by=("model",))))
    assert whole["window"]["by"]["model"]["m"]["requests"] == 2
    assert list(stats)[:-1] == list(msgspec.json.decode(await b.stats()))


async def test_a_deleted_session_does_not_come_back_from_a_copy_kept_here(fleet):
    tracker = await fleet.tracker("a")
    for i in range(3):
        tracker.put(live(f"k{i}", session="s" if i else None))
    await rows(tracker)
    assert await tracker.delete_session("s") == 2
    tracker._writer.send_again()  # as after a fail-over
    assert [r["key"] for r in await rows(tracker)] == ["k0"]


async def test_pages_of_a_tracker_follow_their_cursor(fleet):
    tracker = await fleet.tracker("a")
    for i in range(5):
        tracker.put(live(f"k{i}", age_seconds=9 - i))
    first = await tracker.list(parse_query([("limit", "3")], now_us()))
    assert first.next_cursor is not None
    assert [r["key"] for r in await rows(tracker, cursor=first.next_cursor)] == ["k1", "k0"]


async def test_start_tells_the_log_and_the_clock(fleet, caplog):
    caplog.set_level(logging.INFO)
    await fleet.tracker("a")
    assert "Initializing request tracker" in [r.message for r in caplog.records]
    us, sent, received = fleet.clock[0]
    assert abs(us - now_us()) < 60_000_000
    assert received - 60 < sent <= received <= time.monotonic()


async def test_settings_that_differ_from_the_fleets_are_told_once(fleet, caplog):
    caplog.set_level(logging.INFO, "tracking")
    await fleet.tracker("large", max_entries=500, ttl_seconds=60)
    small = await fleet.tracker("small", max_entries=50, ttl_seconds=30)

    def told() -> list[str]:
        return [r.message for r in caplog.records if "this router asked for" in r.message]

    await waiting.until(told)
    await asyncio.sleep(1.2)  # another heartbeat
    assert told() == ["the fleet keeps 500 traces for 60 s; this router asked for 50 and 30 s"]
    assert msgspec.json.decode(await small.stats())["config"]["max_entries"] == 500


@pytest.mark.slow
async def test_requests_of_a_router_that_vanished_become_lost(fleet):
    a, b = await fleet.tracker("a"), await fleet.tracker("b")
    a.put(live("cut", status="processing"))
    a.put(live("done"))
    await until(lambda: has(b, "cut"))
    await a._tasks.end()  # no farewell: as SIGKILL would
    await until(lambda: is_now(b, "cut", "lost"))
    found = await one(b, "cut")
    assert found["error"]["type"] == "router_lost"
    assert (await one(b, "done"))["status"] == "completed"


def short_lived(store: TraceStore, owner: str) -> Replicas:
    return Replicas(
        store,
        StoreHealth(),
        Events(lambda _us, _sent, _received: None, lambda _at: None, lambda: None, lambda: None),
        owner=owner,
        own=Retention(100, 60),
        now=time.monotonic,
        lease_seconds=0.6,
        beat_seconds=0.1,
    )


async def test_two_routers_of_one_name_say_so_once_and_one_that_starts_again_does_not(
    own_server, caplog: pytest.LogCaptureFixture
):
    store = TraceStore.from_url(own_server.url, "f", Retention(100, 60))
    await short_lived(store, "a/before").beat()
    again = short_lived(store, "a/1")
    for _ in range(15):
        await again.beat()
        await asyncio.sleep(0.1)
    assert "--router-id" not in caplog.text
    namesake, other = short_lived(store, "a/2"), short_lived(store, "b/1")
    for _ in range(15):
        for each in (again, namesake, other):
            await each.beat()
        await asyncio.sleep(0.1)
    said = [r.getMessage() for r in caplog.records if "--router-id" in r.getMessage()]
    assert len(said) == 2
    assert all(line.startswith("another router is named a, too") for line in said)
    await store.close()


async def test_a_store_that_hangs_makes_nobody_lost(own_server):
    """Two replicas with short leases; one of them is busy elsewhere when the store comes back."""
    store = TraceStore.from_url(own_server.url, "f", Retention(100, 60))

    a, b = short_lived(store, "a/1"), short_lived(store, "b/1")
    await store.write([record("k", owner="b/1", status="processing")])
    for _ in range(16):
        await a.beat()
        await b.beat()
        assert await a.sweep() == 0
        await asyncio.sleep(0.1)
    own_server.send(signal.SIGSTOP)
    await asyncio.sleep(0.8)
    own_server.send(signal.SIGCONT)
    for _ in range(5):
        await a.beat()
        assert await a.sweep() == 0
        await asyncio.sleep(0.1)
    await b.beat()
    assert (await store.stats()).per_status == {"processing": 1}
    for _ in range(20):
        await a.beat()  # and now b is dead indeed
        await a.sweep()
        await asyncio.sleep(0.1)
    assert (await store.stats()).per_status == {"lost": 1}
    await store.close()


async def test_while_the_store_is_away_own_requests_answer_and_others_are_not_denied(
    fleet, own_server
):
    a = await fleet.tracker("a")
    own_server.kill()
    a.put(live("done", request_id="x"))
    a.put(live("running", status="processing", session="s"))
    await down(a)
    assert (await one(a, "x"))["key"] == "done"
    assert len((await a.get(["x", "running"])).records) == 2
    with pytest.raises(StoreUnavailable):
        await a.get(["x", "unknown"])
    page = await a.list(parse_query([("limit", "1")], now_us()))
    assert page.partial == "store-unavailable"
    assert [msgspec.json.decode(row)["key"] for row in page.rows] == ["running"]
    assert [r["key"] for r in await rows(a, cursor=page.next_cursor)] == ["done"]
    assert [r["key"] for r in await rows(a, session_id="s", status="processing")] == ["running"]
    assert [r["key"] for r in await rows(a, request_id_prefix="x", model="m")] == ["done"]
    assert [list(r) for r in await rows(a, fields="key,status", order="asc")] == [
        ["status", "key"], ["status", "key"],
    ]  # fmt: skip
    for call in (a.stats(), a.delete(None)):
        with pytest.raises(StoreUnavailable):
            await call
    state = a.state()
    assert (state.state, state.buffered) == ("down", 2)


async def test_a_list_is_refused_when_nothing_at_all_is_known_here(fleet, own_server):
    a = await fleet.tracker("a")
    own_server.kill()
    await down(a)
    with pytest.raises(StoreUnavailable):
        await a.list(parse_query([], now_us()))


async def test_a_hanging_store_never_hangs_an_answer(fleet, own_server):
    a = await fleet.tracker("a")
    a.put(live("k"))
    await rows(a)
    own_server.send(signal.SIGSTOP)
    a.put(live("k2"))
    async with asyncio.timeout(PATIENCE_SECONDS):  # promised is one second; the machine may be busy
        assert (await one(a, "k2"))["key"] == "k2"
    async with asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(StoreUnavailable):
            await a.stats()


async def test_after_an_outage_with_its_data_gone_the_last_seconds_and_running_ones_are_back(
    fleet, own_server
):
    a = await fleet.tracker("a")
    running = live("running", status="processing")
    a.put(running)
    a.put(live("before"))
    assert len(await rows(a)) == 2
    own_server.kill()
    a.put(live("during"))
    await down(a)
    own_server.start()
    await until(lambda: holds(a, {"running", "before", "during"}))
    b = await fleet.tracker("b")
    assert {r["key"] for r in await rows(b)} == {"running", "before", "during"}
    running.move("completed")
    a.put(running)
    assert await is_now(a, "running", "completed")
    assert a.state().buffered == 0


async def test_after_a_flush_of_all_data_what_runs_is_back_and_names_are_kept(fleet, own_server):
    a = await fleet.tracker("a")
    await a.bind_nodes(["http://w:1", "http://w:2"], {"http://w:2": "gpu-2"})
    a.put(live("running", status="processing", node="gpu-2"))
    await rows(a)
    await a._store._client.flushall()
    await until(lambda: holds(a, {"running"}))
    b = await fleet.tracker("b")
    assert await b.bind_nodes(["http://w:2", "http://w:1"]) == ["gpu-2", "worker-0"]
    assert fleet.renames == {}


async def test_a_start_without_the_store_goes_on_and_names_are_put_right_later(fleet, own_server):
    a = await fleet.tracker("a")
    assert await a.bind_nodes(["http://w:1"], {"http://w:1": "gpu-7"}) == ["gpu-7"]
    a.put(live("named", node="gpu-7"))
    await rows(a)
    own_server.send(signal.SIGSTOP)
    b = await fleet.tracker("b", start=False)
    async with asyncio.timeout(PATIENCE_SECONDS):  # promised are two seconds
        await b.start()
    assert await b.bind_nodes(["http://w:1"]) == ["worker-0"]
    b.put(live("early", node="worker-0"))
    own_server.send(signal.SIGCONT)
    await until(lambda: has(b, "early"))
    await until(lambda: holds(a, {"early", "named"}))
    assert (await one(a, "early"))["node_id"] == "gpu-7"
    assert fleet.renames == {"http://w:1": "gpu-7"}


async def test_a_rename_at_one_replica_reaches_the_others(fleet):
    a, b = await fleet.tracker("a"), await fleet.tracker("b")
    assert await a.bind_nodes(["http://w:1"]) == ["worker-0"]
    assert await b.bind_nodes(["http://w:1"], {"http://w:1": "gpu-2"}) == ["gpu-2"]
    async with asyncio.timeout(PATIENCE_SECONDS):
        while fleet.renames != {"http://w:1": "gpu-2"}:
            await asyncio.sleep(0.02)
    assert await a.bind_nodes(["http://w:2"]) == ["worker-1"]


async def test_one_name_for_two_workers_is_refused_and_both_are_named(fleet):
    a = await fleet.tracker("a")
    with pytest.raises(NodeNameTaken, match=r"http://w:2.*http://w:1|http://w:1.*http://w:2"):
        await a.bind_nodes(["http://w:1", "http://w:2"], {"http://w:1": "g", "http://w:2": "g"})


async def test_data_of_a_far_version_refuses_the_start(fleet):
    a = await fleet.tracker("a")
    await a._store._client.set("{default}:schema", 9)
    with pytest.raises(SchemaMismatch):
        await fleet.tracker("b")


async def test_closing_commits_what_is_left_and_leaves_the_fleet(fleet):
    a, b = await fleet.tracker("a"), await fleet.tracker("b")
    for i in range(250):
        a.put(live(f"k{i}"))
    await a.close(5)
    assert len(await rows(b, limit="1000")) == 250
    beat = await b._replicas.beat()
    assert beat.owners == [b.owner]


async def test_a_private_store_serves_and_leaves_nothing_behind(caplog):
    caplog.set_level(logging.INFO)
    tracker = Tracker(
        TrackerConfig(router_id="a"),
        now=time.monotonic,
        synchronise=lambda _us, _sent, _received: None,
    )
    await tracker.start()
    tracker.put(live("k"))
    assert [r["key"] for r in await rows(tracker)] == ["k"]
    assert tracker.state().kind == "embedded"
    embedded = tracker._embedded
    assert embedded is not None
    await tracker.close(2)
    assert not embedded.running
    assert not embedded._directory.exists()
    private = [r.message for r in caplog.records if r.message.startswith("No --redis-url")]
    assert private == [
        "No --redis-url: traces are kept in a private store, visible at this router only, gone when"
        " it stops"
    ]


async def test_a_private_store_that_dies_is_replaced():
    tracker = Tracker(
        TrackerConfig(router_id="a"),
        now=time.monotonic,
        synchronise=lambda _us, _sent, _received: None,
    )
    await tracker.start()
    tracker.put(live("k"))
    await rows(tracker)
    assert tracker._embedded is not None
    assert tracker._embedded._process is not None
    tracker._embedded._process.kill()
    await down(tracker)
    await until(lambda: holds(tracker, {"k"}))
    await tracker.close(2)
