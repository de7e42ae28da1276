"""`--dp-aware`: each data-parallel rank of an engine is a target of its own."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from router.app import App
from router.policytype import PolicyType
from tests.processes import Processes, RedisProcess
from tests.running import Answer, InProcessWorker, Json, Records, call, running, sim_worker
from tests.sim.call import WorkerConfig
from tests.sim.engine import EngineConfig
from tests.sim.faults import Fault
from tests.waiting import until

PATH = "/generate"
SLOW = EngineConfig(token_seconds=0.01)


def engine(**more: object) -> AbstractAsyncContextManager[InProcessWorker]:
    return sim_worker(WorkerConfig(**{"dp_size": 3, **more}))  # type: ignore[arg-type]


def aware(*urls: str, **more: object) -> AbstractAsyncContextManager[App]:
    return running(*urls, **{"dp_aware": True, "policy": PolicyType.RoundRobin, **more})


async def generate(app: App, text: str = "hi", tokens: int = 2, **more: object) -> Answer:
    headers = more.pop("headers", None)
    assert headers is None or isinstance(headers, dict)
    body = {"text": text, "sampling_params": {"max_new_tokens": tokens}, **more}
    return await call(app, "POST", PATH, body, headers=headers)


def reached(worker: InProcessWorker) -> list[int | None]:
    """The rank of each request that the engine got."""
    return [record.dp_rank for record in worker.sim.records.list(PATH)]


async def workers(app: App) -> list[Json]:
    return msgspec.convert((await call(app, "GET", "/workers")).json["workers"], list[Json])


@pytest.mark.parametrize("rank_header", [True, False], ids=["new engine", "old engine"])
async def test_requests_reach_each_rank_and_traces_name_it(rank_header: bool) -> None:
    async with engine(rank_header=rank_header) as worker, aware(worker.url) as app:
        records = Records(app)
        for number in range(6):
            answer = await generate(app, headers={"X-Request-Id": f"r{number}"})
            trace = records.live[f"r{number}"]
            rank = reached(worker)[-1]
            assert trace.node_id == f"worker-0@{rank}"
            assert trace.worker_url == worker.url
            assert answer.headers["x-smg-routed-worker-id"] == f"{worker.url}@{rank}"
            assert trace.engine is not None
            assert trace.engine.dp_rank == rank
        assert sorted(map(str, reached(worker))) == list("001122")


async def test_a_body_says_the_rank_and_stays_as_it_is_otherwise() -> None:
    async with engine() as worker, aware(worker.url, policy=PolicyType.ConsistentHashing) as app:
        target = {"X-SMG-Target-Worker": "worker-0@2"}
        body = b' {"text": "hi",  "sampling_params":{"max_new_tokens":1}}'
        await call(app, "POST", PATH, body, headers=target)
        own = b'{"text": "hi", "data_parallel_rank": 0, "sampling_params":{"max_new_tokens":1}}'
        await call(app, "POST", PATH, own, headers=target)
        first, second = (record.body for record in worker.sim.records.list(PATH))
        assert first == body.replace(b"{", b'{"data_parallel_rank":2,', 1).decode()
        assert second == own.replace(b": 0", b": 2").decode()
        assert reached(worker) == [2, 2]


async def test_an_engine_that_reads_the_header_gets_its_body_byte_for_byte() -> None:
    async with (
        engine(owned_by="vllm", dp_size=2) as worker,
        aware(worker.url, dp_size=2) as app,
    ):
        body = b'{"text": "hi", "sampling_params":{"max_new_tokens":1}}'
        for _ in range(2):
            assert (await call(app, "POST", PATH, body)).status == 200
        assert {record.body for record in worker.sim.records.list(PATH)} == {body.decode()}
        assert sorted(map(str, reached(worker))) == ["0", "1"]


@pytest.mark.parametrize("tells", [True, False])
async def test_an_engine_of_one_rank_or_that_tells_none_is_one_target(tells: bool) -> None:
    async with engine(dp_size=1, tells_dp_size=tells) as worker, aware(worker.url) as app:
        assert (await generate(app)).headers["x-smg-routed-worker-id"] == worker.url
        assert reached(worker) == [None]
        assert [shown["node_id"] for shown in await workers(app)] == ["worker-0"]


async def test_without_the_flag_ranks_are_the_engines_business() -> None:
    async with engine() as worker, running(worker.url) as app:
        await generate(app)
        assert reached(worker) == [None]
        assert [shown["url"] for shown in await workers(app)] == [worker.url]


async def test_prompts_go_to_the_rank_that_has_their_beginning() -> None:
    async with engine() as worker, aware(worker.url, policy=PolicyType.CacheAware) as app:
        for text in ("one long prompt " * 200, "another one " * 200):
            for _ in range(4):
                await generate(app, text)
        ranks = reached(worker)
        assert len(set(ranks[:4])) == len(set(ranks[4:])) == 1


async def test_load_and_breaker_are_a_ranks_own() -> None:
    async with (
        engine() as worker,
        aware(
            worker.url,
            policy=PolicyType.ConsistentHashing,
            cb_failure_threshold=2,
            disable_retries=True,
        ) as app,
    ):
        to_one = {"X-SMG-Target-Worker": f"{worker.url}@1"}
        for _ in range(2):
            assert (await generate(app, sim="status:status=500", headers=to_one)).status == 500
        refused = await generate(app, headers=to_one)
        assert refused.status == 503
        assert (await generate(app, headers={"X-SMG-Target-Worker": "worker-0@0"})).status == 200
        states = {w.node_id: w.breaker.state for w in app.fleet.workers}
        assert states == {"worker-0@0": "closed", "worker-0@1": "open", "worker-0@2": "closed"}


async def test_the_engine_is_checked_once_for_all_its_ranks() -> None:
    async with engine() as worker, aware(worker.url, health_check_interval_secs=600) as app:
        assert len(app.fleet.workers) == 3
        assert len(worker.sim.records.list("/health")) == 1


async def test_no_rank_is_used_while_the_engine_is_unhealthy() -> None:
    async with (
        engine() as worker,
        aware(worker.url, health_check_interval_secs=0.05, health_failure_threshold=1) as app,
    ):
        await worker.sim.close()
        await until(lambda: not any(w.healthy for w in app.fleet.workers))
        answer = await generate(app)
        assert answer.status == 503
        assert "worker-0@0 is unhealthy, worker-0@1 is unhealthy" in answer.text


async def test_connects_refused_at_any_rank_count_for_the_engine() -> None:
    async with (
        engine() as worker,
        aware(worker.url, health_check_interval_secs=600, health_failure_threshold=3) as app,
    ):
        await worker.sim.close()
        assert (await generate(app)).status in (500, 503)  # tries all ranks
        await until(lambda: not any(w.healthy for w in app.fleet.workers))


async def test_workers_shows_ranks_and_takes_the_engine_for_one() -> None:
    async with engine(dp_size=2) as worker, sim_worker() as plain, aware() as app:
        added = await call(app, "POST", "/workers", {"url": worker.url, "priority": 7})
        engine_id = added.json["worker_id"]
        await call(app, "POST", "/add_worker?url=" + plain.url)
        await until(lambda: len(app.fleet.workers) == 3)
        shown = await workers(app)
        assert [(one["url"], one["node_id"]) for one in shown] == [
            (f"{worker.url}@0", "worker-0@0"),
            (f"{worker.url}@1", "worker-0@1"),
            (plain.url, "worker-1"),
        ]
        assert [one.get("dp_rank") for one in shown] == [0, 1, None]
        assert [one["priority"] for one in shown] == [7, 7, 50]
        assert len({one["id"] for one in shown} | {engine_id}) == 4

        rank = (await call(app, "GET", f"/workers/{shown[1]['id']}")).json
        assert (rank["url"], rank["dp_size"]) == (f"{worker.url}@1", 2)
        whole = (await call(app, "GET", f"/workers/{engine_id}")).json
        assert (whole["url"], whole["dp_size"], whole["load"]) == (worker.url, 2, 0)

        await call(app, "DELETE", f"/workers/{shown[0]['id']}")
        await until(lambda: len(app.fleet.workers) == 1)
        assert [one["url"] for one in await workers(app)] == [plain.url]


async def test_an_engine_that_is_removed_finishes_what_runs_at_its_ranks() -> None:
    async with engine(engine=SLOW) as worker, aware(worker.url) as app:
        running_one = asyncio.ensure_future(generate(app, tokens=20))
        await until(lambda: any(w.in_flight for w in app.fleet.workers))
        member = app.registry.find(worker.url)
        assert member is not None
        await call(app, "DELETE", f"/workers/{member.id}")
        assert (await generate(app)).status == 503
        assert (await running_one).status == 200
        await until(lambda: not app.fleet.workers)


async def test_one_engine_may_be_asked_for_by_rank_where_others_are_not() -> None:
    async with engine(dp_size=2) as worker, running() as app:
        await call(app, "POST", "/workers", {"url": worker.url, "dp_aware": True})
        await until(lambda: len(app.fleet.workers) == 2)
        for _ in range(4):
            await generate(app)
        assert {0, 1} >= set(reached(worker)) != {None}


async def test_an_engine_that_comes_back_with_other_ranks_has_those() -> None:
    async with (
        engine(dp_size=2) as worker,
        sim_worker() as other,
        aware(
            worker.url, other.url, health_check_interval_secs=0.05, health_failure_threshold=1
        ) as app,
    ):
        assert [w.node_id for w in app.fleet.workers] == ["worker-0@0", "worker-0@1", "worker-1"]
        kept = app.fleet.workers[0]
        for size, names in ((3, ["@0", "@1", "@2"]), (1, [""]), (2, ["@0", "@1"])):
            worker.sim.config = msgspec.structs.replace(worker.sim.config, dp_size=size)
            base = app.registry.find(worker.url)
            assert base is not None
            base.worker.healthy = False  # what it is, is asked anew when it is back
            expected = [*(f"worker-0{name}" for name in names), "worker-1"]
            await until(partial(named, app, expected))
            if size == 3:
                assert app.fleet.workers[0] is kept
            await until(lambda: all(w.healthy for w in app.fleet.workers))
            assert (await generate(app)).status == 200


async def test_ranks_stay_when_the_engine_once_does_not_say_how_many() -> None:
    async with (
        engine(dp_size=2) as worker,
        aware(worker.url, enable_igw=True, health_check_interval_secs=0.05) as app,
    ):
        assert named(app, ["worker-0@0", "worker-0@1"])
        paths = ("/server_info", "/get_server_info")
        worker.sim.board.replace([Fault(kind="status", status=500, paths=paths)])
        before = len(worker.sim.records.list("/server_info"))
        await until(lambda: len(worker.sim.records.list("/server_info")) > before + 2)
        assert named(app, ["worker-0@0", "worker-0@1"])


def named(app: App, names: list[str]) -> bool:
    return [worker.node_id for worker in app.fleet.workers] == names


@pytest.mark.parametrize("old", [True, False])
async def test_what_concerns_the_engine_is_asked_once_and_each_rank_has_its_load(old: bool) -> None:
    async with engine(get_load=old) as worker, aware(worker.url) as app:
        flushed = (await call(app, "POST", "/flush_cache")).json
        assert (flushed["workers_flushed"], flushed["total_workers"]) == (1, 1)
        assert len(worker.sim.records.list("/flush_cache")) == 1
        loads = (await call(app, "GET", "/get_loads")).json["workers"]
        assert isinstance(loads, list)
        assert [one["worker"] for one in loads] == [f"{worker.url}@{rank}" for rank in range(3)]
        assert [one["load"] for one in loads] == [0, 0, 0]
        page = (await call(app, "GET", "/engine_metrics")).text
        assert page.count(f'worker_addr="{worker.url}"') == 6
        assert len(worker.sim.records.list("/metrics")) == 1


async def test_each_rank_has_series_of_its_own() -> None:
    async with engine(dp_size=2) as worker, aware(worker.url) as app:
        for _ in range(4):
            await generate(app)
        page = (await call(app, "GET", "/metrics")).text
        samples = [s for f in text_string_to_metric_families(page) for s in f.samples]
        health = [s.labels["worker"] for s in samples if s.name == "smg_worker_health"]
        assert health == [f"{worker.url}@0", f"{worker.url}@1"]
        attempts = {
            s.labels["node_id"]: s.value for s in samples if s.name == "trace_router_attempts_total"
        }
        assert attempts == {"worker-0@0": 2, "worker-0@1": 2}
        keys = [(s.name, tuple(sorted(s.labels.items()))) for s in samples]
        assert len(keys) == len(set(keys))


async def test_many_models_and_ranks_go_together() -> None:
    async with (
        engine(dp_size=2, model="llama") as llama,
        engine(dp_size=2, model="qwen") as qwen,
        aware(llama.url, qwen.url, enable_igw=True) as app,
    ):
        for _ in range(4):
            assert (await generate(app, model="qwen")).status == 200
        assert sorted(map(str, reached(qwen))) == list("0011")
        assert reached(llama) == []


@pytest.mark.redis
async def test_replicas_agree_on_ranks_their_load_and_what_they_hold(tmp_path: Path) -> None:
    async with Processes(tmp_path) as processes, engine(engine=SLOW) as worker:
        redis = await processes.start(RedisProcess())
        shared = {
            "enable_request_tracking": True,
            "redis_url": redis.url,
            "policy": PolicyType.CacheAware,
        }
        async with aware(worker.url, **shared) as a, aware(worker.url, **shared) as b:
            text = "a prompt of some length " * 100
            await generate(a, text)
            (rank,) = reached(worker)
            await until(
                lambda: b.caches.news is not None and len(b.policies.default.prefixes or ())
            )
            for _ in range(3):
                await generate(b, text)
            assert set(reached(worker)) == {rank}

            long = asyncio.ensure_future(generate(a, text, tokens=100))
            seen = next(w for w in b.fleet.workers if w.rank == rank)
            await until(lambda: seen.others_in_flight == 1)
            assert [w.others_in_flight for w in b.fleet.workers if w.rank != rank] == [0, 0]
            await long
            listed = (await call(b, "GET", f"/v1/traces?node_id=worker-0@{rank}")).body
            assert len(msgspec.json.decode(listed)) == 5
            stats = (await call(b, "GET", "/v1/traces/stats")).json
            assert stats["requests_per_node"] == {f"worker-0@{rank}": 5}
