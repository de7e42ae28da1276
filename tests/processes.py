"""Real processes for end-to-end tests: started on loopback, waited for, ended by their pid.

    async with Processes(tmp_path) as processes:
        worker = await processes.start(SimWorker("--token-seconds=0.01"))
        redis = await processes.start(RedisProcess())
        router = await processes.start(RouterProcess([worker.url], redis_url=redis.url))

Each writes its output to a file of its own; an error at the start shows its end.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self, TypeVar

import aiohttp
import msgspec

from tests.waiting import PATIENCE_SECONDS, POLL_SECONDS

START_ATTEMPTS = 3
# Below the kernel's ephemeral range, so that no outgoing connection takes a port we looked at.
PORTS = range(20_000, 32_000)
ROOT = Path(__file__).parent.parent

Json = dict[str, object]


class ProcessFailed(Exception):
    """A process ended or was not ready in time. The message holds the end of its log."""


def free_port() -> int:
    """A port nobody listens on now."""
    random = Random()
    for _ in range(1000):
        port = random.choice(PORTS)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            return port
    raise ProcessFailed("no free port")


async def get_json(url: str, *, method: str = "GET", body: object = None) -> object:
    """The JSON at `url`. Raises aiohttp.ClientError, also for an error status."""
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_SECONDS)) as session,
        session.request(method, url, json=body, raise_for_status=True) as response,
    ):
        return msgspec.json.decode(await response.read())


async def answers(url: str) -> bool:
    """Whether `url` says 200 within a second."""
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1)) as session,
            session.get(url) as response,
        ):
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


class Process:
    """One process. Subclasses say how it is started and when it is ready."""

    name = "process"
    ready_seconds = PATIENCE_SECONDS

    def __init__(self) -> None:
        self.log_path = Path(os.devnull)
        self._process: asyncio.subprocess.Process | None = None

    def command(self) -> Sequence[str]:
        """The command line; asked for again at each attempt to start."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Added to our own."""
        return {}

    async def is_ready(self) -> bool:
        raise NotImplementedError

    @property
    def pid(self) -> int:
        assert self._process, f"{self.name} was not started"
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.returncode if self._process else None

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.is_file() else ""

    async def start(self, log_path: Path) -> None:
        """Start it and wait until it is ready. Raises ProcessFailed."""
        self.log_path = log_path
        for attempt in range(1, START_ATTEMPTS + 1):
            await self._spawn()
            try:
                await self._wait_ready()
            except ProcessFailed:
                lost_the_port = "address already in use" in self.log().lower()
                await self.kill()
                if attempt == START_ATTEMPTS or not lost_the_port:
                    raise
            else:
                return

    async def _spawn(self) -> None:
        with self.log_path.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.command(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=os.environ | {"PYTHONUNBUFFERED": "1"} | self.environment(),
            )

    async def _wait_ready(self) -> None:
        try:
            async with asyncio.timeout(self.ready_seconds):
                while not await self.is_ready():
                    if self.returncode is not None:
                        raise ProcessFailed(
                            f"{self.name} ended with {self.returncode}:\n{self.log()[-4000:]}"
                        )
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise ProcessFailed(
                f"{self.name} not ready after {self.ready_seconds} s:\n{self.log()[-4000:]}"
            ) from None

    def signal(self, number: signal.Signals) -> None:
        if self._process and self._process.returncode is None:
            self._process.send_signal(number)

    def pause(self) -> None:
        """SIGSTOP: it hangs, its connections stay."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    async def wait(self, seconds: float = PATIENCE_SECONDS) -> int:
        """The exit status. Raises TimeoutError."""
        assert self._process
        async with asyncio.timeout(seconds):
            return await self._process.wait()

    async def kill(self) -> None:
        """SIGKILL."""
        if self._process:
            self.signal(signal.SIGKILL)
            await self.wait()

    async def stop(self, seconds: float = PATIENCE_SECONDS) -> int | None:
        """SIGTERM, and SIGKILL after `seconds`. The exit status; None if it never ran."""
        if self._process is None:
            return None
        self.resume()
        self.signal(signal.SIGTERM)
        try:
            return await self.wait(seconds)
        except TimeoutError:
            await self.kill()
            return self.returncode


class SimWorker(Process):
    """A simulated SGLang worker; `switches` as `python -m tests.sim --help` lists them."""

    name = "worker"

    def __init__(self, *switches: str, port: int = 0) -> None:
        super().__init__()
        self._switches = switches
        self.port = port
        self.control_port = 0  # also the bootstrap port of a prefill worker

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        ports = [f"--port={self.port}", "--control-port=0"]
        return [sys.executable, "-m", "tests.sim", *ports, *self._switches]

    async def is_ready(self) -> bool:
        line = next((line for line in self.log().splitlines() if '"listening"' in line), None)
        if line is None:
            return False
        ports = msgspec.json.decode(line, type=dict[str, str | int])
        self.port = int(ports["port"])
        self.control_port = int(ports["control_port"])
        return True

    @property
    def _control_url(self) -> str:
        return f"http://127.0.0.1:{self.control_port}/_sim"

    async def faults(self, *faults: str | Json) -> None:
        """Replace the faults in force; none for good behaviour. Works also while it refuses."""
        await get_json(f"{self._control_url}/faults", method="POST", body=list(faults))

    async def state(self) -> Json:
        """`active`, `running`, `waiting`, ... (tests/sim/control.py)."""
        return msgspec.convert(await get_json(f"{self._control_url}/state"), Json)

    async def requests(self, path: str | None = None) -> list[Json]:
        """What it received, oldest first (tests/sim/records.py)."""
        query = f"?path={path}" if path else ""
        return msgspec.convert(await get_json(f"{self._control_url}/requests{query}"), list[Json])

    async def forget_requests(self) -> None:
        await get_json(f"{self._control_url}/requests", method="DELETE")

    async def wait_free(self, seconds: float = PATIENCE_SECONDS) -> None:
        """Until nothing is in flight here. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while (await self.state())["active"]:
                await asyncio.sleep(POLL_SECONDS)


