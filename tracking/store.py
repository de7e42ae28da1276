"""The Redis side of the traces: each method is one script call, atomic and bounded.

Nothing is decoded here but counts: records go in and come out as bytes. Every failure to reach the
store, whatever its cause, is `StoreUnavailable`; nothing of redis-py leaks out.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Final, Literal, cast

import msgspec
from redis.asyncio import Redis
from redis.exceptions import MovedError, NoScriptError, ReadOnlyError, ResponseError

from tracking.advice import Server, examine
from tracking.connect import FAILURES, Client, close, connect
from tracking.feed import FeedEvent, FeedPage, Place, parse_place
from tracking.finished import Finished, write_lines
from tracking.keys import SCHEMA, Keys, index_text
from tracking.lines import Argument, Lines, Reply, Start
from tracking.paging import SCAN_BUDGET, Listed, arrived_us, read_page
from tracking.query import TraceQuery
from tracking.record import Record
from tracking.tallies import Tallies
from tracking.trace import TraceError, join_parts
from tracking.view import StoreUnavailable

SWEEP_BATCH: Final = 100
MOST_CALLS: Final = 16  # at once; others wait for their turn within their time
QUERY_SECONDS: Final = 1.0  # somebody waits; a store 200 ms away needs 0.6 for the first call
BACKGROUND_SECONDS: Final = 2.0  # nobody waits: a store that is merely slow is not away
ROUTER_LOST: Final = TraceError("the router that handled this request went away", "router_lost")

_FLAGS: Final[Mapping[str, str]] = {
    "write": "", "bind_nodes": "",
    "get": " flags=no-writes", "list": " flags=no-writes", "stats": " flags=no-writes",
    "sums": "",
    # These must go through when the server is out of memory: they are small, or make room.
    "delete": " flags=allow-oom", "heartbeat": " flags=allow-oom", "sweep": " flags=allow-oom",
    "share": " flags=allow-oom", "feed": " flags=allow-oom",
    "workers": " flags=no-writes", "change_worker": "",
}  # fmt: skip


class SchemaMismatch(Exception):
    """The data in the store is written in a format more than one version away from ours."""


class NodeNameTaken(ValueError):
    """A worker's chosen name was also chosen for another worker that is in use."""


class Retention(msgspec.Struct, frozen=True):
    """How many records are held, and for how many seconds."""

    max_entries: int
    ttl_seconds: int


class Stored(msgspec.Struct, frozen=True):
    """A whole record found by id: its arrival (µs) and its JSON."""

    arrived_us: int
    body: bytes


class StoreStats(msgspec.Struct, frozen=True):
    """Counts over the records held. `oldest_us` and `newest_us` are arrivals, None without any."""

    total: int
    active: int
    oldest_us: int | None
    newest_us: int | None
    retention: Retention
    per_node: dict[str, int]
    per_status: dict[str, int]
    per_route: dict[str, int]
    per_policy: dict[str, int]
    per_model: dict[str, int]


class Beat(msgspec.Struct, frozen=True):
    """What a heartbeat learnt. `server` changes when the data may be another; `known` says that
    our lease had not run out; `names` has for each URL sent the name bound to it, or None. The
    server's memory and its limit are 0 where it does not tell, the limit also where there is none."""

    now_us: int
    retention: Retention
    server: bytes
    known: bool
    schema: int
    owners: list[str]
    names: dict[str, str | None]
    memory_bytes: int
    memory_limit_bytes: int


