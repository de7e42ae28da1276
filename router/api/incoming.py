"""A request to forward, as the dispatcher hands it over."""

from __future__ import annotations

import msgspec

from router.api.connection import ClientConnection
from router.api.request import Request
from router.telemetry.spans import SpanIds


class Incoming(msgspec.Struct, frozen=True, kw_only=True):
    """See the module. `key` is the router's own name for the request, and its `rid` where it gives one.

    `label` is the route's name in metrics, `trace_label` the client's words; `generates` says that
    repeating it is harmless. `arrived` in monotonic seconds, `arrived_us` the same since the epoch.
    """

    request: Request
    client: ClientConnection
    target: str  # path and query, as sent
    path: str
    label: str
    generates: bool
    request_id: str
    key: str
    trace_id: str | None
    trace_label: str | None
    span_ids: SpanIds | None  # where OpenTelemetry is told
    answer_headers: bytes  # our own header lines for every answer to this request
    arrived: float
    arrived_us: int
