"""`python -m bench.store`: what tracing costs, and what the store can be asked while it is full.

    python -m bench.store                          everything, at 100,000 records
    python -m bench.store --records 10000000 --only reads --only trim     8 GB of memory, 10 minutes
    python -m bench.store --only otel              OpenTelemetry's SDK beside it

A Redis of its own on core 1; the router's side (`Tracker`, or `TraceStore`) in this process on core
0. Costs are CPU time: of this process less that of the same load with tracing replaced by nothing,
and of Redis as INFO tells it. Times of queries are round trips of one caller.
"""

from __future__ import annotations

import argparse
import asyncio
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
from redis.asyncio import Redis

from bench.measure import LOAD_CORE, TARGET_CORE, wait
from bench.processes import Pinned
from bench.report import RESULTS, machine
from bench.targets import VENVS
from bench.traces import finished, started
from tracking.lifecycle import LiveTrace
from tracking.query import parse_query
from tracking.record import Record
from tracking.store import Retention, TraceStore
from tracking.tracker import Tracker, TrackerConfig
from tracking.view import StoreUnavailable

FLEET: Final = "bench"
HOLD_SECONDS: Final = 0.05  # from the start of a request to its end
FILL: Final = 500  # records a call of the filling script
OTEL: Final = ("opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http")
Figures = dict[str, float | str]


def quantile(values: Sequence[float], q: float) -> float:
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


def now_us() -> int:
    return time.time_ns() // 1000