class TraceStore:
    """The records of one fleet in one Redis.

    `client` is any redis-py asyncio client (single server, Sentinel's, or cluster) that does not
    decode. `own` is used where the fleet has no settings yet. `call_timeout_seconds` bounds every
    call that somebody waits for, connecting included; writes and heartbeats have at least
    `BACKGROUND_SECONDS`. `shebang` is for real servers; fakeredis cannot parse it.
    """

    def __init__(
        self,
        client: Client,
        fleet: str,
        own: Retention,
        *,
        call_timeout_seconds: float = QUERY_SECONDS,
        shebang: bool = True,
    ) -> None:
        self._client = client
        # Others than redis-py's own, fakes among them, may have no transports.
        self._lines = Lines(client, MOST_CALLS) if type(client) is Redis else None
        self._keys = Keys(fleet)
        self._query_seconds = call_timeout_seconds
        self._background_seconds = max(call_timeout_seconds, BACKGROUND_SECONDS)
        self._turns = asyncio.Semaphore(MOST_CALLS)
        common = (1, self._keys.all, own.max_entries, own.ttl_seconds)
        self._scripts = {
            name: _Script(name, flags if shebang else None, common)
            for name, flags in _FLAGS.items()
        }
        self.tallies = Tallies(self._call)

    @classmethod
    def from_url(
        cls,
        url: str,
        fleet: str,
        own: Retention,
        *,
        call_timeout_seconds: float = QUERY_SECONDS,
    ) -> TraceStore:
        """A store at a URL of `tracking.connect`. Does not connect.

        Raises ValueError for another kind of URL.
        """
        return cls(connect(url), fleet, own, call_timeout_seconds=call_timeout_seconds)

    async def write(self, records: Sequence[Record]) -> int:
        """Write at most 100 records; those older than what is stored change nothing. How many
        were taken."""
        finished: list[Finished] = []
        arguments: list[Argument] = []
        record: Record
        for record in records:
            if record.finished is not None:
                finished.append(record.finished)
            fresh = b"1" if record.fresh else b""
            arguments += (record.key, record.stored, record.names, fresh)
        arguments.insert(0, write_lines(finished)[:-1])
        reply = await self._run(self._background_seconds, "write", arguments)
        accepted, _added = cast("list[int]", reply)
        return accepted

    async def get(self, ids: Sequence[str]) -> list[Stored | None]:
        """Whole records by request id, key or engine id; at most 1000."""
        reply = cast(list[bytes | None], await self._call("get", *(index_text(one) for one in ids)))
        return [None if record is None else _stored(record) for record in reply]

    async def page(self, query: TraceQuery, *, scan_budget: int = SCAN_BUDGET) -> Listed:
        """One page: see `paging.read_page`."""
        return await read_page(self._call, query, scan_budget)

    async def feed(self, after: Place | None, limit: int) -> FeedPage:
        """At most `limit` events of the feed behind a place, fewer if they are large; with None only its tip. Where the tip is
        of another epoch than `after`, these are the events of that feed from its first."""
        tip, *flat = cast(list[bytes], await self._call("feed", *(after or ("", "")), limit))
        events = zip(flat[::3], flat[1::3], flat[2::3], strict=True)
        return FeedPage(
            parse_place(tip.decode()),
            [FeedEvent(parse_place(place.decode()), row, reason) for place, row, reason in events],
        )

    async def stats(self) -> StoreStats:
        total, active, oldest, newest, cap, ttl, nodes, statuses, tallies = cast(
            tuple[int, int, bytes | None, bytes | None, int, int, list[Reply], list[Reply], list[Reply]],
            await self._call("stats"),
        )  # fmt: skip
        by_kind: dict[str, dict[str, int]] = {"r": {}, "p": {}, "m": {}}
        for field, count in _counts(tallies).items():
            kind, _, name = field.partition(":")
            by_kind[kind][name] = count
        return StoreStats(
            total=total,
            active=active,
            oldest_us=None if oldest is None else int(oldest),
            newest_us=None if newest is None else int(newest),
            retention=Retention(cap, ttl),
            per_node=_counts(nodes),
            per_status=_counts(statuses),
            per_route=by_kind["r"],
            per_policy=by_kind["p"],
            per_model=by_kind["m"],
        )

    async def delete(self, record_id: str) -> int:
        """Delete every record under an id. How many were held."""
        return await self._delete("id", record_id)

    async def delete_session(self, session_id: str) -> int:
        """Delete every record of a session. How many were held."""
        return await self._delete("session", session_id)

    async def _delete(self, kind: Literal["id", "session"], value: str) -> int:
        deleted, more = 0, 1
        while more:
            some, more = cast(list[int], await self._call("delete", kind, index_text(value)))
            deleted += some
        return deleted

    async def delete_all(self) -> int:
        """Delete all records, at once for every reader; frees their room before it returns."""
        deleted = cast(int, await self._call("delete", "all"))
        while await self._call("delete", "collect"):
            await asyncio.sleep(0)
        return deleted

    async def heartbeat(
        self,
        owner: str,
        *,
        lease_seconds: float,
        urls: Sequence[str],
        schema: int = SCHEMA,
        age_seconds: float = 0.0,
        static: Sequence[str] = (),
        found: bytes = b"",
    ) -> Beat:
        """Prolong the lease of `owner`, who has names for `urls`, and was started so long ago
        with the workers `static`. `found`: those it has discovered, encoded; empty when they are as
        told before. Raises SchemaMismatch."""
        try:
            now, cap, ttl, server, known, fleet_schema, owners, names, memory, limit = cast(
                tuple[bytes, int, int, bytes, int, int, list[bytes], list[bytes | None], int, int],
                await self._background(
                    "heartbeat",
                    owner,
                    int(lease_seconds * 1000),
                    schema,
                    "\n".join(urls),
                    int(age_seconds * 1e6),
                    "\n".join(static),
                    found,
                ),
            )
        except _Refused as refusal:
            stored = refusal.detail("SCHEMA")
            raise SchemaMismatch(
                f"the traces of fleet {self._keys.fleet!r} are kept in format {stored}, this router"
                f" speaks {schema}: only neighbouring versions can share a store"
            ) from None
        return Beat(
            now_us=int(now),
            retention=Retention(cap, ttl),
            server=server,
            known=bool(known),
            schema=fleet_schema,
            owners=[one.decode() for one in owners],
            names={
                url: None if name is None else name.decode()
                for url, name in zip(urls, names, strict=True)
            },
            memory_bytes=memory,
            memory_limit_bytes=limit,
        )

    async def leave(self, owner: str) -> None:
        """End the lease of `owner`."""
        try:
            async with asyncio.timeout(self._query_seconds):
                await self._client.delete(self._keys.replica(owner))
                await self._client.zrem(self._keys.replicas, owner)
        except FAILURES as error:
            raise StoreUnavailable(str(error) or type(error).__name__) from error

    async def sweep(self) -> tuple[int, bool]:
        """Unfinished requests of dead replicas become `lost`, some at a time: how many did, and
        whether more are left."""
        error = msgspec.json.encode(ROUTER_LOST)
        lost, more = cast(list[int], await self._background("sweep", SWEEP_BATCH, error))
        return lost, bool(more)

    async def bind_nodes(self, owner: str, proposals: Sequence[tuple[str, str, bool]]) -> list[str]:
        """Names for (URL, proposed name, chosen by a person). Raises NodeNameTaken."""
        arguments: list[Argument] = [owner]
        for url, name, chosen in proposals:
            arguments += (url, name, int(chosen))
        try:
            names = cast(list[bytes], await self._call("bind_nodes", *arguments))
        except _Refused as refusal:
            name, url = refusal.detail("NODE_TAKEN").split("\t")
            raise NodeNameTaken(f"node name {name!r} is already given to worker {url}") from None
        return [name.decode() for name in names]

    async def examine(self) -> Server:
        """The server's settings. Raises StoreUnavailable."""
        return await examine(self._client, self._keys.all)

    async def close(self) -> None:
        try:
            await close(self._client)
        except FAILURES as error:
            raise StoreUnavailable(str(error)) from error

    async def call(self, name: str, *arguments: Argument) -> Reply:
        """A script that is not about records. Raises StoreUnavailable."""
        return await self._call(name, *arguments)

    async def _call(self, name: str, *arguments: Argument) -> Reply:
        return await self._run(self._query_seconds, name, arguments)

    async def _background(self, name: str, *arguments: Argument) -> Reply:
        return await self._run(self._background_seconds, name, arguments)

    async def _run(self, seconds: float, name: str, arguments: Sequence[Argument]) -> Reply:
        script = self._scripts[name]
        deadline = asyncio.get_running_loop().time() + seconds
        try:
            try:
                return await self._ask(deadline, script.by_digest, arguments)
            except NoScriptError:
                # The server was restarted or flushed. EVAL also works behind a cluster client.
                return await self._ask(deadline, script.whole, arguments)
        except MovedError as error:
            raise StoreUnavailable(
                "this server is part of a cluster: its URL must begin with redis+cluster://"
            ) from error
        except ReadOnlyError as error:
            raise StoreUnavailable("the server is a read-only replica") from error
        except ResponseError as error:
            if _Refused.is_ours(error):
                raise _Refused(str(error)) from error
            raise StoreUnavailable(f"{name}: {error}") from error
        except FAILURES as error:
            raise StoreUnavailable(str(error) or type(error).__name__) from error

    async def _ask(self, deadline: float, start: Start, arguments: Sequence[Argument]) -> Reply:
        if self._lines is not None:
            return await self._lines.ask(deadline, start, arguments)
        async with asyncio.timeout_at(deadline), self._turns:
            reply = await self._client.execute_command(*start.arguments, *arguments)
            return cast(Reply, reply)


