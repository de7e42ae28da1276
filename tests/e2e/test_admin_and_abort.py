"""What clients ask of the workers through the router, and how requests are called off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import msgspec
import pytest

from router.app import App
from tests.processes import Processes, RedisProcess, free_port
from tests.running import InProcessWorker, Json, call, running, sim_worker
from tests.sim.call import WorkerConfig
from tests.sim.engine import EngineConfig
from tests.waiting import PATIENCE_SECONDS, until

pytestmark = pytest.mark.e2e

SLOW = WorkerConfig(engine=EngineConfig(token_seconds=0.01))
SILENT = WorkerConfig(engine=EngineConfig(prefill_base_seconds=30.0))


def asked(worker: InProcessWorker, path: str) -> list[Json]:
    """The bodies that a worker got on a path."""
    return [
        msgspec.json.decode((record.body or "{}").encode(), type=Json)
        for record in worker.sim.records.list(path)
    ]


@asynccontextmanager
async def two_workers(
    config: WorkerConfig | None = None, **settings: object
) -> AsyncIterator[tuple[App, InProcessWorker, InProcessWorker]]:
    async with (
        sim_worker(config) as one,
        sim_worker(config) as other,
        running(one.url, other.url, **settings) as app,
    ):
        await until(lambda: all(worker.engine for worker in app.fleet.workers))
        yield app, one, other


# -- asking


@pytest.mark.parametrize("path", ["/get_model_info", "/model_info"])
async def test_model_info_is_that_of_the_first_healthy_worker(path: str) -> None:
    async with two_workers() as (app, one, other):
        app.fleet.workers[0].healthy = False
        answer = await call(app, "GET", path)
        assert (answer.status, answer.json["model_path"]) == (200, "sim-model")
        assert [len(w.sim.records.list(path)) for w in (one, other)] == [0, 1]


async def test_model_info_without_a_worker_is_503() -> None:
    async with running() as app:
        answer = await call(app, "GET", "/get_model_info")
        assert answer.status == 503
        assert answer.json["error"] == {
            "message": "No workers are available",
            "type": "server_error",
            "code": "no_workers",
            "param": None,
        }


@pytest.mark.parametrize("get_load", [True, False])
async def test_loads_are_tokens_whichever_path_the_worker_knows(get_load: bool) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    async with sim_worker(WorkerConfig(get_load=get_load)) as worker:
        async with running(worker.url, dead) as app:
            await until(lambda: app.fleet.workers[0].engine is not None)
            answer = await call(app, "GET", "/get_loads")
            capacity = worker.sim.config.engine.cache_blocks * worker.sim.config.engine.block_tokens
            told: Json = {"engine": "sglang", "running": 0, "waiting": 0}
            if not get_load:  # only the newer path tells how much there is
                told["token_capacity"] = capacity
            assert answer.json == {
                "workers": [
                    {"worker": worker.url, "load": 0, **told},
                    {"worker": dead, "load": -1},
                ]
            }


async def test_flushing_reaches_every_worker_and_the_policy_forgets_them() -> None:
    async with two_workers() as (app, one, other):
        text = "a long prefix " * 100
        body = {"text": text, "sampling_params": {"max_new_tokens": 1}}
        for _ in range(2):
            await call(app, "POST", "/generate", body)
        prefixes = app.forwarding.group.policy.prefixes
        assert prefixes is not None
        assert prefixes.nodes
        answer = await call(app, "POST", "/flush_cache")
        assert (answer.status, answer.json) == (
            200,
            {
                "status": "success",
                "message": "Successfully flushed cache on all 2 HTTP workers",
                "workers_flushed": 2,
                "total_http_workers": 2,
                "total_workers": 2,
            },
        )
        assert not prefixes.nodes
        assert [len(w.sim.records.list("/flush_cache")) for w in (one, other)] == [1, 1]


async def test_flushing_a_part_is_206_and_names_both_parts() -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    async with sim_worker() as worker, running(worker.url, dead) as app:
        answer = await call(app, "POST", "/flush_cache")
        assert (answer.status, answer.json["status"]) == (206, "partial_success")
        assert answer.json["successful"] == [worker.url]
        (failed,) = msgspec.convert(answer.json["failed"], list[Json])
        assert failed["worker"] == dead


async def test_flushing_nothing_is_a_success() -> None:
    async with running() as app:
        answer = await call(app, "POST", "/flush_cache")
        assert (answer.status, answer.json["workers_flushed"]) == (200, 0)


async def test_engine_metrics_are_those_of_all_workers() -> None:
    async with two_workers() as (app, one, other):
        answer = await call(app, "GET", "/engine_metrics")
        assert answer.status == 200
        for worker in (one, other):
            assert f'worker_addr="{worker.url}"' in answer.text
        assert "sglang_num_running_reqs{" in answer.text
        assert "sglang:" not in answer.text


async def test_engine_metrics_of_nobody_are_an_error() -> None:
    async with running() as app:
        answer = await call(app, "GET", "/engine_metrics")
        assert (answer.status, answer.text) == (500, "No available workers")
    async with running(f"http://127.0.0.1:{free_port()}") as app:
        answer = await call(app, "GET", "/engine_metrics")
        assert (answer.status, answer.text) == (500, "All backend requests failed")


async def test_hidden_worker_urls_stay_hidden() -> None:
    async with two_workers(hide_worker_urls=True) as (app, one, _):
        for method, path in (("GET", "/get_loads"), ("GET", "/engine_metrics")):
            answer = await call(app, method, path)
            assert answer.status == 200
            assert "worker-0" in answer.text
            assert one.url not in answer.text


async def test_loads_and_flushing_are_the_administrators_and_workers_get_their_key() -> None:
    config = WorkerConfig(api_key="w")
    async with two_workers(config, api_key="u", admin_api_key="a", worker_api_key="w") as (
        app,
        one,
        _,
    ):
        for method, path in (("GET", "/get_loads"), ("POST", "/flush_cache")):
            assert (await call(app, method, path, key="u")).status == 401
            assert (await call(app, method, path, key="a")).status == 200
        (record,) = one.sim.records.list("/flush_cache")
        assert ("Authorization", "Bearer w") in record.headers


# -- aborting


async def start_stream(app: App, **more: object) -> asyncio.Task[bytes]:
    """A long stream; the task ends with all its bytes."""
    body = {"text": "hi", "stream": True, "sampling_params": {"max_new_tokens": 3000}, **more}

    async def stream() -> bytes:
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                f"http://127.0.0.1:{app.port}/generate",
                json=body,
                headers={"X-Request-Id": "mine-1"},
            ) as response,
        ):
            return await response.read()

    return asyncio.create_task(stream())


def busy(*workers: InProcessWorker) -> list[InProcessWorker]:
    return [
        worker
        for worker in workers
        if any(r.rids and r.outcome == "running" for r in worker.sim.records.list("/generate"))
    ]


async def test_an_abort_by_request_id_reaches_the_one_worker_that_has_it() -> None:
    async with two_workers(SLOW, enable_request_tracking=True) as (app, one, other):
        task = await start_stream(app)
        await until(lambda: busy(one, other))
        (worker,) = busy(one, other)
        assert app.tracker is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            while b'"engine_request_id"' not in (
                (await app.tracker.get(["mine-1"])).records[0] or b""
            ):
                await asyncio.sleep(0.02)
        answer = await call(app, "POST", "/abort_request", {"rid": "mine-1"})
        assert (answer.status, answer.json) == (200, {"workers_told": 1})
        assert b'"abort"' in await task
        (record,) = worker.sim.records.list("/generate")
        assert asked(worker, "/abort_request") == [{"rid": record.rids[0]}]
        idle = other if worker is one else one
        assert asked(idle, "/abort_request") == []


async def test_an_abort_by_the_clients_rid_works_before_the_first_byte() -> None:
    async with two_workers(SILENT, enable_request_tracking=True) as (app, one, other):
        task = await start_stream(app, rid="chosen")
        await until(lambda: busy(one, other))
        answer = await call(app, "POST", "/abort_request", {"rid": "chosen"})
        assert answer.json == {"workers_told": 1}
        assert b'"abort"' in await task


@pytest.mark.redis
async def test_an_abort_at_any_replica_reaches_the_worker(processes: Processes) -> None:
    redis = await processes.start(RedisProcess())
    shared = {"enable_request_tracking": True, "redis_url": redis.url}
    async with (
        two_workers(SLOW, **shared, router_id="one") as (app, one, other),
        running(other.url, one.url, **shared, router_id="two") as replica,
    ):
        task = await start_stream(app)
        await until(lambda: busy(one, other))
        (worker,) = busy(one, other)
        (record,) = worker.sim.records.list("/generate")
        assert replica.tracker is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (await replica.tracker.get(record.rids)).records[0]:
                await asyncio.sleep(0.02)
        answer = await call(replica, "POST", "/abort_request", {"rid": record.rids[0]})
        assert answer.json == {"workers_told": 1}
        assert asked(worker, "/abort_request") == [{"rid": record.rids[0]}]
        assert b'"abort"' in await task


async def test_an_abort_of_an_ended_request_tells_nobody() -> None:
    async with two_workers(enable_request_tracking=True) as (app, one, other):
        await call(app, "POST", "/generate", {"text": "hi"}, headers={"X-Request-Id": "done"})
        answer = await call(app, "POST", "/abort_request", {"rid": "done"})
        assert (answer.status, answer.json) == (200, {"workers_told": 0})
        assert asked(one, "/abort_request") + asked(other, "/abort_request") == []


@pytest.mark.parametrize("tracking", [True, False])
async def test_an_unknown_id_is_told_to_every_worker(tracking: bool) -> None:
    async with two_workers(enable_request_tracking=tracking) as (app, one, other):
        answer = await call(app, "POST", "/abort_request", {"rid": "who"})
        assert (answer.status, answer.json) == (200, {"workers_told": 2})
        assert asked(one, "/abort_request") == asked(other, "/abort_request") == [{"rid": "who"}]


async def test_aborting_everything_is_the_administrators() -> None:
    async with two_workers(SLOW, api_key="u", admin_api_key="a") as (app, one, other):
        everything = {"abort_all": True}
        refused = await call(app, "POST", "/abort_request", everything, key="u")
        assert refused.status == 401
        answer = await call(app, "POST", "/abort_request", everything, key="a")
        assert answer.json == {"workers_told": 2}
        assert asked(one, "/abort_request") == asked(other, "/abort_request") == [everything]


@pytest.mark.parametrize("body", [b"", b"{", {}, {"rid": ""}, {"rid": None}, {"rid": ["a"]}])
async def test_an_abort_without_an_id_would_mean_everybodys_and_is_refused(body: object) -> None:
    async with two_workers() as (app, one, _):
        assert (await call(app, "POST", "/abort_request", body)).status == 400
        assert asked(one, "/abort_request") == []


async def leave(task: asyncio.Task[bytes]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_client_that_leaves_its_stream_has_it_aborted_under_the_engines_id() -> None:
    async with two_workers(SLOW) as (app, one, other):
        task = await start_stream(app)
        await until(lambda: any(w.sim.engine.running for w in (one, other)))
        (worker,) = busy(one, other)
        (record,) = worker.sim.records.list("/generate")
        await asyncio.sleep(0.1)  # some tokens have come
        await leave(task)
        await until(lambda: asked(worker, "/abort_request"))
        assert asked(worker, "/abort_request") == [{"rid": record.rids[0]}]
        await until(lambda: app.metrics.aborts == {"sent": 1})


async def test_an_id_that_the_client_chose_is_never_aborted() -> None:
    async with two_workers(SLOW, inject_rid=True) as (app, one, other):
        task = await start_stream(app, rid="r")
        await until(lambda: busy(one, other))
        await asyncio.sleep(0.1)
        await leave(task)
        await until(lambda: app.forwarding.open_requests == 0)
        await asyncio.sleep(0.1)
        assert asked(one, "/abort_request") + asked(other, "/abort_request") == []
        assert app.metrics.aborts == {}


async def test_with_inject_rid_a_silent_prefill_can_be_aborted() -> None:
    async with two_workers(SILENT, inject_rid=True, first_byte_timeout_secs=0.3) as (
        app,
        one,
        other,
    ):
        answer = await call(app, "POST", "/generate", {"text": "hi"})
        assert answer.status == 504
        (worker,) = [w for w in (one, other) if w.sim.records.list("/generate")][-1:]
        await until(lambda: asked(one, "/abort_request") + asked(other, "/abort_request"))
        (sent,) = asked(one, "/generate") + asked(other, "/generate")
        assert asked(worker, "/abort_request") == [{"rid": sent["rid"]}]
        assert sent["text"] == "hi"


async def test_without_inject_rid_bodies_are_not_touched() -> None:
    async with two_workers() as (app, one, other):
        body = b' {"text": "hi",  "sampling_params": {"max_new_tokens": 1}}'
        assert (await call(app, "POST", "/generate", body)).status == 200
        (record,) = one.sim.records.list("/generate") + other.sim.records.list("/generate")
        assert record.body == body.decode()


async def test_a_batch_gets_no_id_injected() -> None:
    async with two_workers(inject_rid=True) as (app, one, other):
        batch = {"text": ["a", "b"], "sampling_params": {"max_new_tokens": 1}}
        assert (await call(app, "POST", "/generate", batch)).status == 200
        assert asked(one, "/generate") + asked(other, "/generate") == [batch]
