"""A trace on its way to the store: encoded once, carried as bytes.

The store's record is three lines, `meta LF row LF detail`: JSON has no raw line feed, and scripts
read the meta line only. `scripts/_common.lua` has the order of its fields.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

import msgspec
from msgspec import Raw

from tracking.finished import MINUTE_US, Finished, at_node, group_text
from tracking.keys import INDEX_TEXT_BYTES, index_text
from tracking.lifecycle import LiveTrace
from tracking.size import LARGEST_RECORD, LARGEST_ROW, fitted
from tracking.trace import Attempt, Candidate, Decision, Status, Trace, TraceDetail, join_parts

_encoder: Final = msgspec.json.Encoder()
_encode: Final = _encoder.encode
_encode_lines: Final = _encoder.encode_lines
_OVERHEAD_BYTES = 700  # of the objects around the bytes of a record kept here, measured roughly


class Record:
    """One version of one trace, encoded. `fresh`: none was sent to the store before."""

    __slots__ = (
        "arrived_us", "engine_id", "finished", "fresh", "key", "names", "node_id", "owner", "request_id",
        "revision", "session_id", "size", "status", "stored", "terminal",
    )  # fmt: skip

    stored: bytes
    """The record as the store keeps it."""
    names: bytes
    """What a terminal record is counted by, as `write.lua` takes it; empty of what still runs."""
    finished: Finished | None
    """What is summed up of a terminal record."""
    size: int
    """Bytes it takes while it is kept here."""

    def __init__(self, live: LiveTrace, owner: str, *, fresh: bool = True) -> None:
        self.key = live.key
        self.owner = owner
        self.fresh = fresh
        self.revision = live.revision
        self.arrived_us = live.arrived_us
        self.status: Status = live.status
        self.terminal = live.terminal
        self.node_id = live.node_id
        self.request_id = live.request_id
        self.engine_id = live.engine_request_id
        self.session_id = live.session_id
        self._encode(live.row(), live.detail(), _receipt(live))
        self.names, self.finished = _tally(live) if live.terminal else (b"", None)

    def _encode(self, trace: Trace, detail: TraceDetail, receipt: Raw | None) -> None:
        self.stored = _stored(self._meta(), trace, detail, receipt)
        self.size = len(self.stored) + _OVERHEAD_BYTES

    def _meta(self) -> Raw:
        session_id = self.session_id or ""
        request_id = "" if self.request_id == self.key else self.request_id
        engine_id = "" if self._engine_id_is_ours() else self.engine_id or ""
        text = (
            f"{self.revision}\t{self.arrived_us}\t{self.owner}\t{self.status}\t{self.node_id}"
            f"\t{session_id}\t{request_id}\t{engine_id}"
        )
        # Nearly always there is nothing that `index_text` would change.
        plain = text.isascii() and text.count("\t") == 7 and "\n" not in text and "\r" not in text
        if plain and len(text) <= INDEX_TEXT_BYTES:
            return Raw(text)
        numbers = b"%d\t%d" % (self.revision, self.arrived_us)
        names = (self.owner, self.status, self.node_id, session_id, request_id, engine_id)
        return Raw(b"\t".join((numbers, *map(index_text, names))))

    def _engine_id_is_ours(self) -> bool:
        """No index is needed to find it: it is our id, or ours as `made_of_ours` of the scripts knows it."""
        engine_id, key, request_id = self.engine_id, self.key, self.request_id
        if engine_id is None or engine_id == key or engine_id == request_id:
            return True
        return (
            (_made_of(key, engine_id) or _made_of(request_id, engine_id))
            # The scripts look for it in the trace as it is written there.
            and engine_id.isascii()
            and engine_id.isprintable()
            and '"' not in engine_id
            and "\\" not in engine_id
            and len(engine_id) <= INDEX_TEXT_BYTES
        )

    @property
    def row(self) -> bytes:
        return self.stored.split(b"\n", 2)[1]

    @property
    def detail(self) -> bytes:
        return self.stored.split(b"\n", 2)[2]

    def whole(self) -> bytes:
        """The trace object as JSON, row and detail together."""
        return join_parts(self.row, self.detail)

    def renamed(self, rename: Callable[[str], str]) -> None:
        """Replace node names made up while the store was away. Rare, so it may decode."""
        trace = msgspec.json.decode(self.row, type=Trace)
        detail = msgspec.json.decode(self.detail, type=TraceDetail)
        _rename_nodes(trace, detail, rename)
        self.node_id = trace.node_id
        self._encode(trace, detail, None)
        if self.finished is not None:
            self.finished = at_node(self.finished, trace.node_id)


def _made_of(ours: str, engine_id: str) -> bool:
    # Most are not, and that is found out without making a text.
    return ours in engine_id and engine_id in (f"chatcmpl-{ours}", f"cmpl-{ours}")


def rename_running(live: LiveTrace, rename: Callable[[str], str]) -> None:
    """Apply `rename` to every node name in a trace that is not encoded yet."""
    _rename_nodes(live, live, rename)
    live.receipt = None


def _rename_nodes(
    trace: Trace | LiveTrace, detail: TraceDetail | LiveTrace, rename: Callable[[str], str]
) -> None:
    trace.node_id = rename(trace.node_id)
    if trace.prefill_node_id is not None:
        trace.prefill_node_id = rename(trace.prefill_node_id)
    named: list[Attempt | Candidate] = [*detail.attempts]
    for decision in (detail.decision, detail.prefill_decision):
        if decision is not None:
            named += decision.candidates
    for part in named:
        part.node_id = rename(part.node_id)


class _Detail(msgspec.Struct, omit_defaults=True, gc=False):
    """A `TraceDetail` whose receipt, most of its bytes, is encoded already."""

    attempts: list[Attempt] = []
    decision: Raw | None = None
    prefill_decision: Decision | None = None
    prefix_hashes: list[str] = []


def _receipt(live: LiveTrace) -> Raw | None:
    """What is written more than once has one and the same receipt: it is encoded once."""
    decision = live.decision
    if decision is None or (live.terminal and live.receipt is None):
        return None
    if live.receipt is None or live.receipt[0] is not decision:
        live.receipt = decision, Raw(_encoded(decision))
    return live.receipt[1]


def _stored(meta: Raw, trace: Trace, detail: TraceDetail, receipt: Raw | None) -> bytes:
    part: TraceDetail | _Detail = detail
    if receipt is not None:
        part = _Detail(detail.attempts, receipt, detail.prefill_decision, detail.prefix_hashes)
    try:
        stored = _encode_lines([meta, trace, part])[:-1]
    except UnicodeEncodeError:
        stored = b"\n".join((bytes(meta), _encoded(trace), _encoded(detail)))
    if len(stored) > LARGEST_ROW:
        _, row, rest = stored.split(b"\n", 2)
        if len(row) > LARGEST_ROW or len(row) + len(rest) > LARGEST_RECORD:
            return b"\n".join((bytes(meta), *fitted(trace, detail, _encoded)))
    return stored


def _tally(live: LiveTrace) -> tuple[bytes, Finished]:
    """Names to count by, and what is summed up."""
    decision = live.decision
    names, group = _counted_by(
        live.arrived_us // MINUTE_US,
        live.node_id,
        live.model,
        live.routing_policy,
        live.route,
        live.status,
        "" if decision is None else decision.quality,
    )
    return names, (
        group,
        live.queue_seconds,
        live.ttft_seconds,
        live.duration_seconds,
        live.input_tokens,
        live.output_tokens,
        live.cached_tokens,
        live.cache_hit_rate,
        live.predicted_cached_tokens,
        None if decision is None else decision.regret_tokens,
    )


@lru_cache(maxsize=1024)
def _counted_by(
    minute: int,
    node: str,
    model: str | None,
    policy: str,
    route: str | None,
    status: str,
    quality: str,
) -> tuple[bytes, str]:
    """As `write.lua` takes the names, and as `tracking.finished` has the group."""
    names = b"\t".join(map(index_text, (route, policy, model)))
    return names, group_text(minute, node, model, policy, route, status, quality)


def _encoded(part: object) -> bytes:
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
    if isinstance(value, list | tuple):
        return [_scrubbed(item) for item in value]
    return value