class _Refused(Exception):
    """A script's own error reply: a word, then details."""

    _WORDS: Final[tuple[Literal["SCHEMA", "NODE_TAKEN"], ...]] = ("SCHEMA", "NODE_TAKEN")

    @classmethod
    def is_ours(cls, error: ResponseError) -> bool:
        return str(error).startswith(cls._WORDS)

    def detail(self, word: str) -> str:
        return str(self).removeprefix(word).strip()


class _Script:
    """`by_digest` is how it is called where the server has it, `whole` brings it along. `common` are its
    key and the arguments that all scripts have."""

    __slots__ = ("by_digest", "whole")

    def __init__(self, name: str, flags: str | None, common: Sequence[Argument]) -> None:
        folder = resources.files("tracking") / "scripts"
        parts = [(folder / part).read_text() for part in ("_common.lua", f"{name}.lua")]
        source = ("" if flags is None else f"#!lua{flags}\n") + "\n".join(parts)
        digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        self.by_digest = Start("EVALSHA", digest, *common)
        self.whole = Start("EVAL", source, *common)


def _stored(record: bytes) -> Stored:
    meta, row, detail = record.split(b"\n", 2)
    return Stored(arrived_us(meta), join_parts(row, detail))


def _counts(flat: Sequence[Reply]) -> dict[str, int]:
    pairs = cast(list[bytes | int], flat)
    return {
        cast(bytes, name).decode("utf-8", "replace"): cast(int, count)
        for name, count in zip(pairs[::2], pairs[1::2], strict=True)
    }
