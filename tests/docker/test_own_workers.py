"""Workers outside the project, named in .env: on this machine, and real ones of the profile llama."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from tests.docker.engine import Environment
from tests.docker.project import BALANCER, Client, asking, running, until
from tests.processes import Processes, SimWorker

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900, func_only=True)]

KEY = "sesame"


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    async with Processes(tmp_path) as started:
        yield started


async def test_workers_of_this_machine_are_waited_for_used_and_named(
    docker: Environment, tmp_path: Path, processes: Processes
) -> None:
    host = "http://host.docker.internal"
    with running(
        docker,
        tmp_path,
        WORKER_URLS=f"{host}:30005 {host}:30006",
        PORT_GPU_MAPPING='{"30005": "gpu-2", "30006": "gpu-3"}',
        SIMULATED_WORKERS="0",
        API_KEY=KEY,
    ) as project:
        assert project.containers("worker-0") == []
        replicas = project.replicas()
        async with asking(KEY) as client:
            await _no_worker_yet(client, replicas)
            await processes.start(SimWorker("--host=0.0.0.0", port=30005))
            for url in replicas:
                await until(partial(says, client, 200, f"{url}/readiness"), 10)
            await processes.start(SimWorker("--host=0.0.0.0", port=30006))

            async def both_are_used() -> bool:
                ids = [str(uuid4()) for _ in range(20)]
                await asyncio.gather(*(client.generate(request_id) for request_id in ids))
                traces = [await client.ended(request_id) for request_id in ids]
                return {trace["node_id"] for trace in traces} == {"gpu-2", "gpu-3"}

            await until(both_are_used, 30)
        async with asking("another") as stranger:
            assert (await stranger.generate("stranger"))[0] == 401


async def _no_worker_yet(client: Client, replicas: list[str]) -> None:
    """All is up, says that it is not ready, and why; also through the balancer."""
    for url in [*replicas, BALANCER]:
        assert await client.status(f"{url}/health") == 200
        assert await client.status(f"{url}/readiness") == 503
    status, text = await client.generate("too-early")
    assert status == 503
    assert '"error":{' in text
    trace = await client.ended("too-early")
    assert (trace["status"], trace["error"]["type"]) == ("rejected", "no_worker")


async def says(client: Client, status: int, url: str) -> bool:
    return await client.status(url) == status


async def test_a_router_is_up_before_its_workers_within_five_seconds(
    docker: Environment, tmp_path: Path
) -> None:
    """One refuses; looking up the others' names takes for ever, as there is no name server here."""
    urls = "http://host.docker.internal:30005 " + " ".join(
        f"http://nobody-{number}.example:30005" for number in range(8)
    )
    with running(docker, tmp_path, WORKER_URLS=urls, SIMULATED_WORKERS="0") as project:
        (router, *_) = project.containers("router")
        project.stop(router)
        project.docker("start", router.name)
        async with asking() as client:
            url = f"http://{router.published(30009)}"
            await until(partial(says, client, 200, f"{url}/health"), 5)
            assert await client.status(f"{url}/readiness") == 503


async def test_llama_cpp_answers_and_tells_what_it_had_cached(
    docker: Environment, tmp_path: Path, client: Client
) -> None:
    workers = "http://llama-0:30005 http://llama-1:30005"
    profile = ("--profile", "llama")
    with running(docker, tmp_path, *profile, WORKER_URLS=workers, SIMULATED_WORKERS="0"):
        for request_id in ("llama-1", "llama-2"):
            text = await client.chat(request_id, "Name three colours of the rainbow, please.")
            assert '"finish_reason"' in text
        trace = await client.ended("llama-2")
        assert trace["status"] == "completed"
        assert trace["cache_source"] == "engine"
        assert trace["cached_tokens"] > 0
        assert trace["model"] == "SmolLM2-135M-Instruct"
