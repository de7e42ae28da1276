"""Workers come and go over HTTP, as clients of sglang-router 0.3.2 and 0.2.1 expect it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from router.app import App
from tests.processes import free_port
from tests.running import Answer, InProcessWorker, Json, call, running, sim_worker
from tests.sim.call import WorkerConfig
from tests.sim.engine import EngineConfig
from tests.waiting import until

NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
async def worker() -> AsyncIterator[InProcessWorker]:
    async with sim_worker() as started:
        yield started


@pytest.fixture
async def app() -> AsyncIterator[App]:
    async with running(cors_allowed_origins=()) as started:
        yield started


@pytest.fixture
async def impatient() -> AsyncIterator[App]:
    """A router that soon gives up on a worker that is added."""
    async with running(worker_startup_timeout_secs=1) as started:
        yield started


async def added(app: App, url: str, **more: object) -> str:
    """The id of a worker that was added and has joined."""
    answer = await call(app, "POST", "/workers", {"url": url, **more})
    assert answer.status == 202
    worker_id = str(answer.json["worker_id"])
    await until(lambda: app.registry.get(worker_id) in app.registry.members)
    return worker_id


async def show(app: App, worker_id: str) -> Answer:
    return await call(app, "GET", f"/workers/{worker_id}")


async def generate(app: App, tokens: int = 2, **more: object) -> Answer:
    sampling = {"max_new_tokens": tokens}
    return await call(app, "POST", "/generate", {"text": "hi", "sampling_params": sampling, **more})


async def test_a_router_without_workers_says_so(app: App) -> None:
    answer = await call(app, "GET", "/workers")
    assert (answer.status, answer.json) == (
        200,
        {
            "workers": [],
            "total": 0,
            "stats": {"prefill_count": 0, "decode_count": 0, "regular_count": 0},
        },
    )


async def test_adding_is_accepted_with_an_id_and_its_location(
    app: App, worker: InProcessWorker
) -> None:
    answer = await call(app, "POST", "/workers", {"url": worker.url, "unknown_field": 1})
    worker_id = str(answer.json["worker_id"])
    assert str(UUID(worker_id)) == worker_id
    assert answer.status == 202
    assert answer.headers["Location"] == f"/workers/{worker_id}"
    assert answer.json == {
        "status": "accepted",
        "worker_id": worker_id,
        "url": worker.url,
        "location": f"/workers/{worker_id}",
        "message": "Worker addition queued for background processing",
    }


async def test_an_added_worker_serves_once_it_is_healthy(app: App, worker: InProcessWorker) -> None:
    assert (await generate(app)).status == 503
    worker_id = await added(app, worker.url, priority=7, cost=2.5, labels={"zone": "a"})
    assert (await generate(app)).status == 200
    first = app.fleet.workers[0]
    await until(lambda: first.model_id and first.engine_version)
    shown = (await show(app, worker_id)).json
    assert shown == {
        "id": worker_id,
        "url": worker.url,
        "node_id": "worker-0",
        "model_id": "sim-model",
        "priority": 7,
        "cost": 2.5,
        "worker_type": "regular",
        "is_healthy": True,
        "load": 0,
        "connection_mode": "HTTP",
        "metadata": {"zone": "a"},
        "disable_health_check": False,
        "draining": False,
        "breaker": "closed",
        "origin": "api",
        "engine": "sglang",
        "engine_version": first.engine_version,
    }
    listed = (await call(app, "GET", "/workers")).json
    assert (listed["workers"], listed["total"]) == ([shown], 1)


async def test_the_url_is_echoed_exactly_as_given(app: App, worker: InProcessWorker) -> None:
    given = worker.url + "/"
    worker_id = await added(app, given)
    assert (await show(app, worker_id)).json["url"] == given
    assert (await call(app, "GET", "/list_workers")).json == {"urls": [given]}
    assert app.registry.find(worker.url) is app.registry.get(worker_id)


async def test_a_worker_that_is_still_loading_is_pending_and_then_has_failed(
    impatient: App,
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    worker_id = str((await call(impatient, "POST", "/workers", {"url": url})).json["worker_id"])
    pending = (await show(impatient, worker_id)).json
    job = pending["job_status"]
    assert isinstance(job, dict)
    assert (pending["model_id"], pending["is_healthy"]) == ("unknown", False)
    assert (job["job_type"], job["worker_url"], job["status"]) == ("AddWorker", url, "pending")
    assert (await call(impatient, "GET", "/workers")).json["total"] == 0
    member = impatient.registry.get(worker_id)
    assert member is not None
    await member.settled.wait()
    job = (await show(impatient, worker_id)).json["job_status"]
    assert isinstance(job, dict)
    assert job["status"] == "failed"
    assert "Timeout 1s waiting for worker to become healthy" in str(job["message"])
    assert impatient.fleet.workers == []


async def test_adding_a_worker_twice_keeps_its_id_and_says_so_in_its_job(
    app: App, worker: InProcessWorker
) -> None:
    worker_id = await added(app, worker.url)
    again = await call(app, "POST", "/workers", {"url": worker.url})
    assert (again.status, again.json["worker_id"]) == (202, worker_id)
    job = (await show(app, worker_id)).json["job_status"]
    assert isinstance(job, dict)
    assert job["status"] == "failed"
    assert str(job["message"]).endswith("already exists")
    assert len(app.fleet.workers) == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"\xff", 400),
        ({}, 422),
        ({"url": 5}, 422),
        ({"url": "ftp://x"}, 400),
        ({"url": "http://x:1\r\nX: y"}, 400),
        ({"url": "http://x:1", "api_key": "a\nb"}, 400),
        ({"url": "http://x:1", "worker_type": "prefill"}, 400),
        ({"url": "http://x:1", "dp_aware": "yes"}, 422),
    ],
)
async def test_a_worker_that_makes_no_sense_is_refused(app: App, body: object, status: int) -> None:
    assert (await call(app, "POST", "/workers", body)).status == status
    assert app.registry.members == []


async def test_unknown_ids_are_404_and_what_is_no_id_is_400(app: App) -> None:
    for method in ("GET", "PUT", "DELETE"):
        unknown = await call(app, method, f"/workers/{NOBODY}", {})
        assert (unknown.status, unknown.json) == (
            404,
            {"error": f"Worker {NOBODY} not found", "code": "WORKER_NOT_FOUND"},
        )
        wrong = await call(app, method, "/workers/worker-0", {})
        assert (wrong.status, wrong.json["code"]) == (400, "BAD_REQUEST")
    patched = await call(app, "PATCH", f"/workers/{NOBODY}", {})
    assert (patched.status, patched.headers["Allow"]) == (405, "GET, HEAD, PUT, DELETE")


async def test_an_update_changes_what_it_names(app: App, worker: InProcessWorker) -> None:
    worker_id = await added(app, worker.url, priority=7)
    answer = await call(app, "PUT", f"/workers/{worker_id}", {"cost": 3, "api_key": "secret"})
    assert (answer.status, answer.json) == (
        202,
        {
            "status": "accepted",
            "worker_id": worker_id,
            "message": "Worker update queued for background processing",
        },
    )
    shown = await show(app, worker_id)
    assert (shown.json["priority"], shown.json["cost"]) == (7, 3)
    assert "secret" not in shown.text
    assert (await generate(app)).status == 200
    (sent,) = worker.sim.records.list("/generate")
    assert ("Authorization", "Bearer secret") in sent.headers
    assert (await call(app, "PUT", f"/workers/{worker_id}", {"priority": "x"})).status == 422
    assert (await call(app, "PUT", f"/workers/{worker_id}", {"api_key": " "})).status == 400


async def test_an_idle_worker_is_gone_as_soon_as_it_is_deleted(
    app: App, worker: InProcessWorker
) -> None:
    worker_id = await added(app, worker.url)
    assert (await generate(app)).status == 200
    answer = await call(app, "DELETE", f"/workers/{worker_id}")
    assert (answer.status, answer.json) == (
        202,
        {
            "status": "accepted",
            "worker_id": worker_id,
            "message": "Worker removal queued for background processing",
        },
    )
    assert (await show(app, worker_id)).status == 404
    assert (await generate(app)).status == 503
    assert worker.url not in (await call(app, "GET", "/metrics")).text
    await until(lambda: not [c for c in worker.sim.connections if not c.idle])


async def streaming(app: App, worker: InProcessWorker) -> asyncio.Task[Answer]:
    """A request that has reached the worker and goes on for a while."""
    worker.sim.records.clear()
    task = asyncio.create_task(generate(app, 400, stream=True))
    await until(lambda: worker.sim.records.list("/generate"))
    return task


@pytest.fixture
async def slow_worker() -> AsyncIterator[InProcessWorker]:
    async with sim_worker(WorkerConfig(engine=EngineConfig(token_seconds=0.002))) as started:
        yield started


async def test_a_deleted_worker_finishes_its_requests_and_gets_no_new_ones(
    app: App, slow_worker: InProcessWorker
) -> None:
    worker_id = await added(app, slow_worker.url)
    task = await streaming(app, slow_worker)
    assert (await call(app, "DELETE", f"/workers/{worker_id}")).status == 202
    draining = (await show(app, worker_id)).json
    assert (draining["draining"], draining["load"]) == (True, 1)
    assert (await generate(app)).status == 503
    answer = await task
    assert answer.status == 200
    assert answer.body.endswith(b"data: [DONE]\n\n")
    await until(lambda: app.registry.get(worker_id) is None)
    assert app.fleet.workers == []


async def test_a_worker_that_is_added_again_while_it_drains_stays(
    app: App, slow_worker: InProcessWorker
) -> None:
    worker_id = await added(app, slow_worker.url)
    task = await streaming(app, slow_worker)
    await call(app, "DELETE", f"/workers/{worker_id}")
    await call(app, "POST", "/workers", {"url": slow_worker.url})
    assert (await task).status == 200
    shown: Json = (await show(app, worker_id)).json
    assert (shown["draining"], shown["is_healthy"], "job_status" in shown) == (False, True, False)
    assert (await generate(app)).status == 200


async def test_requests_outlive_the_grace_period_of_a_removed_worker(
    slow_worker: InProcessWorker,
) -> None:
    async with running(slow_worker.url, shutdown_grace_period_secs=0.1) as app:
        (member,) = app.registry.members
        task = await streaming(app, slow_worker)
        app.registry.remove(member)
        await until(lambda: app.registry.get(member.id) is None)
        assert not task.done()
        assert (await task).body.endswith(b"data: [DONE]\n\n")
        await until(lambda: not list(app.metrics.series))


async def test_a_worker_that_is_removed_while_it_loads_is_forgotten(app: App) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    worker_id = str((await call(app, "POST", "/workers", {"url": url})).json["worker_id"])
    assert (await call(app, "DELETE", f"/workers/{worker_id}")).status == 202
    assert (await show(app, worker_id)).status == 404


async def test_a_worker_can_be_added_without_health_checks(app: App) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    worker_id = await added(app, url, disable_health_check=True, model_id="given")
    shown = (await show(app, worker_id)).json
    assert (shown["disable_health_check"], shown["model_id"]) == (True, "given")


async def test_static_workers_are_listed_with_their_names(worker: InProcessWorker) -> None:
    async with running(worker.url, node_ids=("gpu-2",)) as app:
        (member,) = app.registry.members
        shown = (await show(app, member.id)).json
        assert (shown["url"], shown["node_id"]) == (worker.url, "gpu-2")


async def test_the_workers_are_the_administrators_business(worker: InProcessWorker) -> None:
    async with running(worker.url, api_key="user", admin_api_key="admin") as app:
        assert (await call(app, "GET", "/workers")).status == 401
        assert (await call(app, "GET", "/workers", key="user")).status == 401
        assert (await call(app, "GET", "/workers", key="admin")).status == 200
        assert (await call(app, "POST", "/add_worker?url=http://x:1", key="user")).status == 401


# -- the calls of 0.2.1


async def test_legacy_add_waits_for_health_and_remove_takes_it_out(
    app: App, worker: InProcessWorker
) -> None:
    answer = await call(app, "POST", f"/add_worker?url={worker.url}")
    assert (answer.status, answer.text) == (200, f"Worker {worker.url} added successfully")
    assert (await generate(app)).status == 200
    assert (await call(app, "GET", "/list_workers")).json == {"urls": [worker.url]}
    again = await call(app, "POST", f"/add_worker?url={worker.url}")
    assert (again.status, again.text) == (400, f"Worker {worker.url} already exists")
    removed = await call(app, "POST", f"/remove_worker?url={worker.url}")
    assert (removed.status, removed.text) == (200, f"Worker {worker.url} removed successfully")
    gone = await call(app, "POST", f"/remove_worker?url={worker.url}")
    assert (gone.status, gone.text) == (400, f"Worker {worker.url} not found")


async def test_legacy_add_of_a_worker_that_never_is_healthy_says_why(impatient: App) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    answer = await call(impatient, "POST", f"/add_worker?url={url}")
    assert answer.status == 400
    assert answer.text.startswith(
        f"Health check failed: Health check failed for worker {url}: "
        "Timeout 1s waiting for worker to become healthy"
    )


@pytest.mark.parametrize("path", ["/add_worker", "/remove_worker"])
async def test_legacy_calls_need_a_url(app: App, path: str) -> None:
    answer = await call(app, "POST", path)
    assert (answer.status, answer.text) == (
        400,
        "Failed to deserialize query string: missing field `url`",
    )
    assert (await call(app, "GET", path)).status == 405


async def test_names_stay_distinct_when_workers_come_and_go(app: App) -> None:
    urls = [f"http://127.0.0.1:{port}" for port in (1, 2, 3, 4)]
    ids = [await added(app, url, disable_health_check=True) for url in urls[:3]]
    assert [m.worker.node_id for m in app.registry.members] == ["worker-0", "worker-1", "worker-2"]
    await call(app, "DELETE", f"/workers/{ids[0]}")
    await added(app, urls[3], disable_health_check=True)
    names = [member.worker.node_id for member in app.registry.members]
    assert names[:2] == ["worker-1", "worker-2"]
    assert len(set(names)) == 3
