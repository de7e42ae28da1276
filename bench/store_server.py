"""The Redis that `bench.store` measures, and what it says of itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from redis.asyncio import Redis

from tracking.store import Retention, TraceStore
from tracking.tracker import Tracker, TrackerConfig

FLEET: Final = "bench"
Figures = dict[str, float | str]


def quantile(values: Sequence[float], q: float) -> float:
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


def now_us() -> int:
    return time.time_ns() // 1000


class Server:
    """The Redis under test, and what it says of itself."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.redis: Redis = Redis.from_url(url, socket_timeout=None)

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
            synchronise=lambda _unix_us, _sent, _received: None,
        )
        await tracker.start()
        return tracker
