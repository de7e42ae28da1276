"""Finished records the store has acknowledged, kept for a while: a fail-over may lose them.

A server that takes over has what was replicated to it. So a copy is kept until a heartbeat, sent ten
seconds after the commit or later, has found the server to be the one of before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import chain

from tracking.record import Record


class _Batch:
    """Finished records that were committed together, at a monotonic second; `bytes` as they were then."""

    __slots__ = ("bytes", "committed_at", "records")

    def __init__(self, committed_at: float, records: list[Record], size: int) -> None:
        self.committed_at = committed_at
        self.records = records
        self.bytes = size


class Recent:
    """Bounded in bytes; then the oldest batches go first. Adding is cheap, looking for a record is not."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._bytes = 0
        self._batches: deque[_Batch] = deque()

    def add(self, batch: Sequence[Record], committed_at: float) -> None:
        """Keep the finished ones of `batch`; `committed_at` in monotonic seconds."""
        finished = []
        size = 0
        record: Record
        for record in batch:
            if record.terminal:
                finished.append(record)
                size += record.size
        self._batches.append(_Batch(committed_at, finished, size))
        self._bytes += size
        while self._bytes > self._limit:
            self._pop()

    def settle(self, before: float) -> None:
        """What was committed before that time is safe."""
        while self._batches and self._batches[0].committed_at < before:
            self._pop()

    def take_all(self) -> list[Record]:
        """Every record, oldest first; none is kept."""
        records = [record for batch in self._batches for record in batch.records]
        self._batches.clear()
        self._bytes = 0
        return records

    def discard(self, unwanted: Callable[[Record], bool]) -> None:
        """Remove every record of which that is true."""
        for batch in self._batches:
            batch.records = [record for record in batch.records if not unwanted(record)]

    def find(self, ids: Collection[str]) -> dict[str, Record]:
        """The newest record under each of these request ids, keys or engine ids, where there is one."""
        wanted = set(ids)
        found: dict[str, Record] = {}
        for record in self.newest_first() if wanted else ():
            for one in wanted.intersection((record.request_id, record.key, record.engine_id)):
                found.setdefault(one, record)
        return found

    def newest_first(self) -> Iterator[Record]:
        return chain.from_iterable(reversed(batch.records) for batch in reversed(self._batches))

    def _pop(self) -> None:
        self._bytes -= self._batches.popleft().bytes
