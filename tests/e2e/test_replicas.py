"""Two routers on one Redis: either answers for both, and for one that died."""

from __future__ import annotations

import asyncio
import re

import aiohttp
import msgspec
import pytest

from tests.fleets import body, error_type, fleet, post, traces
from tests.processes import Json, Processes, RouterProcess
from tests.raw_tcp import RawConnection
from tests.waiting import PATIENCE_SECONDS

pytestmark = [pytest.mark.e2e, pytest.mark.redis]


async def test_either_replica_answers_for_both_and_says_the_same(processes: Processes):
    async with fleet(processes, replicas=2, redis=True) as running:
        first, second = running.routers
        for number in range(10):
            router = running.routers[number % 2]
            await post(router, "/generate", body(), request_id=f"shared-{number}")
        await running.settled()
        for number in range(10):
            one = await running.ended(f"shared-{number}", first)
            assert one == await running.ended(f"shared-{number}", second)
            assert one["status"] == "completed"
        assert await traces(first) == await traces(second)
        for router in running.routers:
            with pytest.raises(aiohttp.ClientResponseError, match="404"):
                await router.json("/v1/traces/nobody")
        ids = {"request_ids": ["shared-3", "unknown", "shared-1"]}
        batch = await second.json("/v1/traces/batch", method="POST", body=ids)
        assert [t["request_id"] for t in msgspec.convert(batch, list[Json])] == [
            "shared-3",
            "shared-1",
        ]
        stats = [msgspec.convert(await r.json("/v1/traces/stats"), Json) for r in running.routers]
        assert stats[0]["total_requests"] == stats[1]["total_requests"] == 10
        assert stats[0]["requests_per_node"] == stats[1]["requests_per_node"]
        assert {trace["router_id"] for trace in await traces(first)} == {
            trace["router_id"] for trace in await traces(second)
        }


async def test_a_running_request_is_seen_at_the_other_replica(processes: Processes):
    async with fleet(processes, replicas=2, redis=True) as running:
        async with await RawConnection.connect(running.router.port) as client:
            content = body(stream=True, sim="hang_after:after_events=1")
            await client.post("/generate", content, "X-Request-Id: seen\r\n")
            await client.read_until(b"data: ")
            trace = await running.reaches("seen", {"processing"}, running.routers[1])
            assert trace["worker_url"] in {worker.url for worker in running.workers}
        assert (await running.ended("seen", running.routers[1]))["status"] == "cancelled"


async def test_workers_have_the_same_names_at_every_replica(processes: Processes):
    async with fleet(processes, redis=True) as running:
        assert running.redis is not None
        urls = [worker.url for worker in reversed(running.workers)]
        other = await processes.start(
            RouterProcess(urls, "--drain-secs=0", redis_url=running.redis.url)
        )
        names: dict[str, set[object]] = {url: set() for url in urls}
        for number in range(12):
            router = (running.router, other)[number % 2]
            name = f"named-{number}"
            await post(router, "/generate", body(f"{number}"), request_id=name)
            trace = await running.ended(name)
            names[str(trace["worker_url"])].add(trace["node_id"])
        assert sorted(map(len, names.values())) == [1, 1]
        assert {*names[running.workers[0].url]} == {"worker-0"}
        await other.stop()


async def until_there_are(router: RouterProcess, status: str, count: int) -> list[Json]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            found = await traces(router, f"status={status}&limit=1000")
            if len(found) == count:
                return found
            await asyncio.sleep(0.1)


IN_FLIGHT = 500


async def test_requests_of_a_killed_router_are_lost_once_within_ten_seconds_and_others_go_on(
    processes: Processes,
):
    async with fleet(processes, replicas=3, redis=True) as running:
        doomed, survivor, other = running.routers
        clients = []
        for number in range(IN_FLIGHT):
            client = await RawConnection.connect(doomed.port)
            content = body(stream=True, sim="hang_after:after_events=1")
            await client.post("/generate", content, f"X-Request-Id: doomed-{number}\r\n")
            clients.append(client)
        for client in clients:
            await client.read_until(b"data: ")
        own = await RawConnection.connect(survivor.port)
        await own.post("/generate", body(sim="hang"), "X-Request-Id: unharmed\r\n")
        await until_there_are(survivor, "processing", IN_FLIGHT)
        await doomed.kill()
        for client in clients:
            client.close()
        lost = await until_there_are(survivor, "lost", IN_FLIGHT)  # it has ten seconds
        assert {trace["request_id"] for trace in lost} == {
            f"doomed-{number}" for number in range(IN_FLIGHT)
        }
        assert error_type(await running.trace("doomed-0", other)) == "router_lost"
        assert (await running.trace("unharmed", survivor))["status"] == "routed"
        own.close()
        assert (await running.ended("unharmed", survivor))["status"] == "cancelled"
        told = [
            int(found)
            for router in (survivor, other)
            for found in re.findall(r"(\d+) requests of a router that went away", router.log())
        ]
        assert sum(told) == IN_FLIGHT  # by one or by both, each once
        await processes.restart(doomed)
        assert (await running.trace("doomed-0", doomed))["status"] == "lost"


async def test_a_router_that_was_only_paused_takes_its_requests_back(processes: Processes):
    async with fleet(processes, replicas=2, redis=True) as running:
        paused, other = running.routers
        ending = asyncio.create_task(
            post(paused, "/generate", body(sim="drip:after_bytes=20,seconds=0.4"),
                 request_id="ending", seconds=30)
        )  # fmt: skip
        hanging = await RawConnection.connect(paused.port)
        content = body(stream=True, sim="hang_after:after_events=1")
        await hanging.post("/generate", content, "X-Request-Id: hanging\r\n")
        await hanging.read_until(b"data: ")
        await running.reaches("ending", {"processing"}, other)
        await running.reaches("hanging", {"processing"}, other)
        paused.pause()
        await until_there_are(other, "lost", 2)
        paused.resume()
        assert (await running.reaches("hanging", {"processing"}, other))["status"] == "processing"
        assert (await ending).status == 200
        trace = await running.reaches("ending", {"completed"}, other)
        assert "error" not in trace
        assert await traces(other, "status=lost") == []
        hanging.close()
        assert (await running.ended("hanging", other))["status"] == "cancelled"
