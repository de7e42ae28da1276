"""Finished requests as spans of OpenTelemetry, sent by OTLP over HTTP. Beside the requests.

A finished request is put into a bounded queue; once a second a thread makes spans of what is there and
sends them. While the receiver does not answer, what does not fit is dropped and counted. Everything of
OpenTelemetry's is imported only where it is asked for: it is the extra `otel`, and takes a tenth of a
second to import.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Final, NamedTuple

from router.telemetry.spans import SpanIds
from tracking.lifecycle import LiveTrace
from tracking.trace import Attempt, TraceError

if TYPE_CHECKING:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext, SpanKind

log = logging.getLogger("router.telemetry")

MOST_WAITING: Final = 4096  # requests
BATCH: Final = 256
EXPORT_SECONDS: Final = 1.0
LAST_SECONDS: Final = 2.0  # for what waits when the router stops
SCOPE: Final = "llm-trace-router"
QUEUE: Final = 1 << 20  # the number, among those of attempts, of the wait before them
ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

# gen_ai.operation.name, of the routes that have one of the names that are agreed upon.
OPERATIONS: Final = {
    "/v1/chat/completions": "chat",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/generate": "text_completion",
    "/v1/embeddings": "embeddings",
}

Value = str | bool | int | float | Sequence[str]
Attributes = dict[str, Value]


def asked_for(environ: Mapping[str, str]) -> bool:
    """Do the standard variables ask for traces?"""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environ.get("OTEL_TRACES_EXPORTER", "otlp").strip()
    return exporter == "otlp" and any(environ.get(name, "").strip() for name in ENDPOINTS)


def span_export(router_id: str, environ: Mapping[str, str]) -> SpanExport | None:
    """Where it is asked for and can be done. Raises ValueError."""
    if not asked_for(environ):
        return None
    try:
        return SpanExport(router_id, version(SCOPE))
    except ImportError as error:
        log.warning(
            "OpenTelemetry is asked for and not installed (%s): pip install '%s[otel]'",
            error,
            SCOPE,
        )
        return None


class Finished(NamedTuple):
    ids: SpanIds
    trace: LiveTrace


class SpanExport:
    """`ended` from the path of requests; `run` in the background; `close`. Raises ImportError where the
    extra is not installed, ValueError for variables that cannot be used."""

    def __init__(self, router_id: str, own_version: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource

        self.exported = 0
        self.dropped = 0
        self._exporter: OTLPSpanExporter = OTLPSpanExporter()
        self._resource: Resource = Resource.create(
            {"service.version": own_version, "service.instance.id": router_id}
        )
        if str(self._resource.attributes.get("service.name", "")).startswith("unknown_service"):
            self._resource = self._resource.merge(Resource({"service.name": SCOPE}))
        self._waiting: deque[Finished] = deque()
        self._failing = False

    def ended(self, live: LiveTrace, ids: SpanIds) -> None:
        """A request has ended. Costs one append."""
        if len(self._waiting) >= MOST_WAITING:
            self.dropped += 1
        else:
            self._waiting.append(Finished(ids, live))

    def counts(self) -> Mapping[str, int]:
        return {"exported": self.exported, "dropped": self.dropped}

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(EXPORT_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Send what waits."""
        while self._waiting:
            size = min(BATCH, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(size)]
            if await asyncio.to_thread(self._send, batch):
                self.exported += len(batch)
                self._failing = False
                continue
            self.dropped += len(batch)
            if not self._failing:
                log.warning("OpenTelemetry: the receiver takes no spans; they are dropped")
            self._failing = True
            return

    async def close(self) -> None:
        """Send the rest, for a moment."""
        try:
            await asyncio.wait_for(self.flush(), LAST_SECONDS)
        except TimeoutError:
            log.warning("OpenTelemetry: %d requests were not told in time", len(self._waiting))
        await asyncio.to_thread(self._exporter.shutdown)

    def _send(self, batch: Sequence[Finished]) -> bool:
        from opentelemetry.sdk.trace.export import SpanExportResult

        spans = [span for one in batch for span in spans_of(one, self._resource)]
        return self._exporter.export(spans) is SpanExportResult.SUCCESS


