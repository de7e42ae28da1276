"""docker-compose.yml as it is, run: from `up` over everything that can die to `down`."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.engine import Environment
from tests.docker.images import ROOT
from tests.docker.project import (
    BALANCER,
    Client,
    Container,
    Project,
    Traffic,
    running,
    until,
)

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900, func_only=True)]

SERVICES = {"redis", "router", "worker-0", "worker-1", "loadbalancer", "prometheus"}


@pytest.fixture(scope="module")
def project(docker: Environment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Up, with the example's settings as its .env, as the quick start has it."""
    with running(docker, tmp_path_factory.mktemp("compose")) as project:
        yield project


@pytest.fixture
def routers(project: Project) -> list[Container]:
    return project.containers("router")


async def test_all_that_can_be_had_is_up_and_healthy(project: Project) -> None:
    containers = [one for name in SERVICES for one in project.containers(name)]
    assert len(containers) == len(SERVICES) + 1  # two routers
    for container in containers:
        state = container.inspect()["State"]
        assert (state["Status"], state["Health"]["Status"]) == ("running", "healthy")
    assert project.containers("grafana") == []  # override.yml says why


def test_what_the_readme_and_the_guide_ask_is_answered_on_30009(project: Project) -> None:
    readme = (ROOT / "README.md").read_text()
    ask = re.search(r"<!-- tested: ask -->\n```bash\n(.*?)^```$", readme, re.M | re.S)
    assert ask is not None
    assert "localhost:30009" in ask[1]
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", ask[1].replace("curl ", "curl -sS --fail-with-body ")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count('"request_id":"test-manual-123"') == 3  # by id, listed, in a batch
    assert '"status":"completed"' in run.stdout
    assert '"total_requests":' in run.stdout


async def test_a_trace_is_told_by_every_replica_at_its_own_port(
    project: Project, client: Client
) -> None:
    replicas = project.replicas()
    assert len(set(replicas)) == 2
    for number, served_by in enumerate(replicas):
        assert (await client.generate(f"own-port-{number}", url=served_by))[0] == 200
        told = [await client.ended(f"own-port-{number}", url) for url in replicas]
        assert told[0]["status"] == "completed"
        assert told[0] == told[1]


async def test_both_replicas_and_both_workers_get_requests(
    project: Project, client: Client
) -> None:
    ids = [f"spread-{number}" for number in range(20)]
    answers = await asyncio.gather(*(client.generate(request_id) for request_id in ids))
    assert [status for status, _ in answers] == [200] * 20
    traces = [await client.ended(request_id) for request_id in ids]
    assert {trace["node_id"] for trace in traces} == {"worker-0", "worker-1"}
    assert len({trace["router_id"] for trace in traces}) == 2


async def test_the_routers_own_paths_are_not_open_to_everybody(client: Client) -> None:
    assert await client.status(f"{BALANCER}/metrics") == 404
    assert await client.status(f"{BALANCER}/readiness") == 200
    assert await client.status(f"{BALANCER}/ui") == 200


async def test_nothing_runs_as_root_or_can_write_to_its_image(project: Project) -> None:
    for name in SERVICES:
        (container, *_) = project.containers(name)
        assert container.run("sh", "-c", "grep ^Uid: /proc/1/status").stdout.split()[1] != "0", name
        caps = container.run("sh", "-c", "grep ^CapEff: /proc/1/status").stdout.split()[1]
        assert int(caps, 16) == 0, name
        refused = container.run("sh", "-c", "touch /usr/here")
        assert "Read-only file system" in refused.stderr, name


async def test_what_forwards_requests_is_compiled_in_our_image(project: Project) -> None:
    for router in project.containers("router"):
        asked = router.run("python", "-c", "from router.compiled import how; print(how())")
        assert asked.stdout.strip() == "compiled", asked.stderr


async def test_the_first_process_is_the_program_itself(project: Project) -> None:
    """Not a shell, which would keep signals to itself."""
    for name, program in {
        "redis": "redis-server",
        "router": "python",
        "worker-0": "python",
        "loadbalancer": "haproxy",
        "prometheus": "prometheus",
    }.items():
        (container, *_) = project.containers(name)
        command = container.run("sh", "-c", "tr '\\0' '\\n' < /proc/1/cmdline").stdout
        assert Path(command.split("\n")[0]).name.startswith(program), name


async def test_redis_keeps_to_its_memory_and_says_no_when_it_is_full(project: Project) -> None:
    (redis,) = project.containers("redis")
    given = redis.run("redis-cli", "config", "get", "maxmemory*").stdout.split()
    assert given[given.index("maxmemory") + 1] == str((100_000 * 8 + 131_072) * 1024)
    assert given[given.index("maxmemory-policy") + 1] == "noeviction"


async def test_prometheus_finds_both_replicas_and_its_rules_have_values(client: Client) -> None:
    async def scraped() -> bool:
        return [one["value"][1] for one in await client.ask_prometheus("up")] == ["1", "1"]

    async def recorded() -> bool:
        found = await client.ask_prometheus("fleet:smg_workers_healthy:count")
        return [one["value"][1] for one in found] == ["2"]

    await until(scraped)
    await until(recorded)


