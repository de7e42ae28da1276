"""Four routers on one Redis, as processes: they see each other's load, prefixes and workers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import pytest

from tests.fleets import Fleet, body, fleet, metric, post
from tests.processes import Json, Processes, RouterProcess, SimWorker
from tests.raw_tcp import RawConnection
from tests.waiting import PATIENCE_SECONDS, POLL_SECONDS

pytestmark = [pytest.mark.e2e, pytest.mark.redis]

TEXT = "One prompt that is long enough to be worth a cache. " * 60


async def workers(router: RouterProcess) -> list[Json]:
    shown = msgspec.convert(await router.json("/workers"), Json)["workers"]
    return msgspec.convert(shown, list[Json])


async def load(router: RouterProcess) -> int:
    """Requests in flight at all workers, as this router knows them."""
    return sum(msgspec.convert(worker["load"], int) for worker in await workers(router))


async def becomes(ask: Callable[[], Awaitable[object]], wanted: object) -> None:
    """Ask until it is so. Raises TimeoutError."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await ask() != wanted:
            await asyncio.sleep(POLL_SECONDS)


async def all_show(running: Fleet, wanted: int) -> None:
    for router in running.routers:
        if router.returncode is None:
            await becomes(lambda router=router: load(router), wanted)  # type: ignore[misc]


async def all_know(routers: Sequence[RouterProcess], number: int) -> None:
    """Who is alone asks for others once a second."""
    for router in routers:
        await becomes(lambda r=router: metric(r, "trace_router_replicas"), number)  # type: ignore[misc]


async def hang(router: RouterProcess, name: str) -> RawConnection:
    """A request that stays at its worker until its client leaves."""
    client = await RawConnection.connect(router.port)
    await client.post("/generate", body(TEXT, sim="hang"), f"X-Request-Id: {name}\r\n")
    return client


async def test_the_load_of_a_replica_is_seen_by_all_and_goes_with_it(processes: Processes):
    async with fleet(processes, replicas=4, redis=True) as running:
        first, second, *_ = running.routers
        clients = [await hang(first, f"first-{n}") for n in range(3)]
        clients += [await hang(second, f"second-{n}") for n in range(2)]
        await all_show(running, 5)
        await all_know(running.routers, 4)
        await first.kill()
        await all_show(running, 2)  # with its lease
        for client in clients:
            client.close()
        await all_show(running, 0)
        for n in range(3):
            await running.reaches(f"first-{n}", {"lost"}, second)
        await processes.restart(first)
        await all_know(running.routers, 4)


async def test_a_replica_that_hangs_makes_the_others_careful_and_then_counts_no_more(
    processes: Processes,
):
    async with fleet(processes, replicas=2, redis=True) as running:
        hanging, other = running.routers
        client = await hang(hanging, "held")
        await becomes(lambda: load(other), 1)
        hanging.pause()
        numbers = iter(range(1000))

        async def quality() -> object:
            name = f"asked-{next(numbers)}"
            await post(other, "/generate", body("short"), request_id=name)
            decision = msgspec.convert((await running.ended(name, other))["decision"], Json)
            return decision["quality"]

        await becomes(quality, "degraded")
        await becomes(lambda: load(other), 0)  # it is out of the fleet
        assert await quality() == "exact"
        hanging.resume()
        await becomes(lambda: load(other), 1)
        client.close()
        await becomes(lambda: load(other), 0)


async def test_prompts_find_their_worker_through_any_replica_also_one_that_starts_late(
    processes: Processes,
):
    async with fleet(processes, workers=4, replicas=3, redis=True) as running:
        assert running.redis is not None
        await all_know(running.routers, 3)
        prompts = [f"Conversation {number}. {TEXT}" for number in range(8)]
        homes: dict[str, object] = {}
        for number, prompt in enumerate(prompts):
            router = running.routers[number % 3]
            await post(router, "/generate", body(prompt), request_id=f"first-{number}")
            homes[prompt] = (await running.ended(f"first-{number}"))["node_id"]
        urls = [worker.url for worker in running.workers]
        late = await processes.start(
            RouterProcess(urls, "--drain-secs=0", redis_url=running.redis.url)
        )
        await all_know([*running.routers, late], 4)
        for number, prompt in enumerate(prompts):
            router = (*running.routers[1:], running.routers[0], late)[number % 4]
            await post(router, "/generate", body(prompt), request_id=f"again-{number}")
            again = await running.ended(f"again-{number}")
            assert again["node_id"] == homes[prompt]
            assert again["cache_source"] == "engine"
            assert msgspec.convert(again["cache_hit_rate"], float) > 0.9
        await late.stop()


async def test_workers_come_and_go_at_all_replicas_through_an_outage_of_redis(
    processes: Processes,
):
    async with fleet(processes, workers=2, replicas=2, redis=True) as running:
        assert running.redis is not None
        first, second = running.routers
        added = await processes.start(SimWorker())
        await first.json("/workers", method="POST", body={"url": added.url, "priority": 3})
        await becomes(lambda: names(second), names_of(running, added))
        assert await names(first) == await names(second)
        await running.redis.kill()
        await asyncio.sleep(1.0)
        for router in running.routers:
            assert (await post(router, "/generate", body())).status == 200
        await processes.restart(running.redis)  # empty
        await becomes(lambda: metric(second, "trace_router_store_up"), 1)
        late = await processes.start(
            RouterProcess([], "--drain-secs=0", redis_url=running.redis.url)
        )
        for router in (first, second, late):
            await becomes(lambda r=router: names(r), names_of(running, added))  # type: ignore[misc]
        (shown,) = [worker for worker in await workers(late) if worker["url"] == added.url]
        assert shown["priority"] == 3
        await late.json(f"/workers/{shown['id']}", method="DELETE")
        for router in (first, second, late):
            await becomes(lambda r=router: names(r), names_of(running))  # type: ignore[misc]
        await late.stop()


async def names(router: RouterProcess) -> dict[object, object]:
    return {worker["url"]: worker["node_id"] for worker in await workers(router)}


def names_of(running: Fleet, *added: SimWorker) -> dict[object, object]:
    every = [*running.workers, *added]
    return {worker.url: f"worker-{number}" for number, worker in enumerate(every)}
