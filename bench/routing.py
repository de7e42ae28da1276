"""Routing end to end: real routers before modelled workers, a real trace in its own arrival order.

    python -m bench.routing TRACES [--scale 20] [--limit 2000] [--load 1 --load 2] [--target ...]

Each target runs with 1 and with 4 replicas; requests go to replicas in turn, as a round-robin
balancer sends them. Arrivals are those of the trace, spread inside its steps, `--scale` times as
fast, before workers that are as many times as fast; what is printed is in the trace's own seconds.
A router's own time and the delay of what replicas tell each other are not scaled: they count
`--scale` times. Only loopback is used. The result goes to `bench/results/` as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from bench.modelled import prompt_text
from bench.targets import ROOT, VENVS, Unavailable, _prepare_sglang_router
from router.lab.report import hottest, percentile
from router.lab.traces import Job, read_jobs

REPLICAS: Final = (1, 4)
WORKERS: Final = 8
START_SECONDS: Final = 30.0
SETTLE_SECONDS: Final = 2.0  # workers registered, replicas acquainted
REQUEST_SECONDS: Final = 120.0


class Said(msgspec.Struct):
    """A worker's last event."""

    prompt_tokens: int
    cached_tokens: int
    worker: str


class Event(msgspec.Struct):
    meta_info: Said | None = None


class Result(msgspec.Struct):
    """One run. Seconds of the trace; shares 0..1."""

    target: str
    replicas: int
    load: float
    requests: int
    failed: int
    cached: float
    ttft_p50: float
    ttft_p99: float
    hottest: float


def router_command(policy: str, port: int, workers: Sequence[str], redis: str | None) -> list[str]:
    store = [] if redis is None else ["--redis-url", redis]
    listen = ["--host", "127.0.0.1", "--port", str(port), "--log-level", "warn"]
    ours = [sys.executable, "-m", "router", *listen, "--policy", policy, *store]
    return [*ours, "--drain-secs", "0", "--worker-urls", *workers]


def sglang_command(port: int, workers: Sequence[str]) -> list[str]:
    python = str(VENVS / "sglang-router/bin/python")
    listen = ["--host", "127.0.0.1", "--port", str(port), "--log-level", "warn"]
    metrics = ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())]
    launch = [python, "-m", "sglang_router.launch_router", *listen, *metrics]
    return [*launch, "--policy", "cache_aware", "--worker-urls", *workers]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as out:
        process = subprocess.Popen(command, cwd=ROOT, stdin=-3, stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_ready(url: str) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1) as answer:
            if answer.status == 200:
                return
        time.sleep(0.1)
    raise SystemExit(f"{url} does not answer")


