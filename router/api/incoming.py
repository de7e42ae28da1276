"""A request to forward, as the dispatcher hands it over."""

from __future__ import annotations

from router.api.connection import ClientConnection
from router.api.request import Request
from router.telemetry.spans import SpanIds


class Incoming:
    """See the module. `key` is the router's own name for the request, and its `rid` where it gives one.

    `target` is path and query, as sent. `label` is the route's name in metrics, `trace_label` the client's
    words; `generates` says that repeating it is harmless. `id_line` is our header with the request's id,
    for the worker; `answer_headers` are our own header lines for every answer to this request, with it.
    `span_ids` are there where OpenTelemetry is told. `arrived` in monotonic seconds, `arrived_us` the same
    since the epoch.
    """

    __slots__ = (
        "answer_headers",
        "arrived",
        "arrived_us",
        "client",
        "generates",
        "id_line",
        "key",
        "label",
        "path",
        "request",
        "request_id",
        "span_ids",
        "target",
        "trace_id",
        "trace_label",
    )

    def __init__(
        self,
        request: Request,
        client: ClientConnection,
        target: str,
        path: str,
        label: str,
        generates: bool,
        request_id: str,
        key: str,
        trace_id: str | None,
        trace_label: str | None,
        span_ids: SpanIds | None,
        id_line: bytes,
        answer_headers: bytes,
        arrived: float,
        arrived_us: int,
    ) -> None:
        self.request = request
        self.client = client
        self.target = target
        self.path = path
        self.label = label
        self.generates = generates
        self.request_id = request_id
        self.key = key
        self.trace_id = trace_id
        self.trace_label = trace_label
        self.span_ids = span_ids
        self.id_line = id_line
        self.answer_headers = answer_headers
        self.arrived = arrived
        self.arrived_us = arrived_us
