"""A trace on its way to the store: encoded once, carried as bytes.

The store's record is three lines, `meta LF row LF detail`: JSON has no raw line feed, and scripts
read the meta line only. `scripts/_common.lua` has the order of its fields.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

import msgspec

from tracking.keys import INDEX_TEXT_BYTES, index_text
from tracking.lifecycle import TERMINAL, LiveTrace
from tracking.size import LARGEST_RECORD, LARGEST_ROW, fitted
from tracking.sums import Finished
from tracking.trace import Attempt, Candidate, Decision, Status, Trace, TraceDetail, join_parts

_encode: Final = msgspec.json.Encoder().encode
_OVERHEAD_BYTES = 700  # of the objects around the bytes of a record kept here, measured roughly


def record_key(trace: Trace) -> str:
    """The router's own unique key of a trace."""
    return trace.key or trace.request_id


class Record:
    """One version of one trace, encoded. `fresh`: none was sent to the store before."""

    __slots__ = (
        "arrived_us", "detail", "engine_id", "fresh", "key", "node_id", "owner", "request_id", "revision",
        "row", "session_id", "status", "tally",
    )  # fmt: skip

    def __init__(self, live: LiveTrace, owner: str, *, fresh: bool = True) -> None:
        trace = live.trace
        self.key = record_key(trace)
        self.owner = owner
        self.fresh = fresh
        self.revision = live.revision
        self.arrived_us = live.arrived_us
        self.status: Status = trace.status
        self.node_id = trace.node_id
        self.request_id = trace.request_id
        self.engine_id = trace.engine_request_id
        self.session_id = trace.session_id
        self.tally = _tally(trace, live.detail.decision, live.arrived_us)
        self.row, self.detail = _encoded(trace), _encoded(live.detail)
        if len(self.row) + len(self.detail) > LARGEST_RECORD or len(self.row) > LARGEST_ROW:
            self.row, self.detail = fitted(trace, live.detail, _encoded)

    @property
    def terminal(self) -> bool:
        return self.status in TERMINAL

    @property
    def size(self) -> int:
        """Bytes it takes while it is kept here."""
        return len(self.row) + len(self.detail) + _OVERHEAD_BYTES

    def stored(self) -> bytes:
        """The record as the store keeps it."""
        request_id = "" if self.request_id == self.key else self.request_id
        engine_id = "" if self.engine_id in (self.key, self.request_id) else self.engine_id
        names = (self.owner, self.status, self.node_id, self.session_id, request_id, engine_id)
        meta = b"%d\t%d\t%b" % (self.revision, self.arrived_us, _meta_names(names))
        return b"%b\n%b\n%b" % (meta, self.row, self.detail)

    def whole(self) -> bytes:
        """The trace object as JSON, row and detail together."""
        return join_parts(self.row, self.detail)

    def renamed(self, rename: Callable[[str], str]) -> None:
        """Replace node names made up while the store was away. Rare, so it may decode."""
        trace = msgspec.json.decode(self.row, type=Trace)
        detail = msgspec.json.decode(self.detail, type=TraceDetail)
        rename_nodes(trace, detail, rename)
        self.node_id, self.row, self.detail = trace.node_id, _encode(trace), _encode(detail)
        self.tally = _tally(trace, detail.decision, self.arrived_us)


def rename_nodes(trace: Trace, detail: TraceDetail, rename: Callable[[str], str]) -> None:
    """Apply `rename` to every node name in a trace."""
    trace.node_id = rename(trace.node_id)
    if trace.prefill_node_id is not None:
        trace.prefill_node_id = rename(trace.prefill_node_id)
    named: list[Attempt | Candidate] = [*detail.attempts]
    for decision in (detail.decision, detail.prefill_decision):
        if decision is not None:
            named += decision.candidates
    for part in named:
        part.node_id = rename(part.node_id)


def _tally(trace: Trace, decision: Decision | None, arrived_us: int) -> bytes:
    """What a terminal record adds to the statistics, as `write.lua` takes it."""
    if trace.status not in TERMINAL:
        return b""
    names = _tally_names(trace.route, trace.routing_policy, trace.model)
    return names + _encoded(Finished.of(trace, arrived_us, decision))


@lru_cache(maxsize=256)
def _tally_names(*names: str | None) -> bytes:
    return b"\t".join(map(index_text, names)) + b"\n"


def _meta_names(names: Sequence[str | None]) -> bytes:
    """As `index_text` has each of them, but all at once where, as nearly always, nothing is to be done."""
    text = "\t".join([name or "" for name in names])
    plain = text.isascii() and text.count("\t") == len(names) - 1
    if plain and len(text) <= INDEX_TEXT_BYTES and "\n" not in text and "\r" not in text:
        return text.encode()
    return b"\t".join(map(index_text, names))


def _encoded(part: msgspec.Struct) -> bytes:
    try:
        return _encode(part)
    except UnicodeEncodeError:
        # Header bytes that are not UTF-8 arrive as lone surrogates. The outcome must be kept.
        return _encode(_scrubbed(msgspec.to_builtins(part)))


def _scrubbed(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_scrubbed(k): _scrubbed(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_scrubbed(item) for item in value]
    return value
