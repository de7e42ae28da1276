"""A full store, for `bench.store`: what it can be asked, and how long it pauses while it is emptied."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Final

from redis.asyncio import Redis

from bench.store_server import FLEET, Figures, Server, now_us, quantile
from bench.traces import finished, started
from tracking.query import parse_query
from tracking.record import Record
from tracking.view import StoreUnavailable

FILL: Final = 500  # records a call of the filling script
EXPIRE_TOGETHER: Final = """
local P, left = string.sub(KEYS[1], 1, -4), 0
for n = tonumber(ARGV[1]), ARGV[1] + ARGV[2] - 1 do
  left = left + redis.call('EXPIREAT', string.format('%sr:k%09d', P, n), ARGV[3])
end
return left
"""


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
    """The view shrinks to a hundredth, then all the rest expires at once, then as many are deleted."""
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

    async def expire() -> None:
        while await server.redis.dbsize() > others:
            await asyncio.sleep(0.1)

    shrinking = await watched(server, shrink)
    left = await expire_together(server, records)
    others = await server.redis.dbsize() - left
    expiring = await watched(server, expire)
    records = min(records, 1_000_000)
    await fill(server, records)
    await server.store(records).heartbeat("reader/1", lease_seconds=600, urls=[])
    return {
        "shrink to a hundredth": shrinking,
        f"{left} records expire in one second": expiring,
        f"delete all of {records}": await watched(server, delete),
    }


async def expire_together(server: Server, records: int) -> int:
    """Let what is left of `records` expire in one second, a little from now: how many that are."""
    script = server.redis.register_script(EXPIRE_TOGETHER)
    at = int(time.time()) + 5 + records // 100_000
    left = 0
    for start in range(0, records, FILL):
        count = min(FILL, records - start)
        left += int(await script(keys=["{%s}:all" % FLEET], args=[start, count, at]))
    if time.time() >= at:
        raise RuntimeError("it took longer to set the time of expiry than there was until then")
    return left
