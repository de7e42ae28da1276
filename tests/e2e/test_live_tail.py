"""The live tail with two routers on one Redis: any replica tells what happens at all of them."""

from __future__ import annotations

import asyncio

import pytest

from tests.fleets import body, fleet, post
from tests.processes import Processes, RedisProcess
from tests.tailing import Stalled, tailing
from tests.tracking.traces import record
from tracking.store import Retention, TraceStore

pytestmark = [pytest.mark.e2e, pytest.mark.redis]


def store_of(redis: RedisProcess) -> TraceStore:
    """The fleet's store, to write records of a router that is not there."""
    return TraceStore.from_url(redis.url, "default", Retention(100_000, 3600))


async def test_either_replica_tells_what_happens_at_both(processes: Processes):
    async with fleet(processes, replicas=2, redis=True) as running:
        first, second = running.routers
        async with tailing(first.url) as one, tailing(second.url) as other:
            for number in range(6):
                await post(
                    running.routers[number % 2], "/generate", body(), request_id=f"r{number}"
                )
            names = {f"r{number}" for number in range(6)}
            for tail in (one, other):
                missing = set(names)  # the replicas commit in no order among themselves
                while missing:
                    event = await tail.next("trace")
                    if event.data["status"] == "completed":
                        missing.remove(str(event.data["request_id"]))
            assert [e.id for e in one.events] == [e.id for e in other.events]


async def test_a_client_goes_on_at_another_replica_when_its_own_stops(processes: Processes):
    async with fleet(processes, replicas=2, redis=True) as running:
        first, second = running.routers
        async with tailing(first.url, "status=completed") as tail:
            await post(second, "/generate", body(), request_id="before")
            await tail.until("before", "completed")
            await first.stop()
            assert await tail.read() is None  # a clean end
            last = tail.last_id
        await post(second, "/generate", body(), request_id="between")
        async with tailing(second.url, "status=completed", {"Last-Event-ID": last}) as tail:
            await post(second, "/generate", body(), request_id="after")
            await tail.until("after", "completed")
            assert [e.data["request_id"] for e in tail.events] == ["between", "after"]


async def test_a_reader_that_stalls_is_told_its_count_while_others_hear_all(processes: Processes):
    async with fleet(processes, workers=1, replicas=2, redis=True) as running:
        assert running.redis is not None
        store = store_of(running.redis)
        async with (
            Stalled(running.routers[0].port) as stalled,
            tailing(running.routers[0].url) as here,
            tailing(running.routers[1].url) as there,
        ):
            sent = 30_000  # ten thousand more than feed and sockets hold

            async def write() -> None:
                for batch in range(0, sent, 100):
                    await store.write([record(f"{batch + n}") for n in range(100)])
                    await asyncio.sleep(0.005)

            last = str(sent - 1)
            await asyncio.gather(
                write(), here.until(last, "completed"), there.until(last, "completed")
            )
            for tail in (here, there):
                assert [e.data["request_id"] for e in tail.events] == [str(n) for n in range(sent)]
            events = await stalled.catch_up(str(sent - 1))
            dropped = [e for e in events if e.name == "dropped"]
            told = [e for e in events if e.name == "trace"]
            assert len(dropped) == 1
            count = dropped[0].data["count"]
            assert isinstance(count, int)
            assert count > 0
            assert len(told) + count == sent
        await store.close()


@pytest.mark.parametrize("outage", ["killed", "stopped"])
async def test_an_outage_of_redis_is_told_and_its_end(processes: Processes, outage: str):
    async with fleet(processes, replicas=2, redis=True) as running:
        assert running.redis is not None
        async with tailing(running.routers[0].url, "status=completed") as tail:
            await running.generate(request_id="before")
            await tail.until("before", "completed")
            if outage == "killed":
                await running.redis.kill()
            else:
                running.redis.pause()
            await tail.next("interrupted")
            await post(running.routers[1], "/generate", body(), request_id="during")
            if outage == "killed":
                await processes.restart(running.redis)
            else:
                running.redis.resume()
            await tail.next("resumed")
            if outage == "killed":  # with its data: nobody knows what is missing
                assert (await tail.next("dropped")).data == {"count": None}
            else:
                await tail.until("during", "completed")
            await running.ended("during")
            await post(running.routers[1], "/generate", body(), request_id="after")
            await tail.until("after", "completed")