class Server:
    """The Redis under test, and what it says of itself."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.redis: Redis = Redis.from_url(url)

    async def cpu_us(self) -> float:
        info = await self.redis.info("cpu")
        return float(info["used_cpu_user"] + info["used_cpu_sys"]) * 1e6

    async def memory(self) -> int:
        return int((await self.redis.info("memory"))["used_memory"])

    async def empty(self) -> None:
        await self.redis.flushall()

    def store(self, records: int) -> TraceStore:
        own = Retention(records, 7 * 86_400)
        return TraceStore.from_url(self.url, FLEET, own, call_timeout_seconds=30)

    async def tracker(self, name: str, records: int = 1_000_000) -> Tracker:
        tracker = Tracker(
            TrackerConfig(router_id=name, redis_url=self.url, fleet=FLEET, max_entries=records),
            now=time.monotonic,
            synchronise=lambda _us, _at: None,
        )
        await tracker.start()
        return tracker


# --- what a request costs -------------------------------------------------------------------------


async def load(put: Callable[[LiveTrace], None], rate: int, seconds: float) -> int:
    """Requests that begin evenly, and end after a while, as a router would tell of them."""
    loop = asyncio.get_running_loop()
    began, count = loop.time(), 0

    def end(trace: LiveTrace) -> None:
        finished(trace)
        put(trace)

    while (passed := loop.time() - began) < seconds:
        while count < passed * rate:
            trace = started(count, now_us())
            put(trace)
            loop.call_later(HOLD_SECONDS, end, trace)
            count += 1
        await asyncio.sleep(0.001)
    await asyncio.sleep(2 * HOLD_SECONDS)
    return count


async def write_cost(server: Server, rate: int, seconds: float) -> Figures:
    """Two changes a request, of which each is written."""
    used = time.process_time()
    count = await load(lambda _trace: None, rate, seconds)
    idle = (time.process_time() - used) / count
    await server.empty()
    tracker = await server.tracker("bench")
    await load(tracker.put, rate, 1.0)  # warm: connections, scripts, the script's own caches
    while tracker.state().buffered:
        await asyncio.sleep(0.01)
    before, memory, used = await server.cpu_us(), await server.memory(), time.process_time()
    count = await load(tracker.put, rate, seconds)
    while tracker.state().buffered:
        await asyncio.sleep(0.01)
    router_us = ((time.process_time() - used) / count - idle) * 1e6
    redis_us = (await server.cpu_us() - before) / count
    figures: Figures = {
        "requests per second": round(count / seconds),
        "router cpu µs per request": round(router_us, 1),
        "redis cpu µs per request": round(redis_us, 1),
        "bytes in redis per record": round((await server.memory() - memory) / count),
        "dropped": tracker.state().dropped,
    }
    await tracker.close(5)
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
        while (await reader.get([trace.trace.request_id])).records == [None]:
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


# --- a full store ---------------------------------------------------------------------------------


async def fill(server: Server, records: int) -> Figures:
    """Small records whose arrivals are spread over the last hour."""
    await server.empty()
    script = server.redis.register_script((Path(__file__).parent / "fill.lua").read_text())
    memory, began = await server.memory(), time.monotonic()
    step = 3_500_000_000 // records
    first = now_us() - records * max(1, step)
    expires = int(time.time()) + 6 * 86_400
    for start in range(0, records, FILL):
        count = min(FILL, records - start)
        arrival = first + start * max(1, step)
        await script(keys=["{%s}:all" % FLEET], args=[start, count, arrival, max(1, step), expires])
    return {
        "records": records,
        "bytes per small record": round((await server.memory() - memory) / records),
        "seconds to fill": round(time.monotonic() - began, 1),
    }


async def asked(server: Server, call: Callable[[], Awaitable[object]], times: int) -> Figures:
    """How long one caller waits, and how much of it Redis works."""
    await call()
    waits = []
    before = await server.cpu_us()
    for _ in range(times):
        began = time.perf_counter()
        await call()
        waits.append(time.perf_counter() - began)
    return {
        "ms p50": round(median(waits) * 1e3, 2),
        "ms p99": round(quantile(waits, 0.99) * 1e3, 2),
        "redis cpu ms": round((await server.cpu_us() - before) / times / 1e3, 2),
    }


async def reads(server: Server, records: int, times: int) -> dict[str, Figures]:
    store = server.store(records + 100_000)
    await store.heartbeat("reader/1", lease_seconds=600, urls=[])
    for batch in range(60):  # something in each minute's counters
        at = now_us() - batch * 60_000_000
        await store.write([Record(finished(started(10**8 + batch * 20 + n, at)), "a/1")
                           for n in range(20)])  # fmt: skip
    await store.tallies.sum_up()

    def page(**given: str) -> Callable[[], Awaitable[object]]:
        query = parse_query(list(given.items()), now_us())
        return lambda: store.page(query)

    last = (await store.page(parse_query([("limit", "100")], now_us()))).next_cursor
    assert last is not None
    middle = f"{now_us() / 1e6 - 1800:.0f}"
    half = datetime.fromtimestamp(float(middle), UTC).isoformat().replace("+00:00", "Z")
    return {
        "list of 100": await asked(server, page(limit="100"), times),
        "list of 100 of a worker": await asked(
            server, page(limit="100", node_id="worker-3"), times
        ),
        "list of 100, failed, of a worker": await asked(
            server, page(limit="100", node_id="worker-4", status="failed"), times
        ),
        "filters that never match, whole scan budget": await asked(
            server, page(limit="100", node_id="worker-1", status="failed"), times
        ),
        "list of 100 from half an hour ago": await asked(server, page(until=half), times),
        "a rare label, whole scan budget": await asked(
            server, page(limit="100", label="7", until=half), max(5, times // 20)
        ),
        "stats": await asked(server, store.stats, times),
        "by id, 100 of them": await asked(
            server, lambda: store.get([f"k{n * (records // 100):09}" for n in range(100)]), times
        ),
    }


class Pulse:
    """Asks PING all the time: its longest wait is the longest pause of the server."""

    def __init__(self, url: str) -> None:
        self.longest = 0.0
        self._going = True
        self._redis: Redis = Redis.from_url(url)
        self._task = asyncio.get_running_loop().create_task(self._beat())

    async def _beat(self) -> None:
        while self._going:
            began = time.perf_counter()
            await self._redis.execute_command("PING")  # type: ignore[no-untyped-call]
            self.longest = max(self.longest, time.perf_counter() - began)
            await asyncio.sleep(0.0005)

    async def end(self) -> float:
        """Seconds."""
        self._going = False
        await self._task
        await self._redis.aclose()
        return self.longest


async def watched(server: Server, work: Callable[[], Awaitable[object]]) -> Figures:
    """Do `work` and tell the longest pauses, as Redis and as a bystander saw them."""
    await server.redis.config_set("slowlog-log-slower-than", 1000)
    await server.redis.config_set("latency-monitor-threshold", 1)
    await server.redis.slowlog_reset()
    await server.redis.execute_command("LATENCY", "RESET")  # type: ignore[no-untyped-call]
    pulse, began = Pulse(server.url), time.monotonic()
    await work()
    took, longest = time.monotonic() - began, await pulse.end()
    slow = await server.redis.slowlog_get(128)
    latest = await server.redis.execute_command("LATENCY", "LATEST")  # type: ignore[no-untyped-call]
    figures: Figures = {
        "seconds": round(took, 1),
        "longest script ms": round(max((one["duration"] for one in slow), default=0) / 1e3, 2),
        "scripts over 5 ms": sum(one["duration"] > 5000 for one in slow),
        "longest PING ms": round(longest * 1e3, 2),
    }
    for name, _at, _last, most in latest:
        if name in (b"expire-cycle", b"active-defrag-cycle"):
            figures[f"longest {name.decode()} ms"] = float(most)
    return figures


async def trim(server: Server, records: int) -> dict[str, Figures]:
    """The view shrinks to a hundredth, then all is deleted, then all expires at once."""
    small = server.store(max(1, records // 100))

    async def shrink() -> None:
        # Routers of before are gone: the fleet's cap is now a hundredth.
        await server.redis.delete("{%s}:replica:reader/1" % FLEET)
        await small.heartbeat("trim/1", lease_seconds=600, urls=[])
        for batch in range(min(2000, records // 200)):
            at = now_us()
            fresh = [Record(finished(started(2 * 10**8 + batch, at)), "a/1")]
            await small.write(fresh)

    async def delete() -> None:
        try:
            await small.delete_all()
        except StoreUnavailable as error:
            print(f"deletion: {error}", file=sys.stderr)

    shrinking = await watched(server, shrink)
    records = min(records, 1_000_000)
    await fill(server, records)
    await server.store(records).heartbeat("reader/1", lease_seconds=600, urls=[])
    deleting = await watched(server, delete)
    await fill(server, records)
    keys = "{%s}:r:*" % FLEET
    at = int(time.time()) + 3 + records // 10_000
    pipe = server.redis.pipeline(transaction=False)
    async for key in server.redis.scan_iter(match=keys, count=1000):
        _ = pipe.expireat(key, at)
        if len(pipe) >= 1000:
            await pipe.execute()
    await pipe.execute()

    async def expire() -> None:
        while await server.redis.dbsize() > 100:
            await asyncio.sleep(0.1)

    return {
        "shrink to a hundredth": shrinking,
        f"delete all of {records}": deleting,
        f"{records} records expire in one second": await watched(server, expire),
    }


# --- beside it ------------------------------------------------------------------------------------


def otel() -> dict[str, Figures]:
    """Spans through OpenTelemetry's SDK, batched, encoded as OTLP, and sent nowhere."""
    python = VENVS / "otel/bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", VENVS / "otel"], check=True)
        subprocess.run([python, "-m", "pip", "-q", "install", *OTEL], check=True)
    script = Path(__file__).parent / "otel_spans.py"
    said = subprocess.run([python, script], check=True, capture_output=True, text=True)
    return msgspec.json.decode(said.stdout, type=dict[str, dict[str, float | str]])


