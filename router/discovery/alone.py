"""The lists of workers of a router that shares them with nobody: what its clients and its sources
say, put together by the same rules as where replicas share (`router/roster.py`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tracking.workers import FoundWorker, WorkerChange, WorkerEntry, WorkerLists

NOTHING = WorkerEntry()


class OwnLists:
    """As `tracking/scripts/change_worker.lua` and `workers.lua`, in memory."""

    def __init__(self, unix_us: Callable[[], int]) -> None:
        self._unix_us = unix_us
        self._entries: dict[str, WorkerEntry] = {}

    async def workers(self) -> WorkerLists:
        return WorkerLists(0, b"", [], dict(self._entries))

    async def list_found(self, found: Sequence[FoundWorker]) -> None:
        """There is nobody to tell."""

    async def change_worker(self, change: WorkerChange) -> None:
        entry = self._entries.get(change.identity, NOTHING)
        fields = {**entry.fields, **change.fields}
        there = entry.deleted_us is None
        match change.what:
            case "add" if entry.added_us is None:
                entry = WorkerEntry(added_us=self._unix_us(), fields=change.fields)
            case "update" if there:
                entry = WorkerEntry(entry.added_us, None, entry.joined, fields)
            case "join" if there and entry.added_us is not None:
                entry = WorkerEntry(entry.added_us, None, True, entry.fields)
            case "delete":
                entry = WorkerEntry(deleted_us=self._unix_us())
            case "retract" if not entry.joined:
                self._entries.pop(change.identity, None)
                return
        self._entries[change.identity] = entry

    def sees_clearly(self) -> bool:
        return True
