"""The store as a plain dictionary: what every real one must agree with.

It is written from the promises (`docs/traces.md`, the heads of the scripts), not from the scripts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec

from tracking.lifecycle import TERMINAL
from tracking.query import TraceQuery
from tracking.trace import Status

OPEN = ("queued", "routed", "processing")


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One version of one record. Key, arrival, request id and session never change for a key."""

    key: str
    arrived_us: int
    owner: str
    revision: int
    status: Status
    node: str
    request_id: str
    session: str | None
    model: str

    @property
    def place(self) -> tuple[int, str]:
        return self.arrived_us, self.key


class ModelStore:
    def __init__(self, cap: int) -> None:
        self.cap = cap
        self.floor = 0
        self.stored: dict[str, Version] = {}
        self.total = 0
        self.alive: set[str] = set()
        self.finished: Counter[tuple[str, Status]] = Counter()  # by model and status, once each

    # --- what changes it -----------------------------------------------------------------------

    def write(self, batch: list[Version]) -> int:
        floor = self._current_floor()
        accepted = sum(self._write(version, floor) for version in batch)
        # First rejections give way to each other, then all to the cap.
        rejected = sorted(v.place for v in self.stored.values() if v.status == "rejected")
        for _, key in rejected[: max(0, len(rejected) - max(1, self.cap // 10))]:
            del self.stored[key]
        self._trim()
        return accepted

    def _write(self, new: Version, floor: int) -> bool:
        if new.arrived_us < floor:
            return False
        old = self.stored.get(new.key)
        if old is not None:
            back = old.status == "lost" and new.revision == old.revision
            if old.owner != new.owner or not (new.revision > old.revision or back):
                return False
        self.stored[new.key] = new
        self.total += old is None
        if new.status in TERMINAL and (old is None or old.status in (*OPEN, "lost")):
            self.finished[new.model, new.status] += 1
        return True

    def sweep(self) -> int:
        left = [v for v in self.held() if v.status in OPEN and v.owner not in self.alive]
        for version in left:
            self.stored[version.key] = msgspec.structs.replace(version, status="lost")
        return len(left)

    def delete(self, one_id: str) -> int:
        return self._remove(lambda version: one_id in (version.key, version.request_id))

    def delete_session(self, session: str) -> int:
        return self._remove(lambda version: version.session == session)

    def delete_all(self, now_us: int) -> int:
        deleted = self._remove(lambda _version: True)
        self.floor, self.total = now_us, 0
        self.finished.clear()
        return deleted

    def _remove(self, unwanted: Callable[[Version], bool]) -> int:
        gone = [version.key for version in self.held() if unwanted(version)]
        for key in gone:
            del self.stored[key]
        return len(gone)

    def _current_floor(self) -> int:
        newest_first = sorted((v.arrived_us for v in self.stored.values()), reverse=True)
        nth = newest_first[self.cap - 1] if len(newest_first) >= self.cap else 0
        return max(self.floor, nth)

    def _trim(self) -> None:
        self.floor = self._current_floor()
        self.stored = {k: v for k, v in self.stored.items() if v.arrived_us >= self.floor}

    # --- what it answers -----------------------------------------------------------------------

    def held(self) -> list[Version]:
        floor = self._current_floor()
        return [version for version in self.stored.values() if version.arrived_us >= floor]

    def get(self, one_id: str) -> Version | None:
        """The newest under a request id, else the record with that key."""
        named = [v for v in self.held() if v.request_id == one_id != v.key]
        if named:
            return max(named, key=lambda version: version.place)
        return next((v for v in self.held() if v.key == one_id), None)

    def list(self, query: TraceQuery) -> list[str]:
        """The keys of all matches, in order."""
        wanted = [
            version
            for version in self.held()
            if query.node_id in (None, version.node)
            and query.status in (None, version.status)
            and query.session_id in (None, version.session)
            and query.model in (None, version.model)
            and (query.since_us or 0) <= version.arrived_us
            and (query.until_us is None or version.arrived_us < query.until_us)
        ]
        places = sorted((v.place for v in wanted), reverse=query.order == "desc")
        return [key for _, key in places]
