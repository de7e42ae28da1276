"""A full store for `bench.store`: small records, by the script that writes a router's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Final

from bench.store_server import Figures, Server, now_us
from tracking.trace import rfc3339

WEEK_SECONDS: Final = 7 * 86_400
BATCH: Final = 1000  # records a call: ten times a router's, because nobody waits meanwhile
AT_ONCE: Final = 3  # calls, so that Redis works while the next are made
WORKERS: Final = 8
STATUSES: Final = (b"completed", b"completed", b"completed", b"completed", b"failed", b"cancelled")


async def fill(server: Server, records: int, seconds: int = WEEK_SECONDS - 3600) -> Figures:
    """Records whose arrivals are spread evenly over the last `seconds`."""
    await server.empty()
    store = server.store(records + 100_000)
    await store.heartbeat("fill/1", lease_seconds=1, urls=[])
    memory, began = await server.memory(), time.monotonic()
    step = seconds * 1_000_000 // records
    first = now_us() - records * step
    starts = iter(range(0, records, BATCH))

    async def write() -> None:
        for start in starts:
            numbers = range(start, min(records, start + BATCH))
            await store.call("write", b"", *_arguments(numbers, first, step))

    await asyncio.gather(*(write() for _ in range(AT_ONCE)))
    return {
        "records": records,
        "bytes per small record": round((await server.memory() - memory) / records),
        "seconds to fill": round(time.monotonic() - began, 1),
    }


def small_key(number: int) -> str:
    return f"k{number:08}"


def _arguments(numbers: range, first_us: int, step_us: int) -> Iterator[bytes]:
    """As `write.lua` takes them, without anything to be counted."""
    for number in numbers:
        key, arrived = b"k%08d" % number, first_us + number * step_us
        node, status = b"worker-%d" % (number % WORKERS), STATUSES[number % len(STATUSES)]
        yield key
        yield (
            b"3\t%d\ta/1\t%b\t%b\t\t\t\n"
            b'{"request_id":"%b","node_id":"%b","worker_url":"w:80","routing_policy":"random",'
            b'"status":"%b","timestamp":"%b","cache_hit_rate":null,"queue_size":3,"label":"%d"}\n{}'
        ) % (arrived, status, node, key, node, status, rfc3339(arrived).encode(), number % 1000)
        yield b""
        yield b"1"  # the store has not had it yet
