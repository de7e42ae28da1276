"""docker-compose.yml, up in an engine: its containers, its ports, and what is asked of them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from tests.docker.engine import Environment, said
from tests.docker.images import ROOT
from tests.fleets import TERMINAL
from tests.programs import program

BALANCER = "http://127.0.0.1:30009"
OVERRIDE = "tests/docker/override.yml"
POLL_SECONDS = 0.2

Json = dict[str, Any]


def build(environment: Environment) -> None:
    """All images of ours, as `docker compose build` does."""
    Project(environment, Path(os.devnull), "--profile", "llama").compose("build", "--quiet")


class Project:
    """One project. `env_file` is its .env, `options` are more of Compose's own."""

    def __init__(self, environment: Environment, env_file: Path, *options: str) -> None:
        self.environment = environment
        self._command = [program("docker-compose"), "--project-directory", str(ROOT)]
        self._command += ["--env-file", str(env_file)]
        for file in ("docker-compose.yml", OVERRIDE):
            self._command += ["--file", str(ROOT / file)]
        self._command += options

    def compose(self, *words: str) -> str:
        """What `docker compose WORDS` prints; raises AssertionError with its complaint."""
        return said([*self._command, *words], self.environment)

    def up(self, *words: str) -> None:
        """Start what is there; nothing is pulled, and it returns when all is healthy."""
        self.compose("up", "--detach", "--no-build", "--pull=never", "--wait", *words)

    def docker(self, *words: str) -> str:
        """What `docker WORDS` prints."""
        return said(["docker", *words], self.environment)

    def stop(self, container: Container) -> None:
        """As `docker compose stop` would, but this one only."""
        grace = container.inspect()["Config"]["StopTimeout"]
        self.docker("stop", f"--time={grace}", container.name)

    def containers(self, service: str) -> list[Container]:
        """In the order of their numbers."""
        listed = self.compose("ps", "--all", "--format", "json", service).splitlines()
        rows = [msgspec.json.decode(line, type=Json) for line in listed]
        rows.sort(key=lambda row: int(row["Name"].rpartition("-")[2]))
        return [Container(self.environment, row["Name"]) for row in rows]

    def replicas(self) -> list[str]:
        """The URL of each router at its own port of this machine."""
        return [f"http://{c.published(30009)}" for c in self.containers("router")]


@contextmanager
def running(docker: Environment, folder: Path, *options: str, **settings: str) -> Iterator[Project]:
    """A project with an .env that differs from the example in `settings`."""
    given = (ROOT / ".env.example").read_text()
    env_file = folder / ".env"
    env_file.write_text(given + "".join(f"{name}={value}\n" for name, value in settings.items()))
    project = Project(docker, env_file, *options)
    try:
        project.up()
        yield project
    finally:
        project.compose("down", "--volumes", "--timeout=5")


class Container:
    def __init__(self, environment: Environment, name: str) -> None:
        self._environment = environment
        self.name = name

    def inspect(self) -> Json:
        (found,) = msgspec.json.decode(
            said(["docker", "inspect", self.name], self._environment), type=list[Json]
        )
        return found

    def published(self, port: int) -> str:
        """Where `port` is to be found on this machine."""
        return said(["docker", "port", self.name, str(port)], self._environment).split()[0]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command in it."""
        command = ["docker", "exec", self.name, *words]
        return subprocess.run(
            command, env=self._environment, capture_output=True, text=True, check=False
        )

    def kill(self) -> None:
        """SIGKILL its first process, as a lack of memory would; `docker kill` would mean it."""
        os.kill(self.inspect()["State"]["Pid"], signal.SIGKILL)

    def log(self) -> str:
        command = ["docker", "logs", self.name]
        run = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, check=False
        )
        return run.stdout + run.stderr

    async def comes_back(self, seconds: float = 60.0) -> None:
        """Until it was restarted and is healthy."""

        async def is_back() -> bool:
            state = self.inspect()
            return state["RestartCount"] > 0 and state["State"]["Health"]["Status"] == "healthy"

        await until(is_back, seconds)


async def until(true: Callable[[], Awaitable[object]], seconds: float = 30.0) -> None:
    """Wait for it. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not await true():
            await asyncio.sleep(POLL_SECONDS)


