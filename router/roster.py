"""The same workers at every replica: what clients did here is told, what they did elsewhere followed.

A change is done here at once and told in the background, in order; while the store is away it waits.
Lists are read only when something has changed, and taken over only when all of our own changes are
in them. Where the store has lost its data, every replica puts back what it knows before it looks.

A worker is not taken out for want of a replica that lists it before this replica can be sure that
none is merely late: after a hang of the store all leases have run out. One that our own sources have
seen go is taken out as soon as no list names it, and at once while the store is away.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, Protocol

import msgspec

from router.core.membership import discovered, identity, members, read_listed
from router.member import API, STATIC, Changes, Details, Member
from router.registry import Registry
from tracking.view import StoreUnavailable
from tracking.workers import (
    FoundWorker,
    StaticList,
    WorkerChange,
    WorkerEntry,
    WorkerLists,
    restoring,
)

log = logging.getLogger("router.roster")

NOTHING: Final = WorkerEntry()


class Lists(Protocol):
    """The store's side. Raises StoreUnavailable; `sees_clearly`: who is not seen is not there."""

    async def workers(self) -> WorkerLists: ...

    async def change_worker(self, change: WorkerChange) -> None: ...

    async def list_found(self, found: Sequence[FoundWorker]) -> None: ...

    def sees_clearly(self) -> bool: ...


class Roster:
    """`static` are the workers this replica was started with, `started_us()` when that was. `hurry()`
    is called when there is something to tell."""

    def __init__(
        self,
        lists: Lists,
        registry: Registry,
        static: Sequence[str],
        started_us: Callable[[], int],
        hurry: Callable[[], None] = lambda: None,
    ) -> None:
        self._lists = lists
        self._registry = registry
        self._static = tuple(static)
        self._started_us = started_us
        self._hurry = hurry
        self._waiting: deque[WorkerChange] = deque()
        self._version: int | None = None
        self._replicas: frozenset[str] = frozenset()
        self._epoch = b""
        self._entries: Mapping[str, WorkerEntry] = {}
        self._unsure = False
        self._found: Sequence[FoundWorker] = ()
        self._gone: set[str] = set()  # what our sources listed, and list no more
        self._generations: dict[str, str] = {}
        self._turn = asyncio.Lock()
        registry.tell = self.tell

    def tell(
        self,
        member: Member,
        what: Literal["add", "update", "join", "retract", "delete"],
        changes: Changes | None = None,
    ) -> None:
        """Something was done here to a worker."""
        fields: dict[str, bytes] = {}
        if changes is not None:
            given = msgspec.to_builtins(changes)
            fields = {name: msgspec.json.encode(value) for name, value in given.items()}
        if what == "add":
            fields["url"] = msgspec.json.encode(member.url)
        self._waiting.append(WorkerChange(identity(member.worker.url), what, fields))
        self._hurry()

    async def synchronise(self, version: int, replicas: frozenset[str]) -> None:
        """Tell what waits; read and follow the lists, if there is anything new in them: another
        `version`, or other live replicas."""
        if self._waiting or self._unsure or (version, replicas) != (self._version, self._replicas):
            async with self._turn:
                try:
                    lists = await self._exchange()
                except StoreUnavailable:
                    return
                self._version, self._replicas = lists.version, replicas
                await self._follow(lists)

    async def list_found(self, found: Sequence[FoundWorker]) -> None:
        """Our own sources list these now, each URL once, and no others."""
        async with self._turn:
            keys = {identity(worker.url) for worker in found}
            self._gone = (self._gone | {identity(worker.url) for worker in self._found}) - keys
            self._found = found
            await self._lists.list_found(found)
            try:
                lists = await self._exchange()
            except StoreUnavailable:
                lists = WorkerLists(0, b"", [], dict(self._entries))
            await self._follow(lists)

    async def _exchange(self) -> WorkerLists:
        while True:
            while self._waiting:
                await self._lists.change_worker(self._waiting[0])
                self._waiting.popleft()
            lists = await self._lists.workers()
            if self._epoch and lists.epoch != self._epoch:
                log.warning("the list of workers was lost with the store's data; putting it back")
                for key, entry in self._entries.items():
                    await self._lists.change_worker(restoring(key, entry))
                self._epoch = b""
            elif not self._waiting:
                self._epoch = lists.epoch
                self._entries = lists.entries
                return lists

    async def _follow(self, lists: WorkerLists) -> None:
        # Our own first: of a worker that we have discovered, what we know counts.
        statics = [StaticList(self._started_us(), self._static, self._found), *lists.statics]
        wanted = members(lists.entries, statics)
        listed = members({}, statics)
        configured = members({}, [StaticList(one.started_us, one.urls) for one in statics])
        found = discovered(statics)
        for key, text in wanted.items():
            entry = lists.entries.get(key, NOTHING)
            said = found.get(key)
            static = key in configured
            url, role, bootstrap_port = read_listed(configured.get(key, text))
            try:
                self._replace(url, key, said)
                details = read_details(entry, said)
                if role != "regular":
                    details = msgspec.structs.replace(
                        details, worker_type=role, bootstrap_port=bootstrap_port
                    )
                await self._registry.follow(
                    given_url(entry) or url,
                    details,
                    static=key in listed,
                    joined=static or entry.joined,
                    origin=STATIC if static else API if said is None else said.origin,
                )
            except (ValueError, msgspec.MsgspecError) as error:
                log.error("worker %s, listed elsewhere, cannot be used: %s", url, error)
        sure = self._lists.sees_clearly()
        self._unsure = False
        untold = {change.identity for change in self._waiting if change.what == "add"}
        for member in self._registry.expected:
            key = identity(member.worker.url)
            if key in wanted or key in untold:
                continue
            entry = lists.entries.get(key, NOTHING)
            if entry.deleted_us is not None or sure or key in self._gone:
                self._registry.remove(member, told=False)
                self._gone.discard(key)
                self._generations.pop(key, None)
            else:
                self._unsure = True

    def _replace(self, url: str, key: str, said: FoundWorker | None) -> None:
        """Forget what is known of a worker where another one is at its URL now."""
        if said is None:
            return
        before = self._generations.get(key, said.generation)
        self._generations[key] = said.generation
        if before != said.generation and (member := self._registry.find(url)) is not None:
            self._registry.replaced(member, said.origin)


def read_details(entry: WorkerEntry, found: FoundWorker | None = None) -> Details:
    """What was said of a worker where it was discovered, and by API since. Raises
    msgspec.MsgspecError."""
    said: Mapping[str, bytes | msgspec.Raw] = {
        **({} if found is None else found.fields),
        **entry.fields,
    }
    given = {
        name: msgspec.json.decode(value)
        for name, value in said.items()
        if name in Details.__struct_fields__
    }
    return msgspec.convert(given, Details)


def given_url(entry: WorkerEntry) -> str | None:
    """The URL as the client wrote it."""
    value = entry.fields.get("url")
    return None if value is None else msgspec.json.decode(value, type=str)
