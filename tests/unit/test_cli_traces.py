"""`trace-router traces clear`: deletion at the store, without a router and without a key."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from router.cli import main
from tests.processes import Processes, RedisProcess
from tracking.lifecycle import LiveTrace
from tracking.record import Record
from tracking.store import Retention, TraceStore


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisProcess]:
    async with Processes(tmp_path) as processes:
        yield await processes.start(RedisProcess())


def store(redis: RedisProcess, fleet: str) -> TraceStore:
    return TraceStore.from_url(redis.url, fleet, Retention(100, 3600), call_timeout_seconds=5)


async def write_one(redis: RedisProcess, fleet: str) -> None:
    trace = LiveTrace("r1", "r1", "random", arrived_us=int(time.time() * 1e6))
    traces = store(redis, fleet)
    await traces.write([Record(trace, "router")])
    await traces.close()


async def held(redis: RedisProcess, fleet: str) -> tuple[int, int]:
    traces = store(redis, fleet)
    stats = await traces.stats()
    await traces.close()
    return stats.active, stats.total


async def test_all_traces_of_one_fleet_are_deleted(
    redis: RedisProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    for fleet in ("one", "two"):
        await write_one(redis, fleet)
        assert await held(redis, fleet) == (1, 1)
    words = ["traces", "clear", "--redis-url", redis.url, "--fleet", "one"]
    assert await asyncio.to_thread(main, words) == 0
    assert capsys.readouterr().out == "1 traces of fleet 'one' deleted\n"
    assert await held(redis, "one") == (0, 0)
    assert await held(redis, "two") == (1, 1)


async def test_a_store_that_cannot_be_reached_fails_without_showing_its_password(
    redis: RedisProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    await redis.stop()
    url = f"redis://:s3cret@127.0.0.1:{redis.port}"
    assert await asyncio.to_thread(main, ["traces", "clear", "--redis-url", url]) == 1
    error = capsys.readouterr().err
    assert "cannot be reached" in error
    assert "s3cret" not in error


def test_the_store_must_be_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("REDIS_URL", "TRACE_ROUTER_REDIS_URL", "TRACE_ROUTER_REDIS_URL_FILE"):
        monkeypatch.delenv(name, raising=False)
    assert main(["traces", "clear"]) == 2
    assert "--redis-url: expected" in capsys.readouterr().err
