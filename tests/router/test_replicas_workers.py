"""Workers that come, change and go at one replica do so at all, also around an outage of Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from router.app import App
from tests.processes import Processes, RedisProcess, free_port
from tests.running import Json, call, running, sim_worker
from tests.waiting import PATIENCE_SECONDS, until
from tracking.keys import LEASE_SECONDS

pytestmark = pytest.mark.redis


@pytest.fixture
async def processes(tmp_path) -> AsyncIterator[Processes]:
    async with Processes(tmp_path) as started:
        yield started


@pytest.fixture
async def redis(processes: Processes) -> RedisProcess:
    return await processes.start(RedisProcess())


def replica(redis: RedisProcess, *urls: str, **more: object):
    return running(*urls, enable_request_tracking=True, redis_url=redis.url, **more)


async def workers(app: App) -> list[Json]:
    shown = (await call(app, "GET", "/workers")).json["workers"]
    assert isinstance(shown, list)
    return shown


async def urls(app: App) -> set[object]:
    return {worker["url"] for worker in await workers(app)}


async def agree(*apps: App, on: set[str], seconds: float = 5.0) -> None:
    """All show the same list of workers, and it is this. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while True:
            lists = [await workers(app) for app in apps]
            same = all(shown == lists[0] for shown in lists)
            if same and {worker["url"] for worker in lists[0]} == on:
                return
            await asyncio.sleep(0.02)


async def test_a_worker_is_added_changed_and_deleted_everywhere_from_anywhere(
    redis: RedisProcess,
):
    async with (
        sim_worker() as one,
        sim_worker() as two,
        replica(redis, one.url) as a,
        replica(redis, one.url) as b,
    ):
        added = {"url": two.url, "priority": 7, "labels": {"zone": "a"}, "api_key": "secret"}
        worker_id = (await call(a, "POST", "/workers", added)).json["worker_id"]
        await agree(a, b, on={one.url, two.url})
        names = {worker["url"]: worker["node_id"] for worker in await workers(b)}
        assert names == {one.url: "worker-0", two.url: "worker-1"}
        await call(b, "PUT", f"/workers/{worker_id}", {"priority": 9, "api_key": "changed"})

        async def key_is_changed() -> str | None:
            worker = a.fleet.by_url(two.url)
            return None if worker is None else worker.api_key

        async with asyncio.timeout(PATIENCE_SECONDS):
            while await key_is_changed() != "changed":
                await asyncio.sleep(0.02)
        await agree(a, b, on={one.url, two.url})
        (changed,) = [w for w in await workers(a) if w["url"] == two.url]
        assert (changed["priority"], changed["metadata"]) == (9, {"zone": "a"})
        for app in (a, b):
            assert "changed" not in (await call(app, "GET", "/workers")).text
        await call(b, "DELETE", f"/workers/{worker_id}")
        await agree(a, b, on={one.url})


async def test_lists_that_differ_are_put_together_and_a_deletion_holds_for_who_runs(
    redis: RedisProcess,
):
    async with (
        sim_worker() as one,
        sim_worker() as two,
        replica(redis, one.url) as a,
    ):
        async with replica(redis, two.url) as b:
            await agree(a, b, on={one.url, two.url})
            (member,) = [m for m in b.registry.members if m.url == one.url]
            await call(b, "DELETE", f"/workers/{member.id}")
            await agree(a, b, on={two.url})
            async with replica(redis, one.url) as late:  # somebody means it
                await agree(a, b, late, on={one.url, two.url})


@pytest.mark.slow
async def test_a_static_worker_goes_with_the_last_replica_that_lists_it(redis: RedisProcess):
    async with sim_worker() as one, sim_worker() as two, replica(redis, one.url) as a:
        async with replica(redis, two.url) as b:
            await agree(a, b, on={one.url, two.url})
        await agree(a, on={one.url}, seconds=4 * LEASE_SECONDS)


async def test_a_replica_that_starts_finds_the_workers_that_were_added(redis: RedisProcess):
    async with sim_worker() as sim, replica(redis) as a:
        await call(a, "POST", "/workers", {"url": sim.url})
        async with replica(redis) as b:
            await agree(a, b, on={sim.url})
            async with replica(redis) as late:
                assert late.fleet.by_url(sim.url) is not None  # before its first request
                await agree(a, b, late, on={sim.url})


async def test_a_worker_that_could_not_be_added_is_nowhere(redis: RedisProcess):
    url = f"http://127.0.0.1:{free_port()}"
    async with replica(redis, worker_startup_timeout_secs=1) as a, replica(redis) as b:
        answer = await call(a, "POST", "/workers", {"url": url})
        member_id = str(answer.json["worker_id"])
        await until(lambda: b.registry.get(member_id))  # pending there, too
        member = a.registry.get(member_id)
        assert member is not None
        await member.settled.wait()
        await until(lambda: b.registry.get(member_id) is None, 10)
        assert (await workers(a), await workers(b)) == ([], [])
        shown = (await call(a, "GET", f"/workers/{member_id}")).json["job_status"]
        assert isinstance(shown, dict)
        assert shown["status"] == "failed"


