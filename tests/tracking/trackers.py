"""Trackers of a test, and what one asks of them."""

from __future__ import annotations

import asyncio
import contextlib
import time

import msgspec

from tests.tracking.traces import now_us
from tests.waiting import PATIENCE_SECONDS
from tracking.query import parse_query
from tracking.tracker import Tracker, TrackerConfig
from tracking.view import StoreUnavailable


class Fleet:
    """Trackers of one test on one server, closed at its end."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.started: list[Tracker] = []
        self.renames: dict[str, str] = {}
        self.clock: list[tuple[int, float, float]] = []

    async def tracker(self, name: str, *, start: bool = True, **config) -> Tracker:
        tracker = Tracker(
            TrackerConfig(router_id=name, redis_url=self.url, **config),
            now=time.monotonic,
            synchronise=lambda *heard: self.clock.append(heard),
            renamed=self.renames.update,
        )
        self.started.append(tracker)
        if start:
            await tracker.start()
        return tracker

    async def close(self) -> None:
        for tracker in self.started:
            await tracker.close(0.2)


async def rows(tracker: Tracker, **params: str) -> list[dict]:
    page = await tracker.list(parse_query(list(params.items()), now_us()))
    return [msgspec.json.decode(row) for row in page.rows]


async def one(tracker, one_id):
    (found,) = (await tracker.get([one_id])).records
    return None if found is None else msgspec.json.decode(found)


async def until(condition, seconds: float = PATIENCE_SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while True:
            with contextlib.suppress(StoreUnavailable):
                if await condition():
                    return
            await asyncio.sleep(0.02)


async def down(tracker: Tracker) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while tracker.state().state == "up":
            await asyncio.sleep(0.01)


async def holds(tracker: Tracker, keys: set[str]) -> bool:
    page = await tracker.list(parse_query([], now_us()))
    held = {msgspec.json.decode(row)["key"] for row in page.rows}
    return page.partial is None and held == keys


async def has(tracker: Tracker, one_id: str) -> bool:
    return await one(tracker, one_id) is not None


async def is_now(tracker: Tracker, one_id: str, status: str) -> bool:
    found = await one(tracker, one_id)
    return found is not None and found["status"] == status
