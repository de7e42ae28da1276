"""`python -m bench.store`: what tracing costs, and what the store can be asked while it is full.

    python -m bench.store                              everything, at 100,000 records: five minutes
    python -m bench.store --records 10000000 --only reads --only trim --only week      8 GB of memory
    python -m bench.store --only otel --only litellm                                   others beside it

A Redis of its own, set as docs/redis.md recommends, on core 1; the router's side (`Tracker`, or `TraceStore`) in this process on core
0. Costs are CPU time: of this process less that of the same load with tracing replaced by nothing,
and of Redis as INFO tells it. Times of queries are round trips of one caller.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Final

import msgspec
import uvloop

from bench.full_store import reads
from bench.measure import LOAD_CORE, TARGET_CORE, wait
from bench.processes import Pinned
from bench.report import RESULTS, machine
from bench.store_fill import fill
from bench.store_server import Figures, Server, now_us, quantile
from bench.store_trim import delete, trim, watched, week
from bench.targets import VENVS
from bench.traces import finished, started
from router.serving import spare_the_collector
from tracking.lifecycle import LiveTrace
from tracking.record import Record
from tracking.store import TraceStore
from tracking.tracker import Tracker
from tracking.writer import BATCH_BYTES, BATCH_RECORDS

HOLD_SECONDS: Final = 0.05  # from the start of a request to its end
ROUNDS: Final = 3  # of a cost; the least is told, because what else runs here only adds
OTEL: Final = ("opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http")
LITELLM: Final = ("litellm[proxy]",)


# --- what a request costs -------------------------------------------------------------------------


async def load(put: Callable[[LiveTrace], None], rate: int, seconds: float, first: int = 0) -> int:
    """Requests that begin evenly, and end after a while, as a router would tell of them: how many.
    They are numbered from `first` on; one that the store has already would cost it next to nothing."""
    loop = asyncio.get_running_loop()
    began, count = loop.time(), 0

    def end(trace: LiveTrace) -> None:
        finished(trace)
        put(trace)

    while (passed := loop.time() - began) < seconds:
        while count < passed * rate:
            trace = started(first + count, now_us())
            put(trace)
            loop.call_later(HOLD_SECONDS, end, trace)
            count += 1
        await asyncio.sleep(0.001)
    await asyncio.sleep(2 * HOLD_SECONDS)
    return count


async def write_cost(server: Server, rate: int, seconds: float, held: int = 1_000_000) -> Figures:
    """Two changes a request, of which each is written; `held` is the cap on records."""
    await server.empty()
    tracker = await server.tracker("bench", held)
    full_seconds = held / rate if held < rate * seconds else 0.0
    warm = await load(tracker.put, rate, 1.0 + full_seconds)
    await settled(tracker)
    spare_the_collector()  # as the router does
    router_us, redis_us, idle_us, redis_idle_us, count = [], [], [], [], 0
    memory = await server.memory()
    for _ in range(ROUNDS):
        before, used = await server.cpu_us(), time.process_time()
        some = await load(lambda _trace: None, rate, seconds / ROUNDS)
        idle_us.append((time.process_time() - used) / some * 1e6)
        redis_idle_us.append((await server.cpu_us() - before) / some)
        before, used = await server.cpu_us(), time.process_time()
        some = await load(tracker.put, rate, seconds / ROUNDS, warm + count)
        await settled(tracker)
        router_us.append((time.process_time() - used) / some * 1e6)
        redis_us.append((await server.cpu_us() - before) / some)
        count += some
    figures: Figures = {
        "requests per second": round(count / seconds),
        "router cpu µs per request": round(min(router_us) - min(idle_us), 1),
        "redis cpu µs per request": round(min(redis_us), 1),
        "of them idle": round(min(redis_idle_us), 1),
        "dropped": tracker.state().dropped,
    }
    if held > count:
        figures["bytes in redis per record"] = round((await server.memory() - memory) / count)
    await tracker.close(5)
    gc.unfreeze()
    return figures


async def settled(tracker: Tracker) -> None:
    while tracker.state().buffered:
        await asyncio.sleep(0.01)


async def largest_batches(server: Server, batches: int) -> dict[str, Figures]:
    """The longest scripts of writes as large as the writer makes them, while somebody tails."""
    figures: dict[str, Figures] = {}
    for name, label in (("ordinary", 0), ("rows of 7 KB", 6000)):
        await server.empty()
        store = server.store(10_000)  # so that as many are trimmed as come
        await store.heartbeat("bench/1", lease_seconds=600, urls=[])
        number = 0

        async def work(label: int = label, store: TraceStore = store) -> None:
            nonlocal number
            for _ in range(batches):
                await store.feed(None, 0)
                batch: list[Record] = []
                while len(batch) < BATCH_RECORDS and sum(one.size for one in batch) < BATCH_BYTES:
                    one = finished(started(number, now_us()))
                    one.label = "x" * label
                    batch.append(Record(one, "bench/1"))
                    number += 1
                await store.write(batch)

        before = await server.cpu_us()
        found = await watched(server, work)
        mean = (await server.cpu_us() - before) / batches / 1e3
        figures[name] = {
            "records of a batch": number // batches,
            "redis cpu ms of a batch": round(mean, 2),
            **found,
        }
    return figures


async def freshness(server: Server, rate: int, seconds: float) -> Figures:
    """From an event at one replica until another replica answers with it, asked all the time."""
    await server.empty()
    writer, reader = await server.tracker("writer"), await server.tracker("reader")
    loading = asyncio.get_running_loop().create_task(load(writer.put, rate, seconds))
    ages: list[float] = []
    number = 10**9
    await asyncio.sleep(0.2)
    while not loading.done():
        trace = started(number, now_us())
        number += 1
        put_at = time.perf_counter()
        writer.put(trace)
        while (await reader.get([trace.request_id])).records == [None]:
            await asyncio.sleep(0.0005)
        ages.append(time.perf_counter() - put_at)
        finished(trace)
        writer.put(trace)
        await asyncio.sleep(0.005)
    await loading
    for tracker in (writer, reader):
        await tracker.close(5)
    return {
        "events per second": 2 * rate,
        "probes": len(ages),
        "visible at another replica after ms, p50": round(median(ages) * 1e3, 1),
        "p99": round(quantile(ages, 0.99) * 1e3, 1),
    }


# --- beside it ------------------------------------------------------------------------------------


def otel() -> dict[str, Figures]:
    """Spans through OpenTelemetry's SDK, batched, encoded as OTLP, and sent nowhere."""
    return beside("otel", OTEL, "otel_spans.py")


