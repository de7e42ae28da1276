"""One measurement: the rig is built, loaded, read and taken down."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import msgspec

from bench.cases import Case, requests
from bench.processes import Pinned, core_busy_seconds
from bench.targets import Place, Target
from tests.processes import free_port

HERE = Path(__file__).parent
BUILD = HERE / "build"
TARGET_CORE, LOAD_CORE = 0, 1
READY_SECONDS = 120.0
LOAD_END_SECONDS = 10.0
WORKERS = 2


class RigError(Exception):
    """The rig could not be built, or the load failed. The message holds the end of a log."""


class Quantiles(msgspec.Struct, frozen=True):
    """Microseconds."""

    p50: int
    p90: int
    p99: int
    max: int


class Load(msgspec.Struct, frozen=True):
    """What the load generator saw."""

    requests: int
    errors: int
    reconnects: int
    events: int
    body_bytes: int
    seconds: float
    requests_per_second: float
    events_per_second: float
    latency_us: Quantiles | None
    ttft_us: Quantiles | None
    gap_us: Quantiles | None = None
    """Between the events of a stream."""


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One round of one target. CPU in percent of one core; the target's without `direct`."""

    load: Load
    load_core_percent: float
    cpu_percent: float | None = None
    cpu_us_per_request: float | None = None
    cpu_us_per_event: float | None = None
    busiest_percent: float | None = None
    """CPU of the one process that used most."""
    memory_mb: float | None = None
    redis_cpu_us_per_request: float | None = None


class Used(msgspec.Struct, frozen=True):
    """CPU seconds, of processes by pid, at a time or within one."""

    seconds: float
    load_core: float
    router: dict[int, float]
    redis: dict[int, float]

    @staticmethod
    def by(router: Pinned | None, redis: Pinned | None) -> Used:
        return Used(
            time.monotonic(),
            core_busy_seconds(LOAD_CORE),
            router.cpu_seconds() if router else {},
            redis.cpu_seconds() if redis else {},
        )

    def since(self, before: Used) -> Used:
        def more(now: dict[int, float], then: dict[int, float]) -> dict[int, float]:
            return {pid: seconds - then.get(pid, 0.0) for pid, seconds in now.items()}

        return Used(
            self.seconds - before.seconds,
            self.load_core - before.load_core,
            more(self.router, before.router),
            more(self.redis, before.redis),
        )