def spans_of(one: Finished, resource: Resource) -> list[ReadableSpan]:
    """The request, its wait for admission, and its attempts."""
    from opentelemetry.sdk.trace import Event, ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanKind, Status, StatusCode

    trace, ids = one.trace, one.ids
    start = trace.arrived_us * 1000
    scope = InstrumentationScope(SCOPE)

    def span(
        name: str,
        span_id: str,
        parent: SpanContext | None,
        kind: SpanKind,
        times: tuple[int, int],
        attributes: Attributes,
        failed: TraceError | None = None,
        events: Sequence[Event] = (),
    ) -> ReadableSpan:
        return ReadableSpan(
            name=name,
            context=_context(ids, span_id, remote=False),
            parent=parent,
            resource=resource,
            attributes=attributes,
            events=events,
            kind=kind,
            instrumentation_scope=scope,
            status=Status() if failed is None else Status(StatusCode.ERROR, failed.message),
            start_time=times[0],
            end_time=times[1],
        )

    caller = None if ids.parent_id is None else _context(ids, ids.parent_id, remote=True)
    own = _context(ids, ids.span_id, remote=False)
    events = []
    if trace.ttft_seconds is not None:
        events.append(Event("first token", timestamp=start + _ns(trace.ttft_seconds)))
    whole = (start, start + _ns(trace.duration_seconds or 0.0))
    spans = [
        span(
            f"{trace.method} {trace.route}",
            *(ids.span_id, caller, SpanKind.SERVER, whole, request_attributes(one)),
            trace.error,
            events,
        )
    ]
    if trace.queue_seconds is not None:
        waited = (start, start + _ns(trace.queue_seconds))
        spans.append(span("admission", ids.attempt_id(QUEUE), own, SpanKind.INTERNAL, waited, {}))
    operation = OPERATIONS.get(trace.route or "", trace.route or "")
    for number, attempt in enumerate(trace.attempts, start=1):
        begun = int(datetime.fromisoformat(attempt.started_at).timestamp() * 1000) * 1_000_000
        begun = max(begun, start)  # it is cut to milliseconds, the request's own start is not
        times = (begun, begun + _ns(attempt.duration_seconds or 0.0))
        name = f"{operation} {trace.model}" if trace.model else operation
        attributes = attempt_attributes(one, attempt, last=number == len(trace.attempts))
        spans.append(
            span(
                name,
                ids.attempt_id(number),
                own,
                *(SpanKind.CLIENT, times, attributes, attempt.error),
            )
        )
    return spans


def request_attributes(one: Finished) -> Attributes:
    trace, decision = one.trace, one.trace.decision
    return known(
        {
            "http.request.method": trace.method,
            "url.path": trace.route,
            "http.route": trace.route,
            "http.response.status_code": trace.http_status,
            "error.type": None if trace.error is None else trace.error.type,
            **gen_ai(trace),
            "llm_router.request_id": trace.request_id,
            "llm_router.key": trace.key,
            "llm_router.status": trace.status,
            "llm_router.node_id": trace.node_id,
            "llm_router.policy": trace.routing_policy,
            "llm_router.reason": None if decision is None else decision.reason,
            "llm_router.queue_size": trace.queue_size,
            "llm_router.queue_seconds": trace.queue_seconds,
            "llm_router.cache_hit_rate": trace.cache_hit_rate,
            "llm_router.predicted_cached_tokens": trace.predicted_cached_tokens,
            "llm_router.label": trace.label,
        }
    )


def attempt_attributes(one: Finished, attempt: Attempt, *, last: bool) -> Attributes:
    url, _, port = attempt.worker_url.rstrip("/").rpartition(":")
    return known(
        {
            "server.address": url.partition("://")[2].strip("[]"),
            "server.port": int(port) if port.isdecimal() else None,
            "http.response.status_code": attempt.http_status,
            "error.type": None if attempt.error is None else attempt.error.type,
            **(gen_ai(one.trace) if last else {"gen_ai.request.model": one.trace.model}),
            "llm_router.node_id": attempt.node_id,
            "llm_router.worker_origin": attempt.worker_origin,
            "llm_router.leg": attempt.leg,
        }
    )


def gen_ai(trace: LiveTrace) -> dict[str, Value | None]:
    """The names that are agreed upon for requests to models; all of them still in development."""
    reason = None if trace.engine is None else trace.engine.finish_reason
    return {
        "gen_ai.operation.name": OPERATIONS.get(trace.route or ""),
        "gen_ai.request.model": trace.model,
        "gen_ai.request.stream": trace.stream,
        "gen_ai.response.id": trace.engine_request_id,
        "gen_ai.response.finish_reasons": None if reason is None else (reason,),
        "gen_ai.response.time_to_first_chunk": trace.ttft_seconds,
        "gen_ai.usage.input_tokens": trace.input_tokens,
        "gen_ai.usage.output_tokens": trace.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": trace.cached_tokens,
        "gen_ai.conversation.id": trace.session_id,
    }


def known(attributes: Mapping[str, Value | None]) -> Attributes:
    return {name: value for name, value in attributes.items() if value is not None}


def _context(ids: SpanIds, span_id: str, *, remote: bool) -> SpanContext:
    from opentelemetry.trace import SpanContext, TraceFlags

    flags = TraceFlags(TraceFlags.SAMPLED)
    return SpanContext(int(ids.trace_id, 16), int(span_id, 16), remote, flags)


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
