"""The lists of workers in the store: read whole, changed one worker at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

import msgspec

from tracking.lines import Argument, Reply
from tracking.store import TraceStore
from tracking.workers import FoundWorker, StaticList, WorkerChange, WorkerEntry, WorkerLists

OWN_FIELDS: Final = ("added", "deleted", "joined")


async def read_workers(store: TraceStore, owner: str) -> WorkerLists:
    """Raises StoreUnavailable."""
    reply = iter(cast(list[Reply], await store.call("workers", owner)))
    version, epoch, replicas = (
        cast(int, next(reply)),
        cast(bytes, next(reply)),
        cast(int, next(reply)),
    )
    statics = [
        StaticList(
            int(cast(bytes, next(reply))),
            cast(bytes, next(reply)).decode().split(),
            decode_found(cast(bytes, next(reply))),
        )
        for _ in range(replicas)
    ]
    entries = {
        cast(bytes, next(reply)).decode(): _entry(cast(list[bytes], next(reply)))
        for _ in range(cast(int, next(reply)))
    }
    return WorkerLists(version, epoch, statics, entries)


async def change_worker(store: TraceStore, change: WorkerChange) -> None:
    """Raises StoreUnavailable."""
    arguments: list[Argument] = [change.identity, change.what]
    for name, value in change.fields.items():
        arguments += (name, value)
    await store.call("change_worker", *arguments)


def encode_found(found: Sequence[FoundWorker]) -> bytes:
    return msgspec.json.encode(found)


def decode_found(text: bytes) -> list[FoundWorker]:
    return msgspec.json.decode(text, type=list[FoundWorker]) if text else []


def _entry(flat: Sequence[bytes]) -> WorkerEntry:
    fields = {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}
    added, deleted, joined = (fields.pop(name, None) for name in OWN_FIELDS)
    return WorkerEntry(
        None if added is None else int(added),
        None if deleted is None else int(deleted),
        joined is not None,
        fields,
    )
