"""Routing end to end: real routers before modelled workers, a real trace in its own arrival order.

    python -m bench.routing TRACES [--scale 20] [--limit 2000] [--load 1 --load 2] [--target ...]

TRACES is Mooncake's JSONL or whatever else `trace-router replay` reads. Each target runs with 1 and
with 4 replicas; requests go to replicas in turn, as a round-robin balancer sends them. At the end
stands what was aimed at, for the last of our policies beside four sglang-routers, met or missed. Arrivals are those of the trace, spread inside its steps, `--scale` times as
fast, before workers that are as many times as fast; what is printed is in the trace's own seconds.
A router's own time and the delay of what replicas tell each other are not scaled: they count
`--scale` times. `cores` is the CPU time of everything by the time of the run: near the number of
cores, or with `process` (the busiest one) near 1, the machine was measured and a lower `--scale` is
needed. Only loopback is used. The result goes to `bench/results/` as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
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
    cores: float
    process: float


class Aim(msgspec.Struct):
    """A number to reach, and what it was."""

    load: float
    what: str
    reached: float
    least: float | None = None
    most: float | None = None

    @property
    def met(self) -> bool:
        return (self.least is None or self.reached >= self.least) and (
            self.most is None or self.reached <= self.most
        )


PEER: Final = "sglang-router"
OWN_LOAD: Final = (0.6, 0.8)  # TTFT p50 and p99 beside the peer's, at most
DOUBLE_LOAD: Final = (0.4, 0.6)


def aims(results: Sequence[Result]) -> list[Aim]:
    """What was aimed at, as far as these runs can tell."""
    found: list[Aim] = []
    runs = {(r.target, r.replicas, r.load): r for r in results}
    ours = [target for target, _, _ in runs if target != PEER]
    for load in sorted({r.load for r in results}) if ours else []:
        four, one = runs.get((ours[-1], 4, load)), runs.get((ours[-1], 1, load))
        peer = runs.get((PEER, 4, load))
        if four is None:
            continue
        if one is not None:
            found.append(Aim(load, "cached, 4 replicas : 1", four.cached / one.cached, least=0.97))
        if peer is not None:
            median, slowest = DOUBLE_LOAD if load >= 2 else OWN_LOAD
            found += [
                Aim(load, f"TTFT p50 : {PEER}", four.ttft_p50 / peer.ttft_p50, most=median),
                Aim(load, f"TTFT p99 : {PEER}", four.ttft_p99 / peer.ttft_p99, most=slowest),
            ]
        found.append(Aim(load, "hottest worker : mean", four.hottest, most=1.2))
    return found


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


def cpu_seconds(pids: Sequence[int]) -> list[float]:
    """CPU time that each process has used; all it has been, for one that is gone 0."""
    ticks = os.sysconf("SC_CLK_TCK")
    used = []
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            used.append((int(fields[11]) + int(fields[12])) / ticks)
        except OSError:
            used.append(0.0)
    return used


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
        processes = [stack.enter_context(running(workers, logs / "workers"))]
        for port in worker_ports:
            wait_until_ready(f"http://127.0.0.1:{port}/health")
        urls = [f"http://127.0.0.1:{port}" for port in worker_ports]
        redis = None
        if target != PEER:
            port = free_port()
            redis = f"redis://127.0.0.1:{port}"
            server = [shutil.which("redis-server") or "redis-server", "--port", str(port)]
            quiet = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
            processes.append(stack.enter_context(running([*server, *quiet], logs / "redis")))
        ports = [free_port() for _ in range(replicas)]
        for port in ports:
            command = (
                sglang_command(port, urls)
                if target == PEER
                else router_command(target, port, urls, redis)
            )
            processes.append(stack.enter_context(running(command, logs / "router")))
        for port in ports:
            wait_until_ready(f"http://127.0.0.1:{port}/readiness")
        time.sleep(SETTLE_SECONDS)
        pids = [os.getpid(), *(process.pid for process in processes)]
        before, started = cpu_seconds(pids), time.perf_counter()
        answers, latest = uvloop.run(replay(ports, jobs, args.scale))
        seconds = time.perf_counter() - started
        busy = [
            (after - earlier) / seconds
            for earlier, after in zip(before, cpu_seconds(pids), strict=True)
        ]
        if latest > 0.1:
            print(f"  the rig itself was {latest:.2f} s late at worst", flush=True)
    return result_of(target, replicas, load, answers, args.scale, busy)


def result_of(
    target: str,
    replicas: int,
    load: float,
    answers: Sequence[tuple[float | None, Said | None]],
    scale: float,
    busy: Sequence[float],
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
        cores=round(sum(busy), 2),
        process=round(max(busy), 2),
    )


def main(argv: Sequence[str] | None = None) -> None:
    p = argparse.ArgumentParser(
        "python -m bench.routing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("traces", metavar="TRACES")
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
          f"{'hottest':>9}{'failed':>8}{'cores':>7}{'process':>9}")  # fmt: skip
    for load in args.load or (1.0, 2.0):
        for target in args.target or (PEER, "expected_ttft"):
            for replicas in args.replicas or REPLICAS:
                r = measure(target, replicas, load, args)
                results.append(r)
                print(f"{r.target:<16}{r.replicas:>9}{r.load:>6g}{r.cached:>9.1%}{r.ttft_p50:>9.3f}"
                      f"{r.ttft_p99:>9.3f}{r.hottest:>9.2f}{r.failed:>8}{r.cores:>7.2f}{r.process:>9.2f}",
                      flush=True)  # fmt: skip
    aimed = aims(results)
    for aim in aimed:
        bound = f">= {aim.least}" if aim.most is None else f"<= {aim.most}"
        print(f"load {aim.load:g}: {aim.what:<26}{aim.reached:>7.2f}  {bound:<8}"
              f"{'met' if aim.met else 'MISSED'}")  # fmt: skip
    folder = ROOT / "bench/results"
    path = folder / f"{time.strftime('%Y-%m-%d-%H%M%S')}-routing.json"
    settings = {name: value for name, value in vars(args).items() if name != "traces"}
    said = {
        "trace": Path(args.traces).name,
        "settings": settings,
        "results": results,
        "aims": aimed,
    }
    path.write_bytes(msgspec.json.format(msgspec.json.encode(said), indent=1) + b"\n")
    print(path)


if __name__ == "__main__":
    main()
