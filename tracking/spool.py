"""Encoded records kept here, in order, found by any of their ids, counted in bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from tracking.record import Record


class Spool:
    """A queue of records by key: oldest first out, newest version of a key only."""

    def __init__(self) -> None:
        self.bytes = 0
        self._records: dict[str, Record] = {}
        self._keys: dict[str, str] = {}  # request id or engine id -> key of the newest

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        """Oldest first."""
        return iter(self._records.values())

    def add(self, record: Record) -> None:
        """Append; an older version under the same key leaves."""
        if record.key in self._records:
            self.remove(record.key)
        self._records[record.key] = record
        self.bytes += record.size
        for one in (record.request_id, record.engine_id):
            if one and one != record.key:
                self._keys[one] = record.key

    def remove(self, key: str) -> None:
        record = self._records.pop(key, None)
        if record is None:
            return
        self.bytes -= record.size
        for one in (record.request_id, record.engine_id):
            if one and self._keys.get(one) == key:
                del self._keys[one]

    def discard(self, unwanted: Callable[[Record], bool]) -> None:
        """Remove every record of which that is true."""
        for record in [record for record in self._records.values() if unwanted(record)]:
            self.remove(record.key)

    def pop_oldest(self) -> Record | None:
        key = next(iter(self._records), None)
        if key is None:
            return None
        record = self._records[key]
        self.remove(key)
        return record

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

    def clear(self) -> None:
        self._records.clear()
        self._keys.clear()
        self.bytes = 0
