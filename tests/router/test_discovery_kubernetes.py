"""Pods come and go as the API tells, in whatever order and with whatever it forgets to tell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from random import Random
from time import monotonic

import pytest

from router.app import App
from router.discovery import kubernetes
from router.discovery.kubernetes import ApiServer, KubernetesSource
from router.discovery.pods import Selected
from router.discovery.source import Found
from tests.kubernetes_api import KubernetesApi, pod
from tests.running import call, running, sim_worker
from tests.sim.call import WorkerConfig
from tests.sim.engine import EngineConfig
from tests.waiting import until

NOWHERE = Path("/nonexistent")
REGULAR = Selected("regular", 8000, "sglang.ai/bootstrap-port")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(kubernetes, "MOST_PAUSE_SECONDS", 0.05)


@pytest.fixture
async def api() -> AsyncIterator[KubernetesApi]:
    started = KubernetesApi()
    await started.start()
    yield started
    await started.close()


class Said:
    """A report: the last word, by address, and every problem."""

    def __init__(self) -> None:
        self.workers: Sequence[Found] | None = None
        self.problems: list[str] = []

    def found(self, workers: Sequence[Found]) -> None:
        self.workers = workers

    def failed(self, reason: str) -> None:
        self.problems.append(reason)

    @property
    def urls(self) -> set[str] | None:
        return None if self.workers is None else {worker.url for worker in self.workers}

    async def lists(self, *ips: str) -> None:
        wanted = {f"http://{ip}:8000" for ip in ips}
        await until(lambda: self.urls == wanted)


@asynccontextmanager
async def watching(
    api: KubernetesApi,
    *,
    credentials: Path = NOWHERE,
    selected: Selected = REGULAR,
    namespace: str | None = "llm",
) -> AsyncIterator[Said]:
    """A source that looks; at the start of the block it watches."""
    said = Said()
    source = KubernetesSource(
        ApiServer(api.url, credentials),
        "app=vllm",
        namespace,
        selected,
        random=Random(1),
        now=monotonic,
    )
    task = asyncio.create_task(source.run(said))
    try:
        await until(lambda: api.watches or said.problems)
        yield said
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_pod_is_a_worker_from_ready_until_it_is_to_leave(api: KubernetesApi):
    async with watching(api) as said:
        await said.lists()
        api.put(pod("a", "", phase="Pending"))
        api.put(pod("a", "10.0.0.1", ready=False))
        api.put(pod("b", "10.0.0.2"))
        await said.lists("10.0.0.2")
        api.put(pod("a", "10.0.0.1"))
        await said.lists("10.0.0.1", "10.0.0.2")
        api.put(pod("a", "10.0.0.1", leaving=True))  # ready still, for as long as it drains
        await said.lists("10.0.0.2")
        api.put(pod("b", "10.0.0.2", ready=False))
        await said.lists()
        api.put(pod("b", "10.0.0.2"))
        api.delete("a")
        await said.lists("10.0.0.2")
        api.delete("b")
        await said.lists()
        assert said.problems == []


async def test_others_pods_are_none_of_ours(api: KubernetesApi):
    api.put(pod("a", "10.0.0.1", labels={"app": "postgres"}))
    api.put(pod("b", "10.0.0.2", namespace="elsewhere"))
    api.put(pod("c", "10.0.0.3"))
    async with watching(api) as said:
        await said.lists("10.0.0.3")
    async with watching(api, namespace=None) as said:
        await said.lists("10.0.0.2", "10.0.0.3")


async def test_a_list_of_several_pages_is_one(api: KubernetesApi):
    api.page = 2
    for n in range(5):
        api.put(pod(f"p{n}", f"10.0.0.{n}"))
    async with watching(api) as said:
        await said.lists(*(f"10.0.0.{n}" for n in range(5)))


async def test_a_deletion_that_was_missed_is_seen_at_the_next_list(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(kubernetes, "RESYNC_SECONDS", 0.1)
    api.watch_seconds = 0.05
    api.put(pod("a", "10.0.0.1"))
    api.put(pod("b", "10.0.0.2"))
    async with watching(api) as said:
        await said.lists("10.0.0.1", "10.0.0.2")
        api.delete("a", told=False)
        await said.lists("10.0.0.2")


async def test_a_watch_that_ends_is_taken_up_where_it_ended(api: KubernetesApi):
    api.watch_seconds = 0.05
    api.put(pod("a", "10.0.0.1"))
    async with watching(api) as said:
        await until(lambda: len(api.requests) > 3)
        api.put(pod("b", "10.0.0.2"))
        await said.lists("10.0.0.1", "10.0.0.2")
        api.bookmark()
        version = str(api._version)
        await until(lambda: api.requests[-1].get("resourceVersion") == version)
        assert ["watch" in request for request in api.requests].count(False) == 1


@pytest.mark.parametrize("trouble", ["cut", "gone", "error", "nonsense"])
async def test_after_any_trouble_with_a_watch_a_list_says_what_there_is(
    api: KubernetesApi, trouble: str
):
    api.put(pod("a", "10.0.0.1"))
    api.put(pod("b", "10.0.0.2"))
    async with watching(api) as said:
        await said.lists("10.0.0.1", "10.0.0.2")
        api.delete("a", told=False)
        if trouble == "cut":
            api.cut()
        elif trouble == "gone":
            api.forget_history()
            api.send("ERROR", {"code": 410, "message": "too old resource version"})
        elif trouble == "error":
            api.send("ERROR", {"code": 500, "message": "etcdserver: leader changed"})
        else:
            api.send("MODIFIED", {"metadata": None})
        await said.lists("10.0.0.2")
        assert len(said.problems) == (0 if trouble in ("cut", "gone") else 1)


async def test_a_watch_from_a_version_that_is_kept_no_longer_is_followed_by_a_list(
    api: KubernetesApi,
):
    api.watch_seconds = 0.05
    api.put(pod("a", "10.0.0.1"))
    async with watching(api) as said:
        await said.lists("10.0.0.1")
        api.delete("a", told=False)
        api.forget_history()
        await said.lists()
        assert said.problems == []


async def test_a_watch_that_goes_silent_is_given_up(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(kubernetes, "GRACE_SECONDS", 0.1 - kubernetes.WATCH_SECONDS)
    api.watch_seconds = 3600
    api.put(pod("a", "10.0.0.1"))
    async with watching(api) as said:
        api.delete("a", told=False)
        await said.lists()


async def test_an_api_that_is_slow_refuses_or_is_away_changes_nothing(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(kubernetes, "LIST_SECONDS", 0.1)
    api.put(pod("a", "10.0.0.1"))
    async with watching(api) as said:
        await said.lists("10.0.0.1")
        api.silent = True
        api.cut()
        await until(lambda: "does not answer (TimeoutError)" in said.problems)
        api.silent, api.refusal = False, (403, "pods is forbidden")
        await until(lambda: "answers 403: pods is forbidden" in said.problems)
        assert said.urls == {"http://10.0.0.1:8000"}
        api.refusal = None
        api.put(pod("b", "10.0.0.2"))
        await said.lists("10.0.0.1", "10.0.0.2")


async def test_a_token_that_is_replaced_is_read_again(api: KubernetesApi, tmp_path: Path):
    (tmp_path / "token").write_text("first\n")
    api.token = "first"
    async with watching(api, credentials=tmp_path) as said:
        await said.lists()
        api.token = "second"
        api.cut()
        await until(lambda: "answers 401: Unauthorized" in said.problems)
        (tmp_path / "token").write_text("second\n")
        api.put(pod("a", "10.0.0.1"))
        await said.lists("10.0.0.1")


async def test_prefill_pods_name_their_bootstrap_port_and_nonsense_is_told(
    api: KubernetesApi, caplog: pytest.LogCaptureFixture
):
    port = {"sglang.ai/bootstrap-port": "8998"}
    prefill = Selected("prefill", 8000, "sglang.ai/bootstrap-port")
    api.put(pod("a", "10.0.0.1", annotations=port))
    api.put(pod("b", "10.0.0.2"))
    api.put(pod("c", "10.0.0.3", annotations={"sglang.ai/bootstrap-port": "many"}))
    async with watching(api, selected=prefill) as said:
        await said.lists("10.0.0.1", "10.0.0.2")
        assert said.workers is not None
        told = {w.url: (w.details.worker_type, w.details.bootstrap_port) for w in said.workers}
        assert told == {
            "http://10.0.0.1:8000": ("prefill", 8998),
            "http://10.0.0.2:8000": ("prefill", None),
        }
    assert "pod llm/c: sglang.ai/bootstrap-port: expected a port, got 'many'" in caplog.text


def of_pods(api: KubernetesApi, port: int) -> AbstractAsyncContextManager[App]:
    """A router whose workers are the pods that serve at this port."""
    return running(
        service_discovery=True,
        selector=("app=vllm",),
        service_discovery_port=port,
        kubernetes_api_url=api.url,
        kubernetes_credentials=str(NOWHERE),
    )


async def test_a_router_routes_to_pods_finishes_what_runs_there_and_knows_them_by_name(
    api: KubernetesApi,
):
    unhurried = WorkerConfig(engine=EngineConfig(token_seconds=0.02))
    async with sim_worker(unhurried) as sim:
        port = int(sim.url.rpartition(":")[2])
        api.put(pod("vllm-0", "127.0.0.1"))
        async with of_pods(api, port) as app:
            await until(lambda: app.fleet.workers)
            shown = (await call(app, "GET", "/workers")).text
            assert '"origin":"kubernetes:llm/vllm-0"' in shown
            body = {"text": "a", "sampling_params": {"max_new_tokens": 40}}
            request = asyncio.create_task(call(app, "POST", "/generate", body))
            await until(lambda: app.fleet.workers[0].in_flight)
            api.put(pod("vllm-0", "127.0.0.1", leaving=True))
            await until(lambda: not app.fleet.workers or app.fleet.workers[0].draining)
            answer = await request
            assert answer.status == 200
            await until(lambda: not app.fleet.workers)
            assert (await call(app, "POST", "/generate", body)).status == 503


async def test_a_pod_at_the_address_of_another_is_another_worker(api: KubernetesApi):
    async with sim_worker() as sim:
        port = int(sim.url.rpartition(":")[2])
        api.put(pod("vllm-0", "127.0.0.1"))
        async with of_pods(api, port) as app:
            await until(lambda: app.fleet.workers)
            (before,) = app.fleet.workers
            # The deletion of the first comes late: after the second has its address.
            api.put(pod("vllm-1", "127.0.0.1", created="2026-01-03T00:00:00Z"))
            await until(lambda: app.fleet.workers and app.fleet.workers[0] is not before)
            api.delete("vllm-0")
            await until(lambda: api.watches)
            (after,) = app.fleet.workers
            assert after.origin == "kubernetes:llm/vllm-1"