class RedisProcess(Process):
    """A Redis (or with `program` a Valkey) server on a port of its own, without persistence."""

    name = "redis"

    def __init__(self, *settings: str, program: str | None = None) -> None:
        super().__init__()
        self._program = program or shutil.which("redis-server") or "redis-server"
        self._settings = settings
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        self.port = self.port or free_port()
        listen = ["--bind", "127.0.0.1", "--port", str(self.port)]
        return [self._program, *listen, "--save", "", "--appendonly", "no", *self._settings]

    async def is_ready(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        try:
            writer.write(b"PING\r\n")
            return await reader.readline() == b"+PONG\r\n"
        finally:
            writer.close()


class RouterProcess(Process):
    """`python -m router` before `worker_urls`. It is ready when it says so at /readiness."""

    name = "router"

    def __init__(
        self,
        worker_urls: Sequence[str],
        *flags: str,
        redis_url: str | None = None,
        port: int | None = None,
        ready_path: str = "/readiness",
    ) -> None:
        super().__init__()
        self._worker_urls = worker_urls
        self._flags = flags
        self._redis_url = redis_url
        self._given_port = port
        self._ready_path = ready_path
        self.port = port or 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        self.port = self._given_port or free_port()
        command = [sys.executable, "-m", "router", "--host=127.0.0.1", f"--port={self.port}"]
        if self._worker_urls:
            command += ["--worker-urls", *self._worker_urls]
        if self._redis_url:
            command += ["--redis-url", self._redis_url]
        return [*command, *self._flags]

    async def is_ready(self) -> bool:
        return await answers(self.url + self._ready_path)

    async def json(self, path: str, *, method: str = "GET", body: object = None) -> object:
        """The JSON this router answers. Raises aiohttp.ClientError, also for an error status."""
        return await get_json(self.url + path, method=method, body=body)


P = TypeVar("P", bound=Process)


class Processes:
    """Owns processes: numbers their logs, ends them in reverse order."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.started: list[Process] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self, process: P) -> P:
        """Start `process` and wait until it is ready. Raises ProcessFailed."""
        self.started.append(process)
        await process.start(self._directory / f"{len(self.started):02}-{process.name}.log")
        return process

    async def restart(self, process: P) -> P:
        """Start an ended process again, with a new log."""
        assert process.returncode is not None, f"{process.name} still runs"
        return await self.start(process)

    async def stop(self) -> None:
        for process in reversed(self.started):
            await process.stop()

    def logs(self) -> str:
        """What each wrote, for a failed test."""
        return "\n".join(
            f"--- {process.log_path.name}\n{process.log()[-8000:]}" for process in self.started
        )
