"""One page of records, read stretch by stretch until it is full.

A script narrows to the smallest index, range and place; what no index answers is checked here, by the
same tests as everywhere. So no script runs long, and other work gets its turn between two stretches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, cast

import msgspec

from tracking.filters import decode_facts
from tracking.keys import index_text
from tracking.query import Matcher, TraceQuery, indexes_of, shape

SCAN_BUDGET: Final = 10_000  # index members looked at for one page
SCAN_CHUNK: Final = 250  # of them in one call: 1 ms of the server
SCAN_SECONDS: Final = 1.0

Call = Callable[..., Awaitable[object]]


class Listed(msgspec.Struct, frozen=True):
    """A page from the store. `next_cursor` is (arrival µs, key)."""

    rows: list[bytes]
    next_cursor: tuple[int, str] | None
    budget_spent: bool


class _Stretch(NamedTuple):
    """Records in order, whole or without detail; what follows is behind `place`, if anything."""

    records: list[bytes]
    place: tuple[int, str] | None
    looked_at: int


async def read_page(call: Call, query: TraceQuery, scan_budget: int = SCAN_BUDGET) -> Listed:
    """One page. It ends where it is full, where nothing follows, or early when `scan_budget`
    index members, or a second, were spent on it; the rest is behind its cursor. For one that is just
    full, one more stretch tells mostly whether anything follows."""
    passes = Matcher(query, narrowed=True)
    with_detail = query.wants_detail or passes.needs_detail
    end = asyncio.get_running_loop().time() + SCAN_SECONDS
    rows: list[bytes] = []
    last: tuple[int, str] | None = None
    place, looked, full = query.cursor, 0, False
    while True:
        # One more than is missing tells whether another page follows.
        enough = query.limit - len(rows) + 1 if passes.passes_all else SCAN_CHUNK
        most = min(enough, SCAN_CHUNK, scan_budget - looked)
        found = await _stretch(call, query, place, most, with_detail=with_detail)
        for record in found.records:
            meta, row, detail = record.split(b"\n", 2)
            if not passes(row, detail):
                continue
            if len(rows) == query.limit:
                return Listed(rows, last, False)
            rows.append(shape(query, row, detail))
            if len(rows) == query.limit:
                last = (arrived_us(meta), decode_facts(row).stored_key)
        place, looked = found.place, looked + found.looked_at
        if place is None or full:
            return Listed(rows, place, False)
        full = len(rows) == query.limit
        if looked >= scan_budget or asyncio.get_running_loop().time() >= end:
            return Listed(rows, place, not full)


async def _stretch(
    call: Call, query: TraceQuery, place: tuple[int, str] | None, most: int, *, with_detail: bool
) -> _Stretch:
    low, high = query.since_us, query.until_us
    score, key = place or ("", "")
    indexes: list[str | bytes] = []
    for kind, value in indexes_of(query):
        indexes += (kind, index_text(value))
    ended, looked_at, last_score, last_key, records = cast(
        tuple[int, int, bytes, bytes, list[bytes]],
        await call(
            "list",
            query.order,
            "" if low is None else low,
            "" if high is None else high,
            score,
            key,
            most,
            int(with_detail),
            *indexes,
        ),
    )
    place = None if ended else (int(last_score), last_key.decode())
    return _Stretch(records, place, looked_at)


def arrived_us(meta: bytes) -> int:
    """The arrival in the meta line of a record."""
    return int(meta.split(b"\t", 2)[1])
