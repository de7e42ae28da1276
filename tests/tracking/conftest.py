"""Stores to test against: fakeredis, a real Redis, and the Valkey that is started for a user."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from uuid import uuid4

import fakeredis
import pytest
import uvloop

from tests.processes import ROOT
from tests.tracking.servers import Cluster
from tracking.connect import Client, close, connect
from tracking.embedded import find_server
from tracking.store import Retention, TraceStore

DAY = Retention(100_000, 86_400)

ON_BOTH_LOOPS = ("test_lines.py", "test_server_settings.py")  # their transports differ


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    one = {"asyncio": asyncio.new_event_loop}
    return one | {"uvloop": uvloop.new_event_loop} if item.path.name in ON_BOTH_LOOPS else one


class Server:
    """A server process of a test, on a unix socket."""

    def __init__(self, program: str, directory: Path) -> None:
        self.program = program
        self.path = directory / "server.sock"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    def start(self) -> None:
        self.path.unlink(missing_ok=True)
        command = [self.program, "--port", "0", "--unixsocket", str(self.path), "--save", ""]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=self.path.parent)
        for _ in range(500):
            with socket.socket(socket.AF_UNIX) as probe:
                if self.path.exists() and probe.connect_ex(str(self.path)) == 0:
                    return
            time.sleep(0.01)
        raise AssertionError(f"{self.program} did not start")

    def send(self, signal: int) -> None:
        assert self.process is not None
        self.process.send_signal(signal)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def redis_program() -> str:
    program = shutil.which("redis-server")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("redis-server is missing; CI must have it")
        pytest.skip("no redis-server on PATH")
    return program


@pytest.fixture(scope="session")
def programs() -> dict[str, Callable[[], str]]:
    return {"redis": redis_program, "valkey": find_server}


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory, programs) -> Iterator[Callable[[str], Server]]:
    """A server of a kind, started once; tests keep apart by fleet."""
    running: dict[str, Server] = {}

    def get(kind: str) -> Server:
        if kind not in running:
            server = Server(programs[kind](), tmp_path_factory.mktemp(kind))
            server.start()
            running[kind] = server
        return running[kind]

    yield get
    for server in running.values():
        server.kill()


@pytest.fixture
def own_server(tmp_path, programs) -> Iterator[Server]:
    """A Redis that a test may stop, kill and flush."""
    server = Server(programs["redis"](), tmp_path)
    server.start()
    yield server
    server.kill()


class Backend:
    """One fleet on one server: stores with any settings, and a client that looks behind them.

    `login`, where given, is what stores use.
    """

    def __init__(
        self, client: Client, *, shebang: bool, login: Client | None = None, fleet: str = ""
    ) -> None:
        self.client = client
        self.fleet = fleet or f"t{uuid4().hex[:12]}"
        self._login = login or client
        self._shebang = shebang

    def store(self, max_entries: int = 100_000, ttl_seconds: int = 86_400) -> TraceStore:
        own = Retention(max_entries, ttl_seconds)
        return TraceStore(
            self._login, self.fleet, own, call_timeout_seconds=5, shebang=self._shebang
        )

    def key(self, name: str) -> str:
        return "{%s}:%s" % (self.fleet, name)

    async def keys(self) -> dict[str, int]:
        """Every key of the fleet without its tag, and its time to live in seconds."""
        found: dict[str, int] = {}
        async for key in self.client.scan_iter(match=self.key("*"), count=1000):
            name = key.decode().removeprefix(self.key(""))
            found[name] = await self.client.ttl(key)
        return found


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory, programs) -> Iterator[Callable[[], Cluster]]:
    """Six nodes, started once, when the first test asks."""
    running: list[Cluster] = []

    def get() -> Cluster:
        if not running:
            cluster = Cluster(programs["redis"](), tmp_path_factory.mktemp("cluster"))
            try:
                running.append(cluster.start())
            except BaseException:
                cluster.close()
                raise
        return running[0]

    yield get
    for cluster in running:
        cluster.close()


@pytest.fixture(
    params=[
        "fakeredis",
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("valkey", marks=pytest.mark.redis),
        pytest.param("acl", marks=pytest.mark.redis),
        # Whoever is first waits until six servers have agreed.
        pytest.param("cluster", marks=[pytest.mark.redis, pytest.mark.slow]),
    ]
)
async def backend(request, shared_server, shared_cluster) -> AsyncIterator[Backend]:
    client: Client
    if request.param == "fakeredis":
        client = fakeredis.FakeAsyncRedis()
    elif request.param == "cluster":
        client = connect(shared_cluster().url)
    elif request.param == "acl":
        client = connect(shared_server("redis").url)
        fleet = f"t{uuid4().hex[:12]}"
        login = connect(await documented_user(client, shared_server("redis").path, fleet))
        yield Backend(client, shebang=True, login=login, fleet=fleet)
        await close(login)
        await close(client)
        return
    else:
        client = connect(shared_server(request.param).url)
    yield Backend(client, shebang=request.param != "fakeredis")
    await close(client)


async def documented_user(admin: Client, path: Path, fleet: str) -> str:
    """The URL of a user that may do what docs/redis.md grants, and nothing else."""
    page = (ROOT / "docs" / "redis.md").read_text()
    (rule,) = [line for line in page.splitlines() if line.startswith("ACL SETUSER ")]
    words = rule.replace("traces", f"user-{fleet}").replace("{default}", "{%s*}" % fleet).split()
    await admin.execute_command(*words)
    return f"unix://user-{fleet}:PASSWORD@{path}"
