"""Encoded records kept here, in order, found by any of their ids, bounded in bytes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from tracking.record import Record

log = logging.getLogger("tracking.spool")


class Spool:
    """A queue of records by key: oldest first out, newest version of a key only. Beyond
    `limit_bytes` of `Record.size` the oldest are dropped and counted, and the log says so once."""

    def __init__(self, limit_bytes: int) -> None:
        self.bytes = 0
        self.dropped = 0  # since the start
        self._limit = limit_bytes
        self._overflowing = False
        self._records: dict[str, Record] = {}
        self._keys: dict[str, str] = {}  # request id or engine id -> key of the newest

    def __len__(self) -> int:
        return len(self._records)

    def add(self, record: Record) -> None:
        """Append; an older version under the same key leaves."""
        self._remove(record.key)
        self._records[record.key] = record
        self.bytes += record.size
        for one in (record.request_id, record.engine_id):
            if one and one != record.key:
                self._keys[one] = record.key
        while self.bytes > self._limit:
            self._drop_oldest()

    def has_room_for(self, record: Record) -> bool:
        """Nothing would be dropped for it."""
        return self.bytes + record.size <= self._limit

    def stored(self, batch: Iterable[Record]) -> None:
        """These are kept no more, where no newer version has come."""
        for record in batch:
            if self._records.get(record.key) is record:
                self._remove(record.key)
        self._overflowing = False

    def renamed(self, rename: Callable[[str], str]) -> None:
        """`Record.renamed` of all, whose sizes change by it."""
        for record in self._records.values():
            record.renamed(rename)
        self.bytes = sum(record.size for record in self._records.values())

    def discard(self, unwanted: Callable[[Record], bool]) -> None:
        """Remove every record of which that is true."""
        for record in [record for record in self._records.values() if unwanted(record)]:
            self._remove(record.key)

    def oldest(self, count: int, most_bytes: int) -> list[Record]:
        """The first `count`, fewer if they are more than so many bytes, at least one; they stay."""
        first: list[Record] = []
        size = 0
        for record in islice(self._records.values(), count):
            first.append(record)
            size += record.size
            if size >= most_bytes:
                break
        return first

    def newest_first(self) -> Iterator[Record]:
        return reversed(self._records.values())

    def find(self, any_id: str) -> Record | None:
        """By request id, key or engine id."""
        return self._records.get(self._keys.get(any_id, any_id))

    def _drop_oldest(self) -> None:
        if not self._overflowing:
            log.warning("trace buffer is full: the oldest traces are dropped")
        self._overflowing = True
        self._remove(next(iter(self._records)))
        self.dropped += 1

    def _remove(self, key: str) -> None:
        record = self._records.pop(key, None)
        if record is None:
            return
        self.bytes -= record.size
        for one in (record.request_id, record.engine_id):
            if one and self._keys.get(one) == key:
                del self._keys[one]
