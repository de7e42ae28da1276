"""The trace object: what is kept of one request.

Field names and meanings are the contract with users and with other replicas of other versions,
so: new fields get defaults, and a field never changes its type. Prompts and completions are never
part of it.

A trace is stored and sent in two parts. The *row* (`Trace`) is what lists show. The *detail*
(`TraceDetail`) is larger and only shown by id or when asked for. Both are encoded once, by the
writer; joining them is byte concatenation (`join_parts`).

Made for each request and plain data, the structs here are none of the garbage collector's (`gc=False`).
"""

from __future__ import annotations

from time import gmtime
from typing import Final, Literal

import msgspec

Status = Literal[
    "queued", "routed", "processing", "completed", "failed", "cancelled", "rejected", "lost"
]
ErrorType = Literal[
    "no_worker",
    "queue_full",
    "queue_timeout",
    "bad_request",
    "too_large",
    "connect",
    "first_byte_timeout",
    "idle_timeout",
    "total_timeout",
    "worker_status",
    "worker_cut",
    "worker_abort",
    "client_gone",
    "router_lost",
]
DecisionQuality = Literal["exact", "degraded", "fallback"]
CacheSource = Literal["engine", "predicted"]

LegKind = Literal["prefill", "decode"]

NO_NODE = "none"
NO_WORKER_URL = "none:0"  # ends in a port: users' scripts read the part behind the last colon


class TraceError(msgspec.Struct, frozen=True, gc=False):
    """Why a request, or one attempt of it, did not end well."""

    message: str
    type: ErrorType


class Attempt(msgspec.Struct, omit_defaults=True, gc=False):
    """One try at one worker. `leg`: its part where prefill and decode are on separate workers;
    both parts of one try follow each other in `attempts`. `worker_origin`: where the worker was
    discovered, for one that was."""

    node_id: str
    worker_url: str
    started_at: str
    duration_seconds: float | None = None
    http_status: int | None = None
    error: TraceError | None = None
    leg: LegKind | None = None
    worker_origin: str | None = None


class Candidate(msgspec.Struct, omit_defaults=True, gc=False):
    """A worker that could have been chosen, with the numbers the policy compared."""

    node_id: str
    worker_url: str
    chosen: bool = False
    numbers: dict[str, float] = {}


class Decision(msgspec.Struct, omit_defaults=True, gc=False):
    """The receipt: why this worker.

    `candidates` holds the chosen worker first, then the best others (capped); `candidate_count` is
    how many there were. `load_age_seconds` is the age of the oldest load figure used.
    `regret_tokens`: input tokens that another candidate was thought to have cached, and this one not.
    """

    policy: str
    reason: str
    quality: DecisionQuality
    candidate_count: int
    candidates: list[Candidate]
    load_age_seconds: float
    decision_seconds: float
    regret_tokens: int | None = None


class EngineReport(msgspec.Struct, omit_defaults=True, gc=False):
    """What the worker itself said of the request. Seconds, as reported."""

    finish_reason: str | None = None
    e2e_latency: float | None = None
    queue_time: float | None = None
    prefill_seconds: float | None = None
    decode_seconds: float | None = None
    first_token_latency: float | None = None
    decode_throughput: float | None = None
    weight_version: str | None = None
    dp_rank: int | None = None
    reasoning_tokens: int | None = None


class Trace(msgspec.Struct, omit_defaults=True, gc=False):
    """The row of a trace. The first eight fields are always present, also when null or 0."""

    request_id: str
    node_id: str
    worker_url: str
    routing_policy: str
    status: Status
    timestamp: str
    cache_hit_rate: float | None
    queue_size: int

    key: str = ""
    route: str | None = None
    method: str | None = None
    model: str | None = None
    served_model: str | None = None  # what `model` stands for, where it is an alias
    stream: bool | None = None
    http_status: int | None = None
    completion_time: str | None = None
    error: TraceError | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    predicted_cached_tokens: int | None = None
    cache_source: CacheSource | None = None
    prefill_node_id: str | None = (
        None  # where another worker than that of `node_id` did the prefill
    )
    prefill_worker_url: str | None = None
    prefill_tokens: int | None = None  # uncached input before its first token: what waited, its own
    queue_seconds: float | None = None
    ttft_seconds: float | None = None
    duration_seconds: float | None = None
    engine: EngineReport | None = None
    engine_request_id: str | None = None
    router_id: str | None = None
    trace_id: str | None = None
    session_id: str | None = None
    label: str | None = None
    worker_origin: str | None = None  # where the worker was discovered, for one that was
    trimmed: bool | None = None
    """True where the record was too large and attempts, receipt or long texts were cut."""


class TraceDetail(msgspec.Struct, omit_defaults=True, gc=False):
    """The part of a trace that lists leave out."""

    attempts: list[Attempt] = []
    decision: Decision | None = None
    prefill_decision: Decision | None = None
    prefix_hashes: list[str] = []


def join_parts(row: bytes, detail: bytes) -> bytes:
    """One JSON object from an encoded `Trace` and an encoded `TraceDetail`."""
    if len(detail) <= 2:
        return row
    return row[:-1] + b"," + detail[1:]


class _Last:
    """The second that was asked for last, its beginning (µs) and its text: nearly all times are of the same.
    They are replaced together, since threads may ask."""

    __slots__ = ("second",)

    def __init__(self) -> None:
        self.second = (0, "1970-01-01T00:00:00")


_last: Final = _Last()
_MILLISECONDS: Final = [".%03dZ" % ms for ms in range(1000)]


def rfc3339(unix_us: int) -> str:
    """Microseconds since the epoch as `2025-07-28T10:26:31.123Z`."""
    last: _Last = _last
    begins_us, text = last.second
    us = unix_us - begins_us
    if not 0 <= us < 1_000_000:
        us = unix_us % 1_000_000
        text = "%04d-%02d-%02dT%02d:%02d:%02d" % gmtime(unix_us // 1_000_000)[:6]
        last.second = unix_us - us, text
    return text + _MILLISECONDS[us // 1000]
