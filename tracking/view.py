"""What any replica can answer about requests: by id, as a list, in numbers.

`TraceView` is the one interface the HTTP layer knows. Its answers join what the store holds with
what this replica has not committed yet, and say when they are incomplete.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from tracking.query import TraceQuery
from tracking.stats_query import PLAIN, StatsQuery

Partial = Literal["store-unavailable", "scan-budget"]


class StoreUnavailable(Exception):
    """The store cannot be reached and what is known here is not enough for an answer."""


class Found(msgspec.Struct):
    """Answer to a look-up by id: for each id asked, a whole trace as JSON bytes, or None."""

    records: list[bytes | None]


class Page(msgspec.Struct):
    """Answer to a list: JSON objects (bytes), newest first, and where to go on.

    `next_cursor` is opaque; None on the last page. `partial` says why the page may lack records.
    """

    rows: list[bytes]
    next_cursor: str | None = None
    partial: Partial | None = None


class StoreState(msgspec.Struct, kw_only=True):
    """The `store` object of the stats, also read by metrics and readiness.

    Buffers and counts are this replica's; the memory of the server and its limit (0: none, or
    unknown) are the fleet's, as of the last heartbeat.
    """

    kind: Literal["redis", "embedded"]
    state: Literal["up", "down"]
    buffered: int
    buffered_bytes: int
    dropped: int
    failed_flushes: int = 0
    lost: int = 0
    memory_bytes: int = 0
    memory_limit_bytes: int = 0


class TraceView(Protocol):
    """Answers questions about traces. Every method flushes this replica's own writer first."""

    async def get(self, ids: Sequence[str]) -> Found:
        """Traces by request id, record key or engine id. Raises StoreUnavailable."""
        ...

    async def list(self, query: TraceQuery) -> Page:
        """One page, newest first. Raises StoreUnavailable if nothing at all is known here."""
        ...

    async def stats(self, asked: StatsQuery = PLAIN) -> bytes:
        """The stats object of the contract as JSON bytes. Raises StoreUnavailable."""
        ...

    async def delete(self, record_id: str | None) -> int:
        """Delete one record (by any of its ids), or all (None). How many were deleted."""
        ...

    async def delete_session(self, session_id: str) -> int:
        """Delete every record of a session. How many were deleted."""
        ...

    def state(self) -> StoreState:
        """State of store and writer as known now; no I/O."""
        ...