# --- all of it ------------------------------------------------------------------------------------

PARTS: Final = ("write", "freshness", "reads", "trim", "otel")


async def measure(server: Server, parts: Sequence[str], records: int, quick: bool) -> object:
    seconds, times = (1.0, 20) if quick else (10.0, 300)
    results: dict[str, object] = {}
    if "write" in parts:
        results["write at 1,000 a second"] = await write_cost(server, 1000, seconds)
        results["write at 4,000 a second"] = await write_cost(server, 4000, seconds)
    if "freshness" in parts:
        results["freshness at 1,000 requests a second"] = await freshness(server, 1000, seconds)
    if "reads" in parts or "trim" in parts:
        results["fill"] = await fill(server, records)
    if "reads" in parts:
        results["reads"] = await reads(server, records, times)
    if "trim" in parts:
        results["trim"] = await trim(server, records)
    if "otel" in parts:
        results["opentelemetry"] = await asyncio.to_thread(otel)
    return results


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m bench.store", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--only", action="append", choices=PARTS, help="repeatable")
    parser.add_argument("--quick", action="store_true", help="does it work at all?")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        directory = Path(folder)
        socket = directory / "socket"
        command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--save", "", "--hz", "100",
                   "--dir", folder]  # fmt: skip
        redis = stack.enter_context(Pinned(command, LOAD_CORE, directory / "log"))
        wait(redis, socket.exists)
        os.sched_setaffinity(0, {TARGET_CORE})
        results = uvloop.run(_on(f"unix://{socket}", args))
    now = datetime.now(UTC)
    target = RESULTS / "tmp" if args.quick else RESULTS
    target.mkdir(parents=True, exist_ok=True)
    path = target / f"{now:%Y-%m-%d}-store-{args.records}.json"
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
