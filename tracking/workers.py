"""The workers of the fleet as all replicas know them: added, changed and deleted at any of them.

What was said of a worker is a few named fields, opaque here. An *identity* is the URL in its one
whole spelling. Which workers exist is worked out from these lists by whoever reads them
(`router/core/membership.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

Change = Literal["add", "update", "join", "retract", "delete", "restore"]


class WorkerEntry(msgspec.Struct, frozen=True):
    """What was done by API. `added_us` and `deleted_us` on the store's clock; None where it was
    not. `joined`: some replica has found it healthy. `fields`: what was said of it."""

    added_us: int | None = None
    deleted_us: int | None = None
    joined: bool = False
    fields: Mapping[str, bytes] = {}


class FoundWorker(msgspec.Struct, frozen=True, omit_defaults=True):
    """A worker that a replica has discovered. `since_us`: since when, on the store's clock.
    `origin` says where, for people; `generation` is another one for another worker at the same URL.
    `fields`: what was said of it, opaque here."""

    url: str
    since_us: int
    origin: str
    generation: str = ""
    fields: Mapping[str, msgspec.Raw] = {}


class StaticList(msgspec.Struct, frozen=True):
    """The workers that a live replica was started with, as they were given, and those it has
    discovered since."""

    started_us: int
    urls: Sequence[str]
    found: Sequence[FoundWorker] = ()


class WorkerLists(msgspec.Struct, frozen=True):
    """`version` rises with every change; `epoch` is another one where the data was lost, empty
    where nothing was ever changed. `statics` are those of the other replicas."""

    version: int
    epoch: bytes
    statics: list[StaticList]
    entries: dict[str, WorkerEntry]


class WorkerChange(msgspec.Struct, frozen=True):
    """See `scripts/change_worker.lua`."""

    identity: str
    what: Change
    fields: Mapping[str, bytes] = {}


def restoring(identity: str, entry: WorkerEntry) -> WorkerChange:
    """The change that brings back an entry which the store has lost."""
    fields = dict(entry.fields)
    if entry.added_us is not None:
        fields["added"] = b"%d" % entry.added_us
    if entry.deleted_us is not None:
        fields["deleted"] = b"%d" % entry.deleted_us
    if entry.joined:
        fields["joined"] = b"1"
    return WorkerChange(identity, "restore", fields)
