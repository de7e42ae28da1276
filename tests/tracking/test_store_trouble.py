"""A store that is slow, refuses, or forgets: what its records and its log come to."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import signal
import socket
import struct
import threading
from collections.abc import AsyncIterator

import msgspec
import pytest
import uvloop
from redis.asyncio import Redis

from tests.tracking.proxy import SlowProxy
from tests.tracking.traces import live, now_us
from tests.tracking.trackers import Fleet, down, one, rows, until
from tracking.query import parse_query
from tracking.store import Retention, TraceStore
from tracking.tracker import Tracker
from tracking.view import StoreUnavailable

pytestmark = pytest.mark.redis


@pytest.fixture
async def fleet(own_server) -> AsyncIterator[Fleet]:
    trackers = Fleet(own_server.url)
    yield trackers
    with contextlib.suppress(ProcessLookupError):
        own_server.send(signal.SIGCONT)
    await trackers.close()


@pytest.fixture
async def server(own_server) -> AsyncIterator[Redis]:
    """A way to the server beside the trackers."""
    client = Redis.from_url(own_server.url)
    yield client
    await client.aclose()


def changes(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The breaker's lines, in short."""
    lines = [one.message for one in caplog.records if one.name == "tracking.store"]
    return [line.split(" (")[0].removeprefix("trace store: ") for line in lines]


async def stored(tracker: Tracker) -> int:
    return int(msgspec.json.decode(await tracker.stats())["total_requests"])


async def test_a_store_200_ms_away_is_not_down_and_is_kept_up_with(own_server, caplog):
    caplog.set_level(logging.INFO, "tracking")
    async with SlowProxy(str(own_server.path), 0.2) as proxy:
        fleet = Fleet(proxy.url)
        tracker = await fleet.tracker("far")
        assert tracker.state().state == "up"
        for turn in range(100):  # 2,000 a second
            for number in range(20):
                tracker.put(live(f"k{turn}-{number}"))
            await asyncio.sleep(0.01)
        assert len(await rows(tracker, limit="10")) == 10
        assert (await one(tracker, "k99-19"))["status"] == "completed"
        page = await asyncio.gather(*(rows(tracker, limit="1") for _ in range(8)))
        assert all(len(found) == 1 for found in page)
        await until(lambda: _is_empty(tracker))
        assert await stored(tracker) == 2000
        assert tracker.state().dropped == 0
        await fleet.close()
    assert changes(caplog) == []


async def test_a_read_only_replica_takes_nothing_and_nothing_is_lost(fleet, server, caplog):
    caplog.set_level(logging.INFO, "tracking")
    tracker = await fleet.tracker("a")
    tracker.put(live("before"))
    await rows(tracker)
    await server.replicaof("127.0.0.1", "1")
    tracker.put(live("during"))
    await down(tracker)
    assert (await one(tracker, "during"))["key"] == "during"
    with pytest.raises(StoreUnavailable):
        await tracker.get(["nobody"])
    await server.replicaof("NO", "ONE")
    await until(lambda: _is_empty(tracker))
    assert {row["key"] for row in await rows(tracker)} == {"before", "during"}
    assert changes(caplog) == ["unreachable", "reachable again"]
    assert "read-only replica" in caplog.text


async def test_a_store_without_memory_takes_nothing_and_nothing_is_lost(fleet, server, caplog):
    caplog.set_level(logging.INFO, "tracking")
    tracker = await fleet.tracker("a")
    tracker.put(live("before"))
    await rows(tracker)
    await server.config_set("maxmemory", 1)
    for number in range(150):
        tracker.put(live(f"k{number}"))
    await down(tracker)
    await asyncio.sleep(1.2)  # heartbeats go through all the time, and must not call it well
    page = await tracker.list(parse_query([("limit", "1000")], now_us()))
    assert (page.partial, len(page.rows)) == ("store-unavailable", 151)
    await server.config_set("maxmemory", 0)
    await until(lambda: _is_empty(tracker))
    assert await stored(tracker) == 151
    assert changes(caplog) == ["unreachable", "reachable again"]


async def test_data_and_scripts_that_vanish_under_load_cost_only_what_was_old(fleet, server):
    a, b = await fleet.tracker("a"), await fleet.tracker("b")
    running = {tracker: live(f"run-{name}", status="processing") for name, tracker in
               (("a", a), ("b", b))}  # fmt: skip
    for tracker, trace in running.items():
        tracker.put(trace)
    count = 0
    for turn in range(60):
        for tracker in (a, b):
            tracker.put(live(f"k{count}"))
            count += 1
        if turn == 20:
            await server.script_flush()
        if turn == 30:
            await server.flushall()
        await asyncio.sleep(0.02)
    await until(lambda: _total(a, count + 2))
    # Nobody was taken for dead, although every lease was gone with the data.
    assert await rows(a, status="lost") == []
    for tracker, trace in running.items():
        trace.move("completed")
        tracker.put(trace)
    await until(lambda: _is_empty(b))
    assert msgspec.json.decode(await a.stats())["requests_per_status"] == {"completed": count + 2}


async def _is_empty(tracker: Tracker) -> bool:
    state = tracker.state()
    return state.state == "up" and state.buffered == 0


async def _total(tracker: Tracker, count: int) -> bool:
    return await stored(tracker) == count


def hangs_up(listening: socket.socket) -> None:
    """Every client is refused and reset, as a Redis in protected mode does; half of them at once."""
    for number in itertools.count():
        try:
            client, _ = listening.accept()
        except OSError:  # the test is over
            return
        with client, contextlib.suppress(OSError):
            if number % 2:
                client.recv(4096)
            client.sendall(b"-DENIED not you\r\n")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_a_server_that_hangs_up_while_it_is_written_to_is_one_that_cannot_be_reached():
    """On uvloop, as in the router: it has an error of its own for that."""

    async def heartbeats(url: str) -> None:
        store = TraceStore.from_url(url, "refused", Retention(10, 60))
        for _ in range(100):
            with pytest.raises(StoreUnavailable):
                await store.heartbeat("me", lease_seconds=1.0, urls=[])
        await store.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=hangs_up, args=[listening], daemon=True).start()
        uvloop.run(heartbeats(f"redis://127.0.0.1:{listening.getsockname()[1]}"))
        listening.shutdown(socket.SHUT_RDWR)
