"""The statuses of a request and the only code that changes them.

    queued ──► routed ──► processing ──► completed | failed | cancelled
      │          │ ▲└──────────────────► failed | cancelled
      │          └─┘ (retry on another worker)
      └──► rejected | failed | cancelled

`lost` is written by the store alone, for a request whose router died; it is provisional, so the
owner's own later record replaces it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from tracking.trace import (
    NO_NODE,
    NO_WORKER_URL,
    Attempt,
    CacheSource,
    Decision,
    EngineReport,
    Status,
    Trace,
    TraceDetail,
    TraceError,
    rfc3339,
)

NEXT: Final[dict[Status, frozenset[Status]]] = {
    "queued": frozenset({"routed", "rejected", "failed", "cancelled"}),
    "routed": frozenset({"routed", "processing", "failed", "cancelled"}),
    "processing": frozenset({"completed", "failed", "cancelled"}),
    "completed": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
    "rejected": frozenset(),
    "lost": frozenset(),
}
TERMINAL: Final[frozenset[Status]] = frozenset(s for s, after in NEXT.items() if not after)


class IllegalTransition(Exception):
    """A status was asked for that the table does not allow. Always a bug of ours."""


class LiveTrace:
    """A trace while its request runs, owned by the one replica that received the request.

    The fields of `Trace` and `TraceDetail`, which are made of it when it is written: until then it is
    changed often and read often, which costs a struct more than a class with slots.

    `arrived_us` is the arrival in microseconds since the epoch on the fleet's clock; it is the
    score of the record in every index. `key` is the router's own unique key of the trace. `revision`
    counts the changes, so that a store can refuse what is older than what it holds.

    The last three are kept by whoever writes it: `receipt`, a decision with its JSON; `sent_revision`, the
    last that was encoded for the store (0: none); `wait`, the number of the wait in which it was put.
    """

    __slots__ = (
        "arrived_us", "attempts", "cache_hit_rate", "cache_source", "cached_tokens",
        "completion_time", "decision", "duration_seconds", "engine", "engine_request_id",
        "error", "http_status", "input_tokens", "key", "label", "method", "model", "node_id",
        "output_tokens", "predicted_cached_tokens", "prefill_decision", "prefill_node_id",
        "prefill_tokens", "prefill_worker_url", "prefix_hashes", "queue_seconds", "queue_size",
        "receipt", "request_id", "revision", "route", "router_id", "routing_policy",
        "sent_revision", "served_model", "session_id", "status", "stream", "terminal",
        "timestamp", "trace_id", "ttft_seconds", "wait", "worker_origin", "worker_url",
    )  # fmt: skip

    def __init__(
        self,
        key: str,
        request_id: str,
        routing_policy: str,
        arrived_us: int,
        status: Status = "queued",
    ) -> None:
        self.key = key
        self.request_id = request_id
        self.routing_policy = routing_policy
        self.arrived_us = arrived_us
        self.timestamp = rfc3339(arrived_us)
        self.status = status
        self.terminal = status in TERMINAL
        self.revision = 1
        self.node_id = NO_NODE
        self.worker_url = NO_WORKER_URL
        self.worker_origin: str | None = None
        self.queue_size = 0
        self.route: str | None = None
        self.method: str | None = None
        self.model: str | None = None
        self.served_model: str | None = None
        self.stream: bool | None = None
        self.http_status: int | None = None
        self.completion_time: str | None = None
        self.error: TraceError | None = None
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.predicted_cached_tokens: int | None = None
        self.cache_hit_rate: float | None = None
        self.cache_source: CacheSource | None = None
        self.prefill_node_id: str | None = None
        self.prefill_worker_url: str | None = None
        self.prefill_tokens: int | None = None
        self.queue_seconds: float | None = None
        self.ttft_seconds: float | None = None
        self.duration_seconds: float | None = None
        self.engine: EngineReport | None = None
        self.engine_request_id: str | None = None
        self.router_id: str | None = None
        self.trace_id: str | None = None
        self.session_id: str | None = None
        self.label: str | None = None
        self.attempts: list[Attempt] = []
        self.decision: Decision | None = None
        self.prefill_decision: Decision | None = None
        self.prefix_hashes: list[str] = []
        self.receipt: tuple[Decision, msgspec.Raw] | None = None
        self.sent_revision = 0
        self.wait = 0

    def move(self, status: Status) -> None:
        """Take the trace to `status`; raises IllegalTransition where the table says no."""
        if status not in NEXT[self.status]:
            raise IllegalTransition(f"{self.status} -> {status} ({self.request_id})")
        self.status = status
        self.terminal = status in TERMINAL
        self.revision += 1

    def row(self) -> Trace:
        """As it is now."""
        # By place, in the order of the fields: by name it would take twice as long.
        return Trace(
            self.request_id, self.node_id, self.worker_url, self.routing_policy, self.status,
            self.timestamp, self.cache_hit_rate, self.queue_size,
            self.key, self.route, self.method, self.model, self.served_model, self.stream,
            self.http_status, self.completion_time, self.error,
            self.input_tokens, self.output_tokens, self.cached_tokens, self.predicted_cached_tokens,
            self.cache_source, self.prefill_node_id, self.prefill_worker_url, self.prefill_tokens,
            self.queue_seconds, self.ttft_seconds, self.duration_seconds, self.engine,
            self.engine_request_id, self.router_id, self.trace_id, self.session_id, self.label,
            self.worker_origin,
        )  # fmt: skip

    def detail(self) -> TraceDetail:
        """As it is now; the lists and the decisions are the same objects."""
        return TraceDetail(self.attempts, self.decision, self.prefill_decision, self.prefix_hashes)

    def __repr__(self) -> str:
        return f"<LiveTrace {self.request_id} {self.status} r{self.revision}>"
