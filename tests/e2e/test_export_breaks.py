"""An export from real processes: the same at every replica, and never cut without a sign of it."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from tests.fleets import fleet, traces
from tests.processes import Processes, RedisProcess, RouterProcess
from tests.raw_tcp import RawConnection
from tests.tracking.traces import record
from tests.waiting import PATIENCE_SECONDS
from tracking.store import Retention, TraceStore

pytestmark = [pytest.mark.e2e, pytest.mark.redis]

TRACES = 12_000  # more than fits into the sockets between


async def filled(redis: RedisProcess) -> None:
    store = TraceStore.from_url(redis.url, "default", Retention(100_000, 3600))
    for batch in range(0, TRACES, 100):
        await store.write([record(f"{batch + n:05}", age_seconds=1) for n in range(100)])
    await store.close()


async def answering(router: RouterProcess) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                await traces(router)
            except aiohttp.ClientResponseError:
                await asyncio.sleep(0.1)
            else:
                return


async def test_an_export_is_whole_at_either_replica_and_cut_when_redis_dies(processes: Processes):
    async with fleet(processes, replicas=2, redis=True) as running:
        assert running.redis is not None
        await filled(running.redis)
        bodies = []
        for router in running.routers:
            async with await RawConnection.connect(router.port) as client:
                await client.get("/v1/traces/export?order=asc")
                bodies.append((await client.read_response()).body)
        assert bodies[0].count(b"\n") == TRACES
        assert bodies[0] == bodies[1]
        async with await RawConnection.connect(running.router.port, receive_buffer=4096) as client:
            await client.get("/v1/traces/export")
            await client.read_until(b"\r\n\r\n")
            await running.redis.kill()
            with pytest.raises((EOFError, ConnectionResetError)):
                await client.read_until(b"\r\n0\r\n\r\n")
        await processes.restart(running.redis)
        for router in running.routers:
            await answering(router)
