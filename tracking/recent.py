"""Finished records the store has acknowledged, kept for a while: a fail-over may lose them.

A server that takes over has what was replicated to it. So a copy is kept until a heartbeat, sent ten
seconds after the commit or later, has found the server to be the one of before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from tracking.record import Record
from tracking.spool import Spool


class Recent:
    """Bounded in bytes; then the oldest go first."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._spool = Spool()
        self._times: deque[tuple[float, Record]] = deque()

    def add(self, batch: Sequence[Record], committed_at: float) -> None:
        """Keep the finished ones of `batch`; `committed_at` in monotonic seconds."""
        for record in batch:
            if record.terminal:
                self._spool.add(record)
                self._times.append((committed_at, record))
        while self._times and self._spool.bytes > self._limit:
            self._pop()

    def settle(self, before: float) -> None:
        """What was committed before that time is safe."""
        while self._times and self._times[0][0] < before:
            self._pop()

    def take_all(self) -> list[Record]:
        """Every record, oldest first; none is kept."""
        records = [*self._spool]
        self.clear()
        return records

    def discard(self, unwanted: Callable[[Record], bool]) -> None:
        self._spool.discard(unwanted)

    def find(self, any_id: str) -> Record | None:
        return self._spool.find(any_id)

    def newest_first(self) -> Iterator[Record]:
        return self._spool.newest_first()

    def clear(self) -> None:
        self._spool.clear()
        self._times.clear()

    def _pop(self) -> None:
        _, record = self._times.popleft()
        # Not if a newer version, or a deletion, has taken its place.
        if self._spool.find(record.key) is record:
            self._spool.remove(record.key)