def litellm(url: str) -> dict[str, Figures]:
    """LiteLLM's router with a Redis for what it counts, and for its answers, against the same without."""
    return beside("litellm", LITELLM, "litellm_redis.py", url)


def beside(name: str, packages: Sequence[str], script: str, *arguments: str) -> dict[str, Figures]:
    """What a script of this folder says, in an environment of its own."""
    python = VENVS / name / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", VENVS / name], check=True)
        subprocess.run([python, "-m", "pip", "-q", "install", *packages], check=True)
    command = [str(python), str(Path(__file__).parent / script), *arguments]
    said = subprocess.run(command, check=True, capture_output=True, text=True)
    return msgspec.json.decode(said.stdout.splitlines()[-1], type=dict[str, dict[str, float | str]])


# --- all of it ------------------------------------------------------------------------------------

PARTS: Final = (
    "write",
    "batches",
    "freshness",
    "reads",
    "trim",
    "week",
    "delete",
    "otel",
    "litellm",
)
FULL: Final = ("reads", "trim", "week")  # these share one filled store, in this order
RECOMMENDED: Final = ("--hz", "100", "--lazyfree-lazy-expire", "yes")


async def measure(server: Server, parts: Sequence[str], records: int, quick: bool) -> object:
    seconds, times = (1.0, 20) if quick else (10.0, 300)
    results: dict[str, object] = {}

    async def measured(name: str, figures: Awaitable[object]) -> None:
        began = time.monotonic()
        results[name] = await figures
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    if "write" in parts:
        await measured("write at 1,000 a second", write_cost(server, 1000, seconds))
        await measured("write at 4,000 a second", write_cost(server, 4000, seconds))
        full = write_cost(server, 1000, seconds, held=2000)
        await measured("write at 1,000 a second, as many trimmed", full)
    if "batches" in parts:
        batches = largest_batches(server, int(20 * seconds))
        await measured("largest batches, with a tail", batches)
    if "freshness" in parts:
        await measured("freshness at 1,000 requests a second", freshness(server, 1000, seconds))
    if any(part in FULL for part in parts):
        await measured("fill", fill(server, records))
    if "reads" in parts:
        await measured("reads", reads(server, records, times))
    if "trim" in parts:
        await measured("trim", trim(server, records))
    if "week" in parts:
        await measured("week", week(server, records))
    if "delete" in parts:
        await measured("delete", delete(server, records))
    if "otel" in parts:
        await measured("opentelemetry", asyncio.to_thread(otel))
    if "litellm" in parts:
        await server.empty()
        await measured("litellm", asyncio.to_thread(litellm, server.url))
    return results


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m bench.store", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--only", action="append", choices=PARTS, help="repeatable")
    parser.add_argument("--plain", action="store_true", help="Redis with its own defaults")
    parser.add_argument("--quick", action="store_true", help="does it work at all?")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        directory = Path(folder)
        socket = directory / "socket"
        command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", folder,
                   *(() if args.plain else RECOMMENDED)]  # fmt: skip
        redis = stack.enter_context(Pinned(command, (LOAD_CORE,), directory / "log"))
        wait(redis, socket.exists)
        os.sched_setaffinity(0, {TARGET_CORE})
        results = uvloop.run(_on(f"unix://{socket}", args))
    now = datetime.now(UTC)
    target = RESULTS / "tmp" if args.quick else RESULTS
    target.mkdir(parents=True, exist_ok=True)
    parts = "".join(
        f"-{part}" for part in (*(args.only or ()), *(("plain",) if args.plain else ()))
    )
    path = target / f"{now:%Y-%m-%d}-store-{args.records}{parts}.json"
    whole = {"at": now.isoformat(timespec="seconds"), "machine": machine(), "results": results}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(whole)) + b"\n")
    print(msgspec.json.format(msgspec.json.encode(results)).decode())
    print(path)
    return 0


async def _on(url: str, args: argparse.Namespace) -> object:
    server = Server(url)
    try:
        return await measure(server, args.only or PARTS, args.records, args.quick)
    finally:
        await server.redis.aclose()


if __name__ == "__main__":
    sys.exit(main())