def build() -> None:
    """Compile the mock worker and the load generator. Raises RigError."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise RigError("a C compiler is needed (Debian, Ubuntu: apt-get install gcc libc6-dev)")
    if len(os.sched_getaffinity(0)) < 2:
        raise RigError("two cores are needed")
    BUILD.mkdir(exist_ok=True)
    for name in ("worker", "load"):
        source, program = HERE / f"{name}.c", BUILD / name
        if program.exists() and program.stat().st_mtime > source.stat().st_mtime:
            continue
        subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-o", program, source], check=True)


class Rig:
    """Workers and, in front of them, a target, with its Redis where it takes one; until the `with` ends.

    The target runs on `cores`, everything else on LOAD_CORE. Entering raises RigError.
    """

    def __init__(self, target: Target, case: Case, cores: Collection[int] = (TARGET_CORE,)) -> None:
        self._target = target
        self._case = case
        self._cores = cores
        self._stack = ExitStack()
        self.router: Pinned | None = None
        self.redis: Pinned | None = None
        self.ports: list[int] = []  # where requests go to

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.push(self._stack)
            self._start()
            undo.pop_all()
        return self

    def __exit__(self, *how: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        case = self._case
        temporary = tempfile.TemporaryDirectory(prefix="bench-")
        self._directory = Path(self._stack.enter_context(temporary))
        stock, self._request_bytes = requests(case)
        self._stock = self._directory / "requests"
        self._stock.write_bytes(stock)

        worker_ports = []
        for number in range(WORKERS):
            worker_ports.append(port := free_port())
            told = (port, case.events, case.interval_us, case.answer_bytes, case.prompt_tokens)
            worker = self._run(f"worker-{number}", [str(BUILD / "worker"), *map(str, told)])
            wait(worker, listens(port))

        redis_port = free_port()
        if self._target.redis:
            program = shutil.which("redis-server")
            if program is None:
                raise RigError("redis-server is needed (Debian, Ubuntu: apt-get install redis)")
            listen = ["--port", str(redis_port), "--bind", "127.0.0.1", "--save", ""]
            self.redis = self._run("redis", [program, *listen])
            wait(self.redis, listens(redis_port))

        self.ports = worker_ports
        if self._target.command is not None:
            redis_url = f"redis://127.0.0.1:{redis_port}"
            place = Place(free_port(), free_port(), tuple(worker_ports), redis_url, self._directory)
            self.router = self._run("target", self._target.command(place), self._cores)
            wait(self.router, forwards(place.port, stock[: self._request_bytes]))
            self.ports = [place.port]

    def _run(self, name: str, command: list[str], cores: Collection[int] = (LOAD_CORE,)) -> Pinned:
        return self._stack.enter_context(Pinned(command, cores, self._directory / f"{name}.log"))

    def load(self, warmup_seconds: float, seconds: float, stagger_seconds: float) -> Pinned:
        """Start the load generator; `said` is what it says at its end."""
        case = self._case
        stagger_ms = int(1000 * stagger_seconds)
        command = [str(BUILD / "load"), str(case.connections), str(warmup_seconds), str(seconds)]
        command += [str(stagger_ms), str(self._stock), str(self._request_bytes)]
        return self._run("load", [*command, *map(str, self.ports)])


def said(generator: Pinned) -> Load:
    """Wait for the end of the load. Raises RigError."""
    deadline = time.monotonic() + LOAD_END_SECONDS
    while not generator.ended:
        if time.monotonic() > deadline:
            raise RigError("the load generator does not end")
        time.sleep(0.05)
    text = generator.log.read_text()
    try:
        return msgspec.json.decode(text, type=Load)
    except msgspec.DecodeError:
        raise RigError(f"the load generator failed: {text[-2000:]}") from None


def measure(
    target: Target,
    case: Case,
    seconds: float,
    loaded: Callable[[Pinned], None] | None = None,
    cores: Collection[int] = (TARGET_CORE,),
) -> Measurement:
    """Run `case` through `target` for `seconds` after its warm-up. Raises RigError.

    `loaded` is called with the target's process when the warm-up begins.
    """
    with Rig(target, case, cores) as rig:
        router, redis = rig.router, rig.redis
        generator = rig.load(case.warmup_seconds, seconds, case.stagger_seconds)
        if loaded is not None and router is not None:
            loaded(router)

        time.sleep(case.warmup_seconds)
        before = Used.by(router, redis)
        time.sleep(seconds)
        used = Used.by(router, redis).since(before)
        memory = router.memory_bytes() if router else 0
        load = said(generator)

    elapsed, cpu = used.seconds, sum(used.router.values())

    def each(cpu_seconds: float, a_second: float) -> float | None:
        return 1e6 * cpu_seconds / elapsed / a_second if a_second else None

    return Measurement(
        load=load,
        load_core_percent=100 * used.load_core / elapsed,
        cpu_percent=100 * cpu / elapsed if router else None,
        cpu_us_per_request=each(cpu, load.requests_per_second) if router else None,
        cpu_us_per_event=each(cpu, load.events_per_second) if router else None,
        busiest_percent=100 * max(used.router.values()) / elapsed if router else None,
        memory_mb=memory / 1e6 if router else None,
        redis_cpu_us_per_request=each(sum(used.redis.values()), load.requests_per_second)
        if redis
        else None,
    )


def wait(process: Pinned, ready: Callable[[], bool]) -> None:
    """Until `ready`. Raises RigError when the process ends instead, or takes too long."""
    deadline = time.monotonic() + READY_SECONDS
    while not ready():
        if process.ended or time.monotonic() > deadline:
            why = "ended" if process.ended else f"not ready after {READY_SECONDS} s"
            log = process.log.read_text(errors="replace")[-2000:]
            raise RigError(f"{process.log.stem} {why}:\n{log}")
        time.sleep(0.05)


def listens(port: int) -> Callable[[], bool]:
    """Whether someone takes connections there."""

    def ready() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return False
        return True

    return ready


def forwards(port: int, request: bytes) -> Callable[[], bool]:
    """Whether the target answers a request of the case with what a worker said."""
    body = request.partition(b"\r\n\r\n")[2]

    def ready() -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/v1/chat/completions", body, headers)
            response = connection.getresponse()
            return response.status == 200 and bool(response.read(1))
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    return ready