async def test_a_worker_that_drains_at_one_replica_and_is_added_again_stays_at_all(
    redis: RedisProcess,
):
    async with sim_worker() as sim, replica(redis, sim.url) as a, replica(redis, sim.url) as b:
        held = asyncio.create_task(
            call(a, "POST", "/generate", {"text": "hi", "sim": "hang:seconds=30"})
        )
        await until(lambda: sim.sim.records.list("/generate"))
        (member,) = a.registry.members
        await call(b, "DELETE", f"/workers/{member.id}")
        await until(lambda: member.worker.draining)
        await until(lambda: not b.registry.members)
        await call(a, "POST", "/workers", {"url": sim.url})
        await until(lambda: not member.worker.draining and b.registry.members)
        held.cancel()
        await until(lambda: not member.worker.in_flight)
        await agree(a, b, on={sim.url})


async def test_what_was_done_while_redis_was_away_is_told_when_it_is_back_even_empty(
    processes: Processes, redis: RedisProcess
):
    async with sim_worker() as one, sim_worker() as two, sim_worker() as three:
        async with replica(redis, one.url) as a, replica(redis, one.url) as b:
            await call(a, "POST", "/workers", {"url": two.url, "priority": 7})
            await agree(a, b, on={one.url, two.url})
            await redis.kill()
            await until(lambda: a.store_state().state == "down")
            await call(a, "POST", "/workers", {"url": three.url})
            (member,) = [m for m in a.registry.members if m.url == one.url]
            await call(a, "DELETE", f"/workers/{member.id}")
            await agree(a, on={two.url, three.url})
            assert await urls(b) == {one.url, two.url}
            await processes.restart(redis)  # with nothing in it
            await agree(a, b, on={two.url, three.url}, seconds=15)
            (kept,) = [w for w in await workers(b) if w["url"] == two.url]
            assert kept["priority"] == 7


async def test_a_store_that_cannot_be_reached_leaves_a_router_with_its_own_workers():
    nowhere = f"redis://127.0.0.1:{free_port()}"
    async with (
        sim_worker() as one,
        sim_worker() as two,
        running(one.url, enable_request_tracking=True, redis_url=nowhere) as app,
    ):
        await call(app, "POST", "/workers", {"url": two.url})
        await agree(app, on={one.url, two.url})


async def test_what_one_replica_discovers_all_use_for_as_long_as_it_is_listed(
    redis: RedisProcess, tmp_path
):
    async with sim_worker() as one, sim_worker() as two, replica(redis, one.url) as a:
        path = tmp_path / "workers.json"
        path.write_text(f'[{{"url": "{two.url}", "priority": 7, "api_key": "its-own"}}]')
        async with replica(redis, discovery_file=str(path)) as b:
            await agree(a, b, on={one.url, two.url})
            (found,) = [w for w in await workers(a) if w["url"] == two.url]
            assert (found["priority"], found["origin"]) == (7, f"file:{path}")
            worker = a.fleet.by_url(two.url)
            assert worker is not None
            assert worker.api_key == "its-own"
            path.write_text("[]")
            await agree(a, b, on={one.url}, seconds=4 * LEASE_SECONDS)


async def test_while_redis_is_away_a_replica_goes_by_what_it_discovers(
    redis: RedisProcess, tmp_path
):
    async with sim_worker() as one, sim_worker() as two:
        path = tmp_path / "workers.json"
        path.write_text(f'["{one.url}"]')
        async with replica(redis, discovery_file=str(path)) as a:
            await until(lambda: a.fleet.by_url(one.url))
            redis.pause()
            path.write_text(f'["{two.url}"]')
            await until(lambda: [w.url for w in a.fleet.workers] == [two.url], 10)
            redis.resume()


@pytest.mark.parametrize("busy", [False, True])
async def test_a_renamed_worker_has_its_new_name_in_errors_that_hide_its_url(
    redis: RedisProcess, busy: bool
):
    slowly = {"text": "a", "sim": "drip:after_bytes=100,seconds=0.3"}
    async with (
        sim_worker() as one,
        replica(redis, one.url, hide_worker_urls=True, disable_retries=True) as a,
    ):
        first = asyncio.create_task(call(a, "POST", "/generate", slowly))
        worker = a.fleet.by_url(one.url)
        assert worker is not None
        await until(lambda: worker.in_flight == 1)
        if not busy:
            await first
        async with replica(redis, one.url, node_ids=("gpu-2",)):
            await until(lambda: worker.node_id == "gpu-2")
        assert (await first).status == 200
        cut = await call(a, "POST", "/generate", {"text": "a", "sim": "cut_mid_head"})
        assert "worker gpu-2 closed the connection" in cut.text
