"""What a full store can be asked, for `bench.store`: lists, look-ups, stats."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from statistics import median

from bench.store_fill import WEEK_SECONDS, small_key
from bench.store_server import Figures, Server, now_us, quantile
from bench.traces import finished, started
from tracking.query import parse_query
from tracking.record import Record
from tracking.sums import KINDS

HOUR_SECONDS = 3600


async def asked(server: Server, call: Callable[[], Awaitable[object]], times: int) -> Figures:
    """How long one caller waits, and how much of it Redis and this process work."""
    await call()
    waits = []
    before, used = await server.cpu_us(), time.process_time()
    for _ in range(times):
        began = time.perf_counter()
        await call()
        waits.append(time.perf_counter() - began)
    used = time.process_time() - used
    return {
        "ms p50": round(median(waits) * 1e3, 2),
        "ms p99": round(quantile(waits, 0.99) * 1e3, 2),
        "redis cpu ms": round((await server.cpu_us() - before) / times / 1e3, 2),
        "router cpu ms": round(used / times * 1e3, 2),
    }


async def reads(server: Server, records: int, times: int) -> dict[str, Figures]:
    """On a store filled with `records` over the last week."""
    store = server.store(records + 100_000)
    await store.heartbeat("reader/1", lease_seconds=600, urls=[])
    # Something to count in every hour of the week, and in every minute of the last one.
    ages = [*range(HOUR_SECONDS, WEEK_SECONDS, HOUR_SECONDS), *range(0, HOUR_SECONDS, 60)]
    for batch, age in enumerate(ages):
        at = now_us() - age * 1_000_000
        await store.write([Record(finished(started(10**8 + batch * 20 + n, at)), "a/1")
                           for n in range(20)])  # fmt: skip
    await store.tallies.sum_up()

    def page(**given: str) -> Callable[[], Awaitable[object]]:
        query = parse_query([("limit", "100"), *given.items()], now_us())
        return lambda: store.page(query)

    stretch = f"{84 * HOUR_SECONDS + max(1, 5000 * WEEK_SECONDS // records)}s"
    some = [small_key(n * (records // 100)) for n in range(100)]
    few = max(5, times // 20)
    return {
        "list of 100": await asked(server, page(), times),
        "list of 100 of a worker": await asked(server, page(node_id="worker-3"), times),
        "list of 100, failed, of a worker": await asked(
            server, page(node_id="worker-4", status="failed"), times
        ),
        "list of 100 from half a week ago": await asked(server, page(until="84h"), times),
        "filters that never match, whole scan budget": await asked(
            server, page(node_id="worker-1", status="failed"), few
        ),
        "a rare label, whole scan budget": await asked(server, page(label="7", until="84h"), few),
        "a rare label among 5,000 records, by time": await asked(
            server, page(label="7", since=stretch, until="84h"), few
        ),
        "stats": await asked(server, store.stats, times),
        "stats of the last hour": await asked(
            server, lambda: store.tallies.window(HOUR_SECONDS, ()), few
        ),
        "stats of the week by node, model, policy and route": await asked(
            server, lambda: store.tallies.window(WEEK_SECONDS, KINDS), few
        ),
        "by id, 100 of them": await asked(server, lambda: store.get(some), times),
    }  # fmt: skip
