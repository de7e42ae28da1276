"""The version before and this one side by side on one Redis, under load, up and down again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from tests.e2e.previous import PreviousRouter, install
from tests.fleets import body, traces
from tests.processes import Json, Processes, RedisProcess, RouterProcess, SimWorker, free_port
from tests.raw_tcp import RawConnection
from tests.waiting import PATIENCE_SECONDS

pytestmark = [pytest.mark.e2e, pytest.mark.redis, pytest.mark.slow]


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> type[RouterProcess]:
    class Installed(PreviousRouter):
        installed = install(tmp_path_factory.mktemp("previous"))

    return Installed


class Site:
    """Two places for routers, and clients that go on sending to whichever is there."""

    def __init__(self, processes: Processes, redis: RedisProcess, workers: Sequence[str]) -> None:
        self.processes = processes
        self.redis = redis
        self.workers = workers
        self.ports = [free_port(), free_port()]
        self.routers: list[RouterProcess] = []
        self.sent: list[str] = []
        self.ended = False
        self.clients: list[asyncio.Task[None]] = []

    async def place(self, kind: type[RouterProcess], number: int) -> RouterProcess:
        """Put a router of that version in a place; the one that is there leaves first."""
        if len(self.routers) > number:
            assert await self.routers[number].stop() == 0
        router = kind(
            self.workers,
            "--drain-secs=0",
            "--policy=round_robin",
            redis_url=self.redis.url,
            port=self.ports[number],
        )
        self.routers[number : number + 1] = [router]
        return await self.processes.start(router)

    def load(self) -> None:
        self.clients = [asyncio.create_task(self._client(number)) for number in range(4)]

    async def _client(self, number: int) -> None:
        while not self.ended:
            name = f"load-{number}-{len(self.sent)}"
            for port in (self.ports[number % 2], self.ports[1 - number % 2]):
                try:
                    async with await RawConnection.connect(port) as connection:
                        await connection.post("/generate", body(), f"X-Request-Id: {name}\r\n")
                        answer = await connection.read_response(seconds=10)
                except (OSError, EOFError):
                    continue  # no router there now: a balancer would take the other
                assert answer.status == 200
                self.sent.append(name)
                break
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        self.ended = True
        await asyncio.gather(*self.clients)


async def same_everywhere(site: Site) -> None:
    """Both routers show every request, with the same content, and count the same."""
    known = site.sent[-900:]
    answers: list[list[Json]] = []
    for router in site.routers:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                asked = {"request_ids": known}
                found = msgspec.convert(
                    await router.json("/v1/traces/batch", method="POST", body=asked), list[Json]
                )
                if len(found) == len(known) and {one["status"] for one in found} == {"completed"}:
                    break
                await asyncio.sleep(0.1)
        answers.append(found)
    assert answers[0] == answers[1]


async def a_running_request_is_seen_and_lost(site: Site, here: int, name: str) -> None:
    """The router in place `here` dies with a request in flight; the other one tells."""
    doomed, other = site.routers[here], site.routers[1 - here]
    async with await RawConnection.connect(doomed.port) as client:
        content = body(stream=True, sim="hang_after:after_events=1")
        await client.post("/generate", content, f"X-Request-Id: {name}\r\n")
        await client.read_until(b"data: ")
        await until(other, name, "processing")
        await doomed.kill()
        await until(other, name, "lost")


async def until(router: RouterProcess, name: str, status: str) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            found = [one for one in await traces(router) if one["request_id"] == name]
            if found and found[0]["status"] == status:
                return
            await asyncio.sleep(0.1)


async def test_versions_share_a_store_while_a_fleet_goes_up_and_down_again(
    processes: Processes, previous: type[RouterProcess]
):
    redis = await processes.start(RedisProcess())
    workers = await asyncio.gather(*(processes.start(SimWorker()) for _ in range(2)))
    site = Site(processes, redis, [worker.url for worker in workers])
    every: list[tuple[type[RouterProcess], RouterProcess]] = []

    async def place(kind: type[RouterProcess], number: int) -> None:
        every.append((kind, await site.place(kind, number)))
        await asyncio.sleep(1.5)  # heartbeats of both, and some load
        if len(site.routers) == 2:
            await same_everywhere(site)

    await place(previous, 0)
    site.load()
    await place(previous, 1)
    for kind, number in (
        (RouterProcess, 0), (RouterProcess, 1), (previous, 1), (previous, 0), (RouterProcess, 1),
    ):  # fmt: skip
        await place(kind, number)
    await site.stop()
    await same_everywhere(site)
    old, new = [await counts(router) for router in site.routers]
    assert old == new
    assert msgspec.convert(new["total_requests"], int) >= len(site.sent)
    names = [{(one["worker_url"], one["node_id"]) for one in await traces(r)} for r in site.routers]
    assert names[0] == names[1]
    assert len(names[0]) == 2  # a worker has one name with both
    await a_running_request_is_seen_and_lost(site, 0, "cut-in-the-old")
    await site.processes.restart(site.routers[0])
    await asyncio.sleep(1.5)
    await a_running_request_is_seen_and_lost(site, 1, "cut-in-the-new")
    for _kind, router in every:
        log = router.log()
        assert "Traceback" not in log, log
        assert "unreachable" not in log, log


async def counts(router: RouterProcess) -> Json:
    """What both versions count, each in its own way."""
    stats = msgspec.convert(await router.json("/v1/traces/stats"), Json)
    fields = ("total_requests", "active_traces", "requests_per_node", "requests_per_status",
              "requests_per_route", "requests_per_policy", "requests_per_model")  # fmt: skip
    return {field: stats[field] for field in fields}