async def test_a_router_that_is_killed_breaks_its_own_requests_only_and_comes_back(
    project: Project, routers: list[Container], client: Client
) -> None:
    traffic = Traffic(client, "router-killed")
    async with traffic.flowing():
        await traffic.goes_on(20)
        routers[0].kill()
        await traffic.goes_on(200)
        await routers[0].comes_back()
        await traffic.goes_on(50)
    for request_id in traffic.failed():
        # Those it had. What it had not yet committed, of its last 10 ms, is known to nobody.
        if await client.trace(request_id) is not None:
            assert (await client.ended(request_id))["status"] == "lost"
    assert len(traffic.failed()) <= 8
    served_by = project.replicas()[0]
    assert (await client.generate("after-router-killed", url=served_by))[0] == 200


async def test_traces_survive_the_end_of_redis_and_requests_do_not_notice(
    project: Project, client: Client
) -> None:
    (redis,) = project.containers("redis")
    assert (await client.generate("before-redis-killed"))[0] == 200
    await asyncio.sleep(1.5)  # everysec
    traffic = Traffic(client, "redis-killed")
    async with traffic.flowing(clients=4):
        await traffic.goes_on(20)
        redis.kill()
        await redis.comes_back()
        await traffic.goes_on(20)
    assert traffic.failed() == []
    for url in project.replicas():

        async def is_up(url: str = url) -> bool:
            stats = await client.get(f"{url}/v1/traces/stats")
            return bool(stats["store"]["state"] == "up" and not stats["store"]["buffered"])

        async def answers(url: str = url) -> bool:
            return await client.status(f"{url}/v1/traces/stats") == 200 and await is_up(url)

        await until(answers)
        for request_id in ["before-redis-killed", *traffic.answers]:
            assert (await client.ended(request_id, url))["status"] == "completed"


async def test_a_worker_that_is_killed_is_replaced_by_the_other_and_comes_back(
    project: Project, client: Client
) -> None:
    (worker,) = project.containers("worker-0")
    traffic = Traffic(client, "worker-killed")
    async with traffic.flowing():
        await traffic.goes_on(20)
        worker.kill()
        await traffic.goes_on(100)
        await worker.comes_back()

        async def is_used_again() -> bool:
            newest = await client.get(f"{BALANCER}/v1/traces?limit=20")
            return any(trace["node_id"] == "worker-0" for trace in newest)

        await until(is_used_again)
    # An answer that had begun cannot be had again from another worker; all else can.
    for request_id in traffic.failed():
        trace = await client.ended(request_id)
        assert trace["error"]["type"] == "worker_cut", trace


async def test_four_replicas_answer_are_balanced_and_found_by_prometheus(
    project: Project, client: Client
) -> None:
    project.up("--scale=router=4")
    replicas = project.replicas()
    assert len(set(replicas)) == 4
    for number, served_by in enumerate(replicas):
        assert (await client.generate(f"four-{number}", url=served_by))[0] == 200
    for number in range(4):
        for url in replicas:
            assert (await client.ended(f"four-{number}", url))["status"] == "completed"

    async def balanced() -> bool:
        batch = [f"four-balanced-{number}" for number in range(40)]
        await asyncio.gather(*(client.generate(request_id) for request_id in batch))
        traces = [await client.ended(request_id) for request_id in batch]
        return len({trace["router_id"] for trace in traces}) == 4

    async def scraped() -> bool:
        return [one["value"][1] for one in await client.ask_prometheus("up")] == ["1"] * 4

    await until(balanced)
    await until(scraped, 60)
    assert len((await client.get(f"{BALANCER}/v1/traces/stats"))["replicas"]) == 4
    project.up("--scale=router=2")
    assert len(project.replicas()) == 2


async def test_a_replica_that_is_stopped_finishes_its_streams_while_others_serve(
    project: Project, routers: list[Container], client: Client
) -> None:
    url = project.replicas()[1]
    stream = asyncio.create_task(client.generate("stop-one", url=url, tokens=300, stream=True))
    await _runs(client, "stop-one")
    traffic = Traffic(client, "replica-stopped")
    async with traffic.flowing():
        stopping = asyncio.create_task(asyncio.to_thread(project.stop, routers[1]))
        status, text = await stream
        await stopping
        await traffic.goes_on(20)
    assert status == 200
    assert text.endswith("data: [DONE]\n\n")
    assert traffic.failed() == []
    state = routers[1].inspect()["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)
    trace = await client.ended("stop-one")
    assert (trace["status"], trace["output_tokens"]) == ("completed", 300)
    project.up()


async def test_a_stop_of_everything_lets_an_open_stream_finish(
    project: Project, client: Client
) -> None:
    stream = asyncio.create_task(client.generate("stop-all", tokens=300, stream=True))
    await _runs(client, "stop-all")
    stopping = asyncio.create_task(asyncio.to_thread(project.compose, "stop"))
    status, text = await stream
    assert status == 200
    assert text.endswith("data: [DONE]\n\n")
    await stopping
    for name in ("router", "redis"):
        for container in project.containers(name):
            assert container.inspect()["State"]["ExitCode"] == 0, container.name
    project.up()
    trace = await client.ended("stop-all")
    assert (trace["status"], trace["output_tokens"]) == ("completed", 300)


async def test_down_leaves_nothing_behind(project: Project) -> None:
    project.compose("down", "--volumes")
    # Not what a build that was broken off has left in the engine.
    ours = "--filter=label=com.docker.compose.project"
    for what in ("ps --all", "volume ls", "network ls"):
        assert project.docker(*what.split(), ours, "--quiet") == ""


async def _runs(client: Client, request_id: str) -> None:
    async def begun() -> bool:
        trace = await client.trace(request_id)
        return trace is not None and trace["status"] == "processing"

    await until(begun)