class Client:
    """Asks routers and Prometheus."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def get(self, url: str) -> Any:
        """The JSON there. Raises aiohttp.ClientResponseError for an error status."""
        async with self._session.get(url, raise_for_status=True) as response:
            return msgspec.json.decode(await response.read())

    async def status(self, url: str) -> int:
        """The status of the answer; 0 when there is none."""
        try:
            async with self._session.get(url) as response:
                return response.status
        except (aiohttp.ClientError, TimeoutError):
            return 0

    async def generate(
        self, request_id: str, *, url: str = BALANCER, tokens: int = 5, stream: bool = False
    ) -> tuple[int, str]:
        """Status and body of one request; (0, ...) when it broke."""
        # Each prompt is another one, or the one worker that knows it would get them all.
        body = {"text": f"{request_id} asks", "sampling_params": {"max_new_tokens": tokens}}
        headers = {"X-Request-Id": request_id}
        try:
            async with self._session.post(
                f"{url}/generate", json=body | {"stream": stream}, headers=headers
            ) as response:
                return response.status, await response.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            return 0, repr(error)

    async def chat(self, request_id: str, text: str) -> str:
        """The body of an answer to a chat. Raises aiohttp.ClientResponseError."""
        messages = [{"role": "user", "content": text}]
        body = {"model": "SmolLM2-135M-Instruct", "messages": messages, "max_tokens": 12}
        headers = {"X-Request-Id": request_id}
        async with self._session.post(
            f"{BALANCER}/v1/chat/completions", json=body, headers=headers, raise_for_status=True
        ) as response:
            return await response.text()

    async def trace(self, request_id: str, url: str = BALANCER) -> Json | None:
        """None when nobody knows the id."""
        try:
            found: Json = await self.get(f"{url}/v1/traces/{request_id}")
        except aiohttp.ClientResponseError as error:
            if error.status != 404:
                raise
            return None
        return found

    async def ended(self, request_id: str, url: str = BALANCER) -> Json:
        """The trace once it has ended, which another replica sees a moment later. Raises
        TimeoutError."""
        async with asyncio.timeout(10):
            while (trace := await self.trace(request_id, url)) is None or (
                trace["status"] not in TERMINAL
            ):
                await asyncio.sleep(POLL_SECONDS)
        return trace

    async def ask_prometheus(self, query: str) -> list[Json]:
        url = f"http://127.0.0.1:9090/api/v1/query?query={query}"
        answer: list[Json] = (await self.get(url))["data"]["result"]
        return answer


@asynccontextmanager
async def asking(key: str | None = None) -> AsyncIterator[Client]:
    """With a connection for each request, so that the balancer chooses for each."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=60)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, headers=headers
    ) as session:
        yield Client(session)


class Traffic:
    """Clients that send one request after the other through the balancer."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self._name = name
        self._stopping = False
        self.answers: dict[str, int] = {}

    def failed(self) -> list[str]:
        return [request_id for request_id, status in self.answers.items() if status != 200]

    async def _one_client(self, number: int) -> None:
        sent = 0
        while not self._stopping:
            sent += 1
            request_id = f"{self._name}-{number}-{sent}"
            status, _ = await self._client.generate(request_id)
            self.answers[request_id] = status

    @asynccontextmanager
    async def flowing(self, clients: int = 8) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            for number in range(clients):
                tasks.create_task(self._one_client(number))
            try:
                yield
            finally:
                self._stopping = True

    async def goes_on(self, requests: int = 50) -> None:
        """Until so many more have been answered well."""
        wanted = len(self.answers) - len(self.failed()) + requests

        async def enough() -> bool:
            return len(self.answers) - len(self.failed()) >= wanted

        await until(enough, 60)
