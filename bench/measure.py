"""One measurement: the rig is built, loaded, read and taken down."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec

from bench.cases import Case, requests
from bench.processes import Pinned, core_busy_seconds
from bench.targets import Place, Target
from tests.processes import free_port

HERE = Path(__file__).parent
BUILD = HERE / "build"
TARGET_CORE, LOAD_CORE = 0, 1
READY_SECONDS = 60.0
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


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One round of one target. CPU in percent of one core; the target's without `direct`."""

    load: Load
    load_core_percent: float
    cpu_percent: float | None = None
    cpu_us_per_request: float | None = None
    memory_mb: float | None = None
    redis_cpu_us_per_request: float | None = None


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


def measure(
    target: Target,
    case: Case,
    seconds: float,
    loaded: Callable[[Pinned], None] | None = None,
) -> Measurement:
    """Run `case` through `target` for `seconds` after its warm-up. Raises RigError.

    `loaded` is called with the target's process when the warm-up begins.
    """
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        stock, request_bytes = requests(case)
        (directory / "requests").write_bytes(stock)

        def start(name: str, core: int, command: list[str]) -> Pinned:
            return stack.enter_context(Pinned(command, core, directory / f"{name}.log"))

        worker_ports = []
        for number in range(WORKERS):
            worker_ports.append(port := free_port())
            sizes = [str(n) for n in (port, case.events, case.interval_us, case.answer_bytes)]
            worker = start(f"worker-{number}", LOAD_CORE, [str(BUILD / "worker"), *sizes])
            wait(worker, listens(port))

        redis = None
        redis_port = free_port()
        if target.redis:
            program = shutil.which("redis-server")
            if program is None:
                raise RigError("redis-server is needed (Debian, Ubuntu: apt-get install redis)")
            listen = ["--port", str(redis_port), "--bind", "127.0.0.1", "--save", ""]
            redis = start("redis", LOAD_CORE, [program, *listen])
            wait(redis, listens(redis_port))

        router = None
        ports = worker_ports
        if target.command is not None:
            redis_url = f"redis://127.0.0.1:{redis_port}"
            place = Place(free_port(), free_port(), tuple(worker_ports), redis_url, directory)
            router = start("target", TARGET_CORE, target.command(place))
            wait(router, forwards(place.port, stock[:request_bytes]))
            ports = [place.port]

        times = [str(case.warmup_seconds), str(seconds), str(case.stagger_ms)]
        command = [str(BUILD / "load"), str(case.connections), *times]
        command += [str(directory / "requests"), str(request_bytes), *map(str, ports)]
        generator = start("load", LOAD_CORE, command)
        if loaded is not None and router is not None:
            loaded(router)
        return _run(generator, case, seconds, router, redis)


def _run(
    generator: Pinned, case: Case, seconds: float, router: Pinned | None, redis: Pinned | None
) -> Measurement:
    def used() -> tuple[float, float, float, float]:
        return (
            time.monotonic(),
            core_busy_seconds(LOAD_CORE),
            router.cpu_seconds() if router else 0.0,
            redis.cpu_seconds() if redis else 0.0,
        )

    time.sleep(case.warmup_seconds)
    before = used()
    time.sleep(seconds)
    after = used()
    elapsed, load_core, cpu, redis_cpu = (b - a for a, b in zip(before, after, strict=True))
    memory = router.memory_bytes() if router else 0
    deadline = time.monotonic() + 10
    while not generator.ended:
        if time.monotonic() > deadline:
            raise RigError("the load generator does not end")
        time.sleep(0.05)
    said = generator.log.read_text()
    try:
        load = msgspec.json.decode(said, type=Load)
    except msgspec.DecodeError:
        raise RigError(f"the load generator failed: {said[-2000:]}") from None
    rate = load.requests_per_second
    return Measurement(
        load=load,
        load_core_percent=100 * load_core / elapsed,
        cpu_percent=100 * cpu / elapsed if router else None,
        cpu_us_per_request=1e6 * cpu / elapsed / rate if router and rate else None,
        memory_mb=memory / 1e6 if router else None,
        redis_cpu_us_per_request=1e6 * redis_cpu / elapsed / rate if redis and rate else None,
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
            return response.status == 200 and bool(response.read())
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    return ready
