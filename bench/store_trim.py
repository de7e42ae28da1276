"""How long Redis pauses while a full store is emptied, for `bench.store`: trimmed, expired, deleted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from redis.asyncio import Redis

from bench.store_fill import fill
from bench.store_server import FLEET, Figures, Server, now_us
from bench.traces import finished, started
from tracking.record import Record

MOST_DELETED: Final = 1_000_000
MOST_WRITES: Final = 2000
SPREAD_SECONDS: Final = 60  # in which what came in a week expires, of many records
CHUNK: Final = 500  # keys a call
EXPIRE_AT: Final = """
local P, left = string.sub(KEYS[1], 1, -4), 0
for n = tonumber(ARGV[1]), ARGV[1] + ARGV[2] - 1 do
  left = left + redis.call('EXPIREAT', string.format('%sr:k%08d', P, n), ARGV[3])
end
return left
"""


class Pulse:
    """Asks PING all the time: its longest wait is the longest pause of the server."""

    def __init__(self, url: str) -> None:
        self.longest = 0.0
        self._going = True
        self._redis: Redis = Redis.from_url(url, socket_timeout=None)
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
        if name in (b"expire-cycle", b"expire-del", b"active-defrag-cycle"):
            figures[f"longest {name.decode()} ms"] = float(most)
    return figures


async def trim(server: Server, records: int) -> dict[str, Figures]:
    """The view shrinks to a hundredth while a router writes; each write takes some of the rest away."""
    small = server.store(max(1, records // 100))

    async def shrink() -> None:
        await small.heartbeat("trim/1", lease_seconds=600, urls=[])
        for batch in range(min(MOST_WRITES, records // 600)):
            await small.write([Record(finished(started(2 * 10**8 + batch, now_us())), "a/1")])

    await server.redis.delete("{%s}:replica:reader/1" % FLEET)  # its larger view would be in force
    return {"shrink to a hundredth": await watched(server, shrink)}


async def delete(server: Server, records: int) -> dict[str, Figures]:
    records = min(records, MOST_DELETED)
    await fill(server, records)
    store = server.store(records)
    await store.heartbeat("delete/1", lease_seconds=600, urls=[])
    return {f"delete all of {records}": await watched(server, store.delete_all)}


async def week(server: Server, records: int) -> dict[str, Figures]:
    """What came in a week expires within a minute and nobody writes; the indexes go with it."""
    keys = await server.redis.dbsize()
    left = await _expire_soon(server, records)
    expiring = await watched(server, lambda: _until(server, keys - left))
    indexes = [name async for name in server.redis.scan_iter("{%s}:*" % FLEET, _type="zset")]
    async with server.redis.pipeline(transaction=False) as pipe:
        for name in indexes:
            _ = pipe.zcard(name)
        members = sum(await pipe.execute())
        keys, at = await server.redis.dbsize(), int(time.time()) + 3
        for name in indexes:
            _ = pipe.expireat(name, at)
        await pipe.execute()
    gone = await watched(server, lambda: _until(server, keys - len(indexes)))
    return {f"{left} records expire": expiring, f"indexes of {members} places expire": gone}


async def _until(server: Server, keys: int) -> None:
    while await server.redis.dbsize() > keys:
        await asyncio.sleep(0.05)


async def _expire_soon(server: Server, records: int) -> int:
    """Let all records expire, in their order, in the minute after this is done: how many they are."""
    script = server.redis.register_script(EXPIRE_AT)
    spread = min(SPREAD_SECONDS, records // 10_000)
    first = int(time.time()) + 3 + records // 50_000
    left = 0
    for start in range(0, records, CHUNK):
        count = min(CHUNK, records - start)
        at = first + spread * start // records
        left += int(await script(keys=["{%s}:all" % FLEET], args=[start, count, at]))
    if time.time() >= first:
        raise RuntimeError("it took longer to set the time of expiry than there was until then")
    return left
