"""What the clients return. Fields that a newer router adds are skipped, not refused."""

from __future__ import annotations

import warnings
from typing import TypeVar

import msgspec

from tracking.client.asking import Answer, Ask, ClientError, next_page
from tracking.trace import Attempt, Decision, Trace

T = TypeVar("T")
Row = dict[str, object]


class FullTrace(Trace, omit_defaults=True, kw_only=True):
    """A trace; lists leave the last fields empty unless asked for `detail=True`."""

    attempts: list[Attempt] = []
    decision: Decision | None = None
    prefill_decision: Decision | None = None
    prefix_hashes: list[str] = []


class StatsConfig(msgspec.Struct):
    """The retention in force."""

    enabled: bool = True
    max_entries: int | None = None
    ttl_seconds: int | None = None


class StoreInfo(msgspec.Struct):
    """The store as seen by the router that answered."""

    kind: str = ""
    state: str = ""
    buffered: int = 0
    buffered_bytes: int = 0
    dropped: int = 0


class Distribution(msgspec.Struct):
    """Seconds, or tokens per second, of `count` requests."""

    count: int
    p50: float
    p90: float
    p95: float
    p99: float


class Summary(msgspec.Struct):
    """Requests that arrived in a window and are over. None: nobody knows."""

    requests: int = 0
    requests_per_status: dict[str, int] = {}
    error_rate: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    decisions_per_quality: dict[str, int] = {}
    predicted_cached_tokens: int | None = None
    prediction_error_tokens: int | None = None
    regret_tokens: int | None = None
    output_tokens_per_second: float | None = None
    cache_hit_rate: float | None = None
    queue_seconds: Distribution | None = None
    ttft_seconds: Distribution | None = None
    inter_token_seconds: Distribution | None = None
    duration_seconds: Distribution | None = None
    tokens_per_second: Distribution | None = None


class Middle(msgspec.Struct):
    """Seconds."""

    p50: float
    p95: float


class Brief(msgspec.Struct):
    """Of one step of a series. None: nobody knows."""

    requests_per_status: dict[str, int] = {}
    cache_hit_rate: float | None = None
    ttft_seconds: Middle | None = None
    duration_seconds: Middle | None = None


class Step(msgspec.Struct):
    """One minute of a window, or hour."""

    since: str
    total: Brief
    by: dict[str, dict[str, Brief]] = {}


class StatsWindow(msgspec.Struct):
    """`by` has a summary for each node, model, policy or route, as asked; `series` its steps."""

    since: str
    until: str
    total: Summary
    by: dict[str, dict[str, Summary]] = {}
    series: list[Step] | None = None


class Stats(msgspec.Struct):
    """Counts of the records held, and of a window where one was asked for."""

    total_requests: int
    active_traces: int
    requests_per_node: dict[str, int]
    requests_per_status: dict[str, int]
    in_flight: int = 0
    requests_per_route: dict[str, int] = {}
    requests_per_policy: dict[str, int] = {}
    requests_per_model: dict[str, int] = {}
    oldest_trace: str | None = None
    newest_trace: str | None = None
    config: StatsConfig = msgspec.field(default_factory=StatsConfig)
    store: StoreInfo = msgspec.field(default_factory=StoreInfo)
    replicas: list[str] = []
    window: StatsWindow | None = None


class Deleted(msgspec.Struct):
    deleted: int


class TracePage(msgspec.Struct):
    """A page of rows, the question for the next, and why it may lack some, if it may."""

    rows: list[Row]
    next: Ask | None
    partial: str | None


class PartialAnswer(UserWarning):
    """The trace store is away: the list holds only what the router that answered knows itself."""


def read(answer: Answer, type: type[T]) -> T:
    """The answer's body. Raises ClientError where it is something else."""
    return decode(answer.body, type)


def decode(data: bytes | str, type: type[T]) -> T:
    """JSON of a router. Raises ClientError."""
    try:
        return msgspec.json.decode(data, type=type)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ClientError(
            f"the answer cannot be read: {error}; the router may be newer than this client"
        ) from None


def full(row: Row) -> FullTrace:
    """A row as a trace. Raises ClientError."""
    try:
        return msgspec.convert(row, FullTrace)
    except msgspec.ValidationError as error:
        raise ClientError(
            f"a trace cannot be read: {error}; the router may be newer than this client"
        ) from None


def read_page(answer: Answer) -> TracePage:
    """Warns where the page may lack records because the store is away."""
    partial = answer.headers.get("x-trace-partial")
    if partial == "store-unavailable":
        warnings.warn(
            "the trace store is away: only what this router knows itself is listed",
            PartialAnswer,
            stacklevel=4,
        )
    return TracePage(read(answer, list[Row]), next_page(answer), partial)
