"""A stored trace as exports read it.

The types are plain, and everything but the id may be missing: words and fields of a neighbouring
version are no error.
"""

from __future__ import annotations

from typing import Final

import msgspec


class Error(msgspec.Struct):
    message: str | None = None
    type: str | None = None


class Attempt(msgspec.Struct):
    node_id: str = ""
    worker_url: str = ""
    started_at: str = ""
    duration_seconds: float | None = None
    http_status: int | None = None
    error: Error = msgspec.field(default_factory=Error)
    leg: str | None = None


class Candidate(msgspec.Struct):
    node_id: str = ""
    worker_url: str = ""
    chosen: bool = False
    numbers: dict[str, int | float | None] = {}


class Decision(msgspec.Struct):
    reason: str | None = None
    quality: str | None = None
    candidate_count: int | None = None
    candidates: list[Candidate] = []
    load_age_seconds: float | None = None
    decision_seconds: float | None = None


class Engine(msgspec.Struct):
    finish_reason: str | None = None
    e2e_latency: float | None = None
    queue_time: float | None = None
    prefill_seconds: float | None = None
    decode_seconds: float | None = None


class Exported(msgspec.Struct):
    """Row and detail of one trace."""

    request_id: str
    key: str | None = None
    timestamp: str = ""
    completion_time: str | None = None
    node_id: str = ""
    worker_url: str = ""
    routing_policy: str = ""
    status: str = ""
    http_status: int | None = None
    error: Error = msgspec.field(default_factory=Error)
    route: str | None = None
    method: str | None = None
    model: str | None = None
    stream: bool | None = None
    queue_size: int | None = None
    queue_seconds: float | None = None
    ttft_seconds: float | None = None
    duration_seconds: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    predicted_cached_tokens: int | None = None
    prefill_tokens: int | None = None
    cache_hit_rate: float | None = None
    cache_source: str | None = None
    engine: Engine = msgspec.field(default_factory=Engine)
    engine_request_id: str | None = None
    router_id: str | None = None
    trace_id: str | None = None
    session_id: str | None = None
    label: str | None = None
    worker_origin: str | None = None
    attempts: list[Attempt] = []
    decision: Decision = msgspec.field(default_factory=Decision)
    trimmed: bool | None = None
    prefix_hashes: list[str] = []
    prefill_node_id: str | None = None


decode_exported: Final = msgspec.json.Decoder(Exported).decode


def server_latency_seconds(trace: Exported) -> float | None:
    """What the engine says it took, else the time from admission to the end of the answer."""
    if trace.engine.e2e_latency is not None or trace.duration_seconds is None:
        return trace.engine.e2e_latency
    return max(0.0, round(trace.duration_seconds - (trace.queue_seconds or 0.0), 6))
