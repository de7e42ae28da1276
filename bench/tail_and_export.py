"""What a live tail and an export cost, with a Redis and two routers of their own.

    python -m bench.tail_and_export [--traces 100000] [--seconds 6]

Three tables: CPU of Redis for each record written, without a tail and with one; CPU and delay of a tail at
1,000 events a second, by the number of listeners (all but one of them filter everything away); time, CPU and
the router's memory for an export of all traces, each with a receipt of eight candidates, and what a request
that comes meanwhile takes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from pathlib import Path
from statistics import quantiles
from time import perf_counter, time

import aiohttp
from redis.asyncio import Redis

from tests.fleets import Fleet, body, fleet, post
from tests.processes import Process, Processes
from tests.tracking.traces import live
from tracking.export import FORMATS
from tracking.feed import Place
from tracking.record import Record
from tracking.store import Retention, TraceStore
from tracking.trace import Candidate, Decision

TICKS = os.sysconf("SC_CLK_TCK")
RATE = 1000
ROUNDS = 5
LISTENERS = (0, 1, 20, 100)
SENT_AT = b'"label":"'


def cpu_seconds(process: Process) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident_mb(process: Process) -> float:
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * 4096 / 1e6


def a_record() -> Record:
    """One as a streamed chat request leaves it: a row of 630 bytes, a detail of 1.5 KB."""
    one = live(f"01a20b35-df4f-79e3-{time():.9f}")
    one.method, one.stream, one.http_status, one.router_id = "POST", True, 200, "router-0"
    one.model, one.completion_time = "SmolLM2-135M-Instruct", one.timestamp
    one.input_tokens, one.output_tokens, one.cached_tokens = 72, 12, 59
    one.queue_seconds, one.ttft_seconds, one.duration_seconds = 0.000332, 0.1, 0.329676
    one.label = f"{time():.6f}"
    candidates = [
        Candidate(f"worker-{n}", "http://127.0.0.1:30006", n == 0, {"in_flight": n, "prefix_match": 0.5})
        for n in range(8)
    ]  # fmt: skip
    one.decision = Decision("cache_aware", "prefix_match", "exact", 8, candidates, 0.0, 0.0001)
    return Record(one, "bench/1")


async def write(store: TraceStore, count: int) -> None:
    for _ in range(0, count, 100):
        await store.write([a_record() for _ in range(100)])


async def writing(running: Fleet, store: TraceStore) -> None:
    assert running.redis is not None
    client = Redis.from_url(running.redis.url)
    spent: dict[bool, list[float]] = {False: [], True: []}
    await write(store, 20_000)
    for number in range(2 * ROUNDS):
        tailed = number % 2 == 1
        if tailed:
            await store.feed(None, 0)
        else:
            await client.delete("{default}:feed")
        before = cpu_seconds(running.redis)
        await write(store, 20_000)
        spent[tailed].append((cpu_seconds(running.redis) - before) / 20_000 * 1e6)
    size = await client.memory_usage("{default}:feed", samples=0)
    assert size is not None
    await client.aclose()
    without, with_one = min(spent[False]), min(spent[True])  # what else runs here only adds
    print(f"write: {without:.1f} µs of Redis a record, with a tail {with_one:.1f} µs", flush=True)
    print(f"feed: {size / 1e6:.1f} MB for {await length(store)} events", flush=True)


async def length(store: TraceStore) -> int:
    page = await store.feed(Place(1, 0), 1)  # of another epoch: from the first event there is
    return page.tip.number - page.events[0].place.number + 1


async def listen(url: str, query: str, delays: list[float]) -> None:
    timeout = aiohttp.ClientTimeout(total=None)
    async with (
        aiohttp.ClientSession(timeout=timeout) as http,
        http.get(f"{url}/v1/traces/stream?{query}") as response,
    ):
        async for line in response.content:
            if (at := line.find(SENT_AT)) > 0:
                start = at + len(SENT_AT)
                delays.append(time() - float(line[start : line.index(b'"', start)]))


async def tailing(running: Fleet, store: TraceStore, seconds: float) -> None:
    assert running.redis is not None
    router = running.routers[1]
    for count in LISTENERS:
        delays: list[float] = []
        tasks = [
            asyncio.create_task(listen(router.url, "status=lost" if n else "", delays))
            for n in range(count)
        ]
        await asyncio.sleep(0.5)
        before = cpu_seconds(router), cpu_seconds(running.redis)
        started = perf_counter()
        for batch in range(int(seconds * RATE / 10)):
            await store.write([a_record() for _ in range(10)])
            await asyncio.sleep(max(0.0, started + (batch + 1) * 10 / RATE - perf_counter()))
        took = perf_counter() - started
        spent = [
            (after - earlier) / took * 100
            for after, earlier in zip(
                (cpu_seconds(router), cpu_seconds(running.redis)), before, strict=True
            )
        ]
        await asyncio.sleep(0.2)
        for task in tasks:
            task.cancel()
        line = f"tail, {count:3} listeners: router {spent[0]:5.1f} %, Redis {spent[1]:5.1f} % of a core"
        if delays:
            cuts = quantiles(delays, n=100)
            line += (
                f"; {len(delays)} events, p50 {cuts[49] * 1e3:.1f} ms, p99 {cuts[98] * 1e3:.1f} ms"
            )
        print(line, flush=True)


async def exporting(running: Fleet) -> None:
    router = running.routers[1]
    for name in FORMATS:
        took: list[float] = []

        async def ask(took: list[float] = took) -> None:
            while True:
                started = perf_counter()
                await post(router, "/generate", body("hi", tokens=1))
                took.append(perf_counter() - started)
                await asyncio.sleep(0.02)

        asking = asyncio.create_task(ask())
        before, started, size, peak = cpu_seconds(router), perf_counter(), 0, 0.0
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as http,
            http.get(f"{router.url}/v1/traces/export?format={name}") as response,
        ):
            async for piece in response.content.iter_chunked(1 << 20):
                size, peak = size + len(piece), max(peak, resident_mb(router))
        seconds, spent = perf_counter() - started, cpu_seconds(router) - before
        asking.cancel()
        cuts = quantiles(took, n=100)
        print(
            f"export, {name:<14}{seconds:6.1f} s {size / 1e6:7.1f} MB, router {spent:5.1f} s of CPU,"
            f" {peak:5.1f} MB; a request {cuts[49] * 1e3:.1f} ms, p99 {cuts[98] * 1e3:.1f} ms",
            flush=True,
        )


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--traces", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=6.0)
    options = parser.parse_args()
    flags = [f"--max-trace-entries={options.traces + 100_000}"]
    with tempfile.TemporaryDirectory() as directory:
        async with (
            Processes(Path(directory)) as processes,
            fleet(processes, workers=1, replicas=2, redis=True, flags=flags) as running,
        ):
            assert running.redis is not None
            own = Retention(options.traces + 100_000, 3600)
            store = TraceStore.from_url(running.redis.url, "default", own)
            await writing(running, store)
            await tailing(running, store, options.seconds)
            await store.delete_all()
            await write(store, options.traces)
            print(f"resident before: {resident_mb(running.routers[1]):.1f} MB", flush=True)
            await exporting(running)
            await store.close()


if __name__ == "__main__":
    asyncio.run(main())
