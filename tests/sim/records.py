"""What the worker received, so that a test can ask for it."""

from __future__ import annotations

import hashlib
from collections import deque
from typing import Literal

import msgspec

from tests.sim.connection import Request

BODY_LIMIT = 1 << 16

Outcome = Literal["running", "finished", "cut", "disconnected", "crashed"]


class Record(msgspec.Struct, kw_only=True):
    """One request. Times are Unix seconds; the body is kept up to a limit, as Latin-1."""

    number: int
    connection: int
    method: str
    target: str
    path: str
    http_version: str
    headers: list[tuple[str, str]]
    arrived_at: float
    ended_at: float | None = None
    outcome: Outcome = "running"
    status: int | None = None
    fault: str | None = None
    rids: list[str] = []
    aborted: bool = False
    """The engine ended a sequence of it before its end."""
    control: bool = False
    """A control path: weights, profiling, shutdown."""
    body_bytes: int | None = None
    body_sha256: str | None = None
    body: str | None = None
    dp_rank: int | None = None
    """The rank it was pinned to: by the header, else by the body."""
    body_truncated: bool = False

    def take_body(self, body: bytes) -> None:
        self.body_bytes = len(body)
        self.body_sha256 = hashlib.sha256(body).hexdigest()
        self.body = body[:BODY_LIMIT].decode("latin-1")
        self.body_truncated = len(body) > BODY_LIMIT


class Records:
    """The last requests, oldest first."""

    def __init__(self, capacity: int = 10_000) -> None:
        self._records: deque[Record] = deque(maxlen=capacity)
        self._count = 0

    def open(self, request: Request, now: float) -> Record:
        self._count += 1
        record = Record(
            number=self._count,
            connection=request.connection.number,
            method=request.method,
            target=request.target,
            path=request.path,
            http_version=request.version,
            headers=request.headers,
            arrived_at=now,
        )
        self._records.append(record)
        return record

    def list(self, path: str | None = None) -> list[Record]:
        return [record for record in self._records if path in (None, record.path)]

    def clear(self) -> None:
        self._records.clear()
