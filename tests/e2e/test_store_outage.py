"""Redis goes away under load: requests flow, queries say so, nothing is missing after."""

from __future__ import annotations

import asyncio

import aiohttp
import msgspec
import pytest

from tests.fleets import Fleet, fleet, traces
from tests.processes import Json, Processes, RouterProcess
from tests.waiting import PATIENCE_SECONDS

pytestmark = [pytest.mark.e2e, pytest.mark.redis]


class Load:
    """Clients that go on sending; each request is remembered."""

    def __init__(self, running: Fleet) -> None:
        self.sent: list[str] = []
        self.statuses: set[int] = set()
        self._running = running
        self._stopped = asyncio.Event()
        self._clients: asyncio.Future[list[None]] | None = None

    async def _client(self, number: int) -> None:
        while not self._stopped.is_set():
            name = f"load-{number}-{len(self.sent)}"
            self.sent.append(name)
            answer = await self._running.generate(request_id=name)
            self.statuses.add(answer.status)
            await asyncio.sleep(0.01)

    def start(self) -> None:
        self._clients = asyncio.gather(*(self._client(number) for number in range(4)))

    async def stop(self) -> None:
        assert self._clients is not None
        self._stopped.set()
        await self._clients


async def stats(router: RouterProcess) -> Json:
    return msgspec.convert(await router.json("/v1/traces/stats"), Json)


async def all_there(running: Fleet, router: RouterProcess, sent: list[str]) -> None:
    """Every request of the outage is in the store, completed; asked of a replica."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            ids = {"request_ids": sent[:1000]}
            found = msgspec.convert(
                await router.json("/v1/traces/batch", method="POST", body=ids), list[Json]
            )
            if len(found) == len(sent[:1000]) and {t["status"] for t in found} == {"completed"}:
                return
            await asyncio.sleep(0.1)


async def queries_are_honest(router: RouterProcess, known: str) -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_SECONDS)) as http:
        async with http.get(f"{router.url}/v1/traces/never-heard-of") as response:
            assert response.status == 503
        async with http.get(f"{router.url}/v1/traces/stats") as response:
            assert response.status == 503
        async with http.get(f"{router.url}/v1/traces?limit=5") as response:
            assert response.status == 200
            assert response.headers["X-Trace-Partial"] == "store-unavailable"
            assert await response.json()
        async with http.get(f"{router.url}/v1/traces/{known}") as response:
            assert response.status == 200
            assert (await response.json())["request_id"] == known
        async with http.get(f"{router.url}/readiness") as response:
            assert response.status == 200


@pytest.mark.parametrize("outage", ["killed", "stopped"])
async def test_requests_flow_through_an_outage_and_their_traces_are_filled_in_after(
    processes: Processes, outage: str
):
    async with fleet(processes, replicas=2, redis=True) as running:
        assert running.redis is not None
        load = Load(running)
        load.start()
        await asyncio.sleep(0.5)
        if outage == "killed":
            await running.redis.kill()
        else:
            running.redis.pause()
        await asyncio.sleep(1.5)
        during = len(load.sent)
        await asyncio.sleep(0.5)
        assert len(load.sent) > during  # they flow
        known = load.sent[-20]
        await queries_are_honest(running.router, known)
        if outage == "killed":
            await processes.restart(running.redis)
        else:
            running.redis.resume()
        await asyncio.sleep(0.5)
        await load.stop()
        assert load.statuses == {200}
        # Records older than the last ten seconds died with a killed Redis; here none is older.
        for router in running.routers:
            await all_there(running, router, load.sent)
        assert len(await traces(running.routers[1])) == min(1000, len(load.sent))


async def test_a_hang_of_redis_makes_nobody_lost(processes: Processes):
    async with fleet(processes, replicas=2, redis=True) as running:
        assert running.redis is not None
        held = asyncio.create_task(
            running.generate(request_id="held", sim="drip:after_bytes=20,seconds=0.4")
        )
        await running.reaches("held", {"processing"})
        running.redis.pause()
        await asyncio.sleep(6)
        running.redis.resume()
        for router in running.routers:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while True:
                    try:
                        await stats(router)
                        break
                    except aiohttp.ClientResponseError:
                        await asyncio.sleep(0.1)
        assert await traces(running.router, "status=lost&limit=10") == []
        assert (await held).status == 200
        trace = await running.reaches("held", {"completed", "lost"}, running.routers[1])
        assert trace["status"] == "completed"
