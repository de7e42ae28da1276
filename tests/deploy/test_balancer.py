"""The shipped HAProxy and Prometheus settings, loaded into the real programs."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession, ClientTimeout, web
from yarl import URL

from tests.programs import program
from tests.waiting import PATIENCE_SECONDS

DEPLOY = Path(__file__).parents[2] / "deploy"

pytestmark = pytest.mark.compose


def test_haproxy_takes_its_settings() -> None:
    haproxy = [program("haproxy"), "-c", "-f", str(DEPLOY / "haproxy.cfg")]
    run = subprocess.run(haproxy, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "warning" not in run.stderr.lower()


def test_prometheus_takes_its_settings() -> None:
    promtool = [
        program("promtool"),
        "check",
        "config",
        str(DEPLOY / "prometheus" / "prometheus.yml"),
    ]
    run = subprocess.run(promtool, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


class Replica:
    """Stands in for a router: says who answered, and what became of its requests."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready = True
        self.asked = asyncio.Event()
        self.left = asyncio.Event()
        self.port = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/readiness":
            status, text = (200, "ready") if self.ready else (503, "not ready")
            return web.Response(status=status, text=text)
        if request.path == "/health":
            return web.Response()
        if request.path == "/slow":
            self.asked.set()
            try:
                await asyncio.sleep(60)
            finally:
                self.left.set()
        if request.path == "/stream":
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"first")
            await self.left.wait()
            await response.write(b" last")
            return response
        return web.Response(text=self.name)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.answer)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield
        finally:
            await runner.cleanup()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def on_loopback(config: str, port: int, replicas: list[Replica]) -> str:
    """The shipped file, with addresses of this machine in place of Docker's."""
    for template, prefix in (("replica", "r"), ("living", "l")):
        servers = "".join(f"    server {prefix}-{r.name} 127.0.0.1:{r.port}\n" for r in replicas)
        config, count = re.subn(rf" +server-template {template}-.*\n", servers, config)
        assert count == 1, template
    for pattern, replacement in (
        (r"bind :30009", f"bind 127.0.0.1:{port}"),
        (r"resolvers docker init-addr none", ""),
        (r"resolvers docker\n(    .*\n)+", ""),
    ):
        config, count = re.subn(pattern, replacement, config)
        assert count == 1, pattern
    return config


class Balancer:
    def __init__(self, url: str, client: ClientSession) -> None:
        self.url = url
        self.client = client

    async def get(self, path: str) -> tuple[int, str]:
        async with self.client.get(URL(self.url + path, encoded=True)) as response:
            return response.status, await response.text()

    async def until(self, path: str, expected: set[str]) -> None:
        """Ask until exactly the replicas `expected` have answered twenty calls in a row."""
        while {(await self.get(path))[1] for _ in range(20)} != expected:
            await asyncio.sleep(0.1)


@asynccontextmanager
async def balancing(folder: Path, *replicas: Replica) -> AsyncIterator[Balancer]:
    port = free_port()
    config = folder / "haproxy.cfg"
    config.write_text(on_loopback((DEPLOY / "haproxy.cfg").read_text(), port, list(replicas)))
    log = folder / "haproxy.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(program("haproxy"), "-db", "-f", str(config)), stdout=output, stderr=output
        )
    try:
        async with ClientSession(timeout=ClientTimeout(total=PATIENCE_SECONDS)) as client:
            balancer = Balancer(f"http://127.0.0.1:{port}", client)
            while True:
                assert process.returncode is None, log.read_text()
                try:
                    if (await balancer.get("/who"))[0] == 200:
                        break
                except OSError:
                    pass
                await asyncio.sleep(0.05)
            yield balancer
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.e2e
@pytest.mark.parametrize(
    "path",
    [
        "/metrics",
        "/metrics/",
        "/metrics?x=1",
        "/%6detrics",
        "//metrics",
        "/METRICS",
        "/engine_metrics",
    ],
)
async def test_the_routers_numbers_are_not_for_everybody(tmp_path: Path, path: str) -> None:
    replica = Replica("a")
    async with replica.serving(), balancing(tmp_path, replica) as balancer:
        status, body = await balancer.get(path)
        assert status == 404
        assert '"not_found"' in body
        assert await balancer.get("/v1/metrics-of-mine") == (200, "a")


@pytest.mark.e2e
async def test_a_replica_that_is_not_ready_gets_no_new_requests(tmp_path: Path) -> None:
    a, b = Replica("a"), Replica("b")
    async with a.serving(), b.serving(), balancing(tmp_path, a, b) as balancer:
        await balancer.until("/who", {"a", "b"})
        a.ready = False
        await balancer.until("/who", {"b"})
        a.ready = True
        await balancer.until("/who", {"a", "b"})


@pytest.mark.e2e
async def test_replicas_of_which_none_is_ready_answer_for_themselves(tmp_path: Path) -> None:
    """They say 503 in their own words, and can be asked for traces while all workers are away."""
    a, b = Replica("a"), Replica("b")
    async with a.serving(), b.serving(), balancing(tmp_path, a, b) as balancer:
        await balancer.until("/who", {"a", "b"})
        a.ready = b.ready = False
        await balancer.until("/readiness", {"not ready"})
        assert {await balancer.get("/who") for _ in range(20)} == {(200, "a"), (200, "b")}
        b.ready = True
        await balancer.until("/who", {"b"})


@pytest.mark.e2e
async def test_a_replica_that_is_gone_costs_no_request(tmp_path: Path) -> None:
    a, b = Replica("a"), Replica("b")
    async with b.serving(), AsyncExitStack() as a_serves:
        await a_serves.enter_async_context(a.serving())
        async with balancing(tmp_path, a, b) as balancer:
            await balancer.until("/who", {"a", "b"})
            await a_serves.aclose()
            # The balancer cannot know yet; it learns from the refused connections.
            assert [await balancer.get("/who") for _ in range(20)] == [(200, "b")] * 20


@pytest.mark.e2e
async def test_a_client_that_leaves_before_the_first_byte_is_gone_for_the_router_too(
    tmp_path: Path,
) -> None:
    replica = Replica("a")
    async with replica.serving(), balancing(tmp_path, replica) as balancer:
        request = asyncio.create_task(balancer.get("/slow"))
        await asyncio.wait_for(replica.asked.wait(), PATIENCE_SECONDS)
        request.cancel()
        await asyncio.wait_for(replica.left.wait(), PATIENCE_SECONDS)


@pytest.mark.e2e
async def test_a_stream_passes_as_it_comes(tmp_path: Path) -> None:
    replica = Replica("a")
    async with replica.serving(), balancing(tmp_path, replica) as balancer:
        async with balancer.client.get(balancer.url + "/stream") as response:
            assert await asyncio.wait_for(response.content.readany(), PATIENCE_SECONDS) == b"first"
            replica.left.set()
            assert await response.content.read() == b" last"