async def ask(port: int, body: bytes) -> tuple[float | None, Said | None]:
    """Seconds to the first event, and what the last one said; None for what did not come."""
    started = time.perf_counter()
    first = None
    answer = b""
    writer = None
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(
                b"POST /generate HTTP/1.1\r\nHost: r\r\nContent-Type: application/json\r\n"
                b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
            while piece := await reader.read(65536):
                answer += piece
                if first is None and b"data:" in answer:
                    first = time.perf_counter() - started
    except (OSError, TimeoutError):
        return None, None
    finally:
        if writer is not None:
            writer.close()
    for line in reversed(answer.split(b"\n")):
        if line.startswith(b"data: {"):
            with contextlib.suppress(msgspec.DecodeError):
                return first, msgspec.json.decode(line[6:], type=Event).meta_info
    return None, None


async def replay(
    ports: Sequence[int], jobs: Sequence[Job], scale: float
) -> tuple[list[tuple[float | None, Said | None]], float]:
    """Every job at its time. Also how late the latest was sent: what the rig could not do."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    tasks = []
    latest = 0.0
    for number, job in enumerate(jobs):
        body = msgspec.json.encode(
            {
                "text": prompt_text(job.blocks, job.input_tokens),
                "stream": True,
                "sampling_params": {"max_new_tokens": job.output_tokens},
            }
        )
        wait = start + job.arrived / scale - loop.time()
        latest = max(latest, -wait)
        await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(ask(ports[number % len(ports)], body)))
    return list(await asyncio.gather(*tasks)), latest


def measure(target: str, replicas: int, load: float, args: argparse.Namespace) -> Result:
    jobs, _ = read_jobs(args.traces, limit=args.limit, speed=load, seed=1)
    with tempfile.TemporaryDirectory() as home, contextlib.ExitStack() as stack:
        logs = Path(home)
        worker_ports = [free_port() for _ in range(WORKERS)]
        model = ["--scale", str(args.scale), "--prefill-rate", str(args.prefill_rate)]
        workers = [sys.executable, "-m", "bench.modelled", *map(str, worker_ports), *model]
        stack.enter_context(running(workers, logs / "workers"))
        for port in worker_ports:
            wait_until_ready(f"http://127.0.0.1:{port}/health")
        urls = [f"http://127.0.0.1:{port}" for port in worker_ports]
        redis = None
        if target != "sglang-router":
            port = free_port()
            redis = f"redis://127.0.0.1:{port}"
            server = [shutil.which("redis-server") or "redis-server", "--port", str(port)]
            quiet = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
            stack.enter_context(running([*server, *quiet], logs / "redis"))
        ports = [free_port() for _ in range(replicas)]
        for port in ports:
            command = (
                sglang_command(port, urls)
                if target == "sglang-router"
                else router_command(target, port, urls, redis)
            )
            stack.enter_context(running(command, logs / "router"))
        for port in ports:
            wait_until_ready(f"http://127.0.0.1:{port}/readiness")
        time.sleep(SETTLE_SECONDS)
        answers, latest = uvloop.run(replay(ports, jobs, args.scale))
        if latest > 0.1:
            print(f"  the rig itself was {latest:.2f} s late at worst", flush=True)
    return result_of(target, replicas, load, answers, args.scale)


def result_of(
    target: str,
    replicas: int,
    load: float,
    answers: Sequence[tuple[float | None, Said | None]],
    scale: float,
) -> Result:
    good = [(first, said) for first, said in answers if first is not None and said is not None]
    times = sorted(first * scale for first, _ in good)
    work: Counter[str] = Counter({str(number): 0 for number in range(WORKERS)})
    for _, said in good:
        work[said.worker] += said.prompt_tokens - said.cached_tokens
    tokens = sum(said.prompt_tokens for _, said in good)
    return Result(
        target=target,
        replicas=replicas,
        load=load,
        requests=len(answers),
        failed=len(answers) - len(good),
        cached=round(sum(said.cached_tokens for _, said in good) / tokens, 4),
        ttft_p50=round(percentile(times, 0.5), 3),
        ttft_p99=round(percentile(times, 0.99), 3),
        hottest=round(hottest(list(work.values())), 3),
    )


def main(argv: Sequence[str] | None = None) -> None:
    p = argparse.ArgumentParser(
        "python -m bench.routing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("traces")
    p.add_argument("--target", action="append", help="sglang-router, or a policy of ours")
    p.add_argument("--load", action="append", type=float, help="times the trace's own (1, 2)")
    p.add_argument("--replicas", action="append", type=int, help="(1, 4)")
    p.add_argument("--scale", type=float, default=20.0)
    p.add_argument("--limit", type=int)
    p.add_argument("--prefill-rate", type=float, default=10_000.0)
    args = p.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended too
    try:
        _prepare_sglang_router()
    except Unavailable as error:
        print(f"without sglang-router: {error}")
    results = []
    print(f"{'target':<16}{'replicas':>9}{'load':>6}{'cached':>9}{'p50 s':>9}{'p99 s':>9}"
          f"{'hottest':>9}{'failed':>8}")  # fmt: skip
    for load in args.load or (1.0, 2.0):
        for target in args.target or ("sglang-router", "cache_aware", "expected_ttft"):
            for replicas in args.replicas or REPLICAS:
                r = measure(target, replicas, load, args)
                results.append(r)
                print(f"{r.target:<16}{r.replicas:>9}{r.load:>6g}{r.cached:>9.1%}{r.ttft_p50:>9.3f}"
                      f"{r.ttft_p99:>9.3f}{r.hottest:>9.2f}{r.failed:>8}", flush=True)  # fmt: skip
    folder = ROOT / "bench/results"
    path = folder / f"{time.strftime('%Y-%m-%d-%H%M%S')}-routing.json"
    settings = {name: value for name, value in vars(args).items() if name != "traces"}
    said = {"trace": Path(args.traces).name, "settings": settings, "results": results}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(said), indent=1) + b"\n")
    print(path)


if __name__ == "__main__":
    main()
