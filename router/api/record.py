"""The trace of one request, written down as the request goes.

`Recorder` opens records; a `RequestRecord` turns what happens (routed, answered, broken, gone)
into fields and statuses of the trace. It does no I/O and never awaits: `put` hands the live trace
to the tracker's writer, which commits it later.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from router.clock import Clock
from router.core.facts import RequestFacts, identifier
from router.core.prefix import landmarks
from router.core.usage import AnswerFacts
from router.core.worker import Worker
from router.decision_csv import DecisionCsv
from router.telemetry.spans import SpanIds
from tracking.lifecycle import LiveTrace
from tracking.trace import (
    NO_NODE,
    NO_WORKER_URL,
    Attempt,
    Decision,
    Leg,
    Status,
    Trace,
    TraceError,
    rfc3339,
)

PREFIX_HASH_LIMIT = 64  # one for each 2 KiB of prompt

Put = Callable[[LiveTrace], None]
TellSpans = Callable[[LiveTrace, SpanIds], None]


class Opening(msgspec.Struct):
    """What is known of a request when its head has been read."""

    request_id: str
    key: str
    route: str
    method: str
    trace_id: str | None
    session_id: str | None
    label: str | None
    span_ids: SpanIds | None = None  # where OpenTelemetry is told


class RequestRecord:
    """One request's trace. Every method takes `now` in monotonic seconds."""

    __slots__ = (
        "_arrived", "_attempt", "_attempt_started", "_clock", "_csv", "_prefill",
        "_prefill_started", "_put", "_span_ids", "_tell_spans", "live",
    )  # fmt: skip

    def __init__(
        self, live: LiveTrace, arrived: float, clock: Clock, put: Put, csv: DecisionCsv | None
    ) -> None:
        self.live = live
        self._arrived = arrived
        self._clock = clock
        self._put = put
        self._csv = csv
        self._attempt: Attempt | None = None
        self._attempt_started = 0.0
        self._prefill: Attempt | None = None
        self._prefill_started = 0.0
        self._span_ids: SpanIds | None = None
        self._tell_spans: TellSpans | None = None
        put(live)

    def tell_spans(self, tell: TellSpans, ids: SpanIds) -> None:
        """`tell` is told of the end."""
        self._tell_spans, self._span_ids = tell, ids

    def understood(self, facts: RequestFacts) -> None:
        """The body has been read."""
        trace = self.live.trace
        trace.model = facts.model
        trace.served_model = facts.served_model
        trace.stream = facts.stream
        if facts.session_id is not None:
            trace.session_id = facts.session_id
        elif trace.session_id is None:
            trace.session_id = identifier(facts.routing_key)
        trace.engine_request_id = facts.engine_request_id
        self.live.detail.prefix_hashes = [
            f"{prefix:016x}" for prefix in landmarks(facts.blocks, PREFIX_HASH_LIMIT)
        ]

    def prefilling(self, worker: Worker, decision: Decision, now: float) -> None:
        """A worker was chosen for the prefill alone; `routed` follows, for the decode."""
        trace, detail = self.live.trace, self.live.detail
        trace.prefill_node_id = worker.node_id
        trace.prefill_worker_url = worker.url
        detail.prefill_decision = decision
        self._prefill_started = now
        self._prefill = self._begin(worker, now, "prefill")
        if self._csv is not None:
            self._csv.decided(trace.request_id, decision, self._clock.unix_us(now))

    def prefill_ended(self, now: float, http_status: int | None, error: TraceError | None) -> float:
        """The prefill that `prefilling` began is over; how long it took, in seconds."""
        duration = seconds(now - self._prefill_started)
        attempt, self._prefill = self._prefill, None
        if attempt is not None:
            _end(attempt, duration, http_status, error)
        return duration

    def decoding(self, now: float) -> None:
        """The attempt begins only now, as the prefill had to come first."""
        self._attempt_started = now
        if self._attempt is not None:
            self._attempt.started_at = rfc3339(self._clock.unix_us(now))

    def routed(
        self,
        worker: Worker,
        decision: Decision,
        *,
        queue_size: int,
        prefill_tokens: int,
        predicted_cached_tokens: int | None,
        predicted_hit_rate: float | None,
        now: float,
    ) -> None:
        """A worker was chosen, for the first or for another attempt."""
        trace, detail = self.live.trace, self.live.detail
        trace.node_id = worker.node_id
        trace.worker_url = worker.url
        trace.worker_origin = worker.origin
        trace.routing_policy = decision.policy
        trace.queue_size = queue_size
        trace.prefill_tokens = prefill_tokens
        trace.predicted_cached_tokens = predicted_cached_tokens
        trace.cache_hit_rate = predicted_hit_rate
        trace.cache_source = None if predicted_hit_rate is None else "predicted"
        if trace.queue_seconds is None:
            trace.queue_seconds = seconds(now - self._arrived)
        detail.decision = decision
        self._attempt_started = now
        self._attempt = self._begin(worker, now, None if self._prefill is None else "decode")
        self.live.move("routed")
        self._put(self.live)
        if self._csv is not None:
            self._csv.decided(trace.request_id, decision, self._clock.unix_us(now))

    def attempt_ended(self, now: float, http_status: int | None, error: TraceError | None) -> float:
        """The attempt that `routed` began is over; how long it took, in seconds."""
        duration = seconds(now - self._attempt_started)
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            _end(attempt, duration, http_status, error)
        return duration

    def _begin(self, worker: Worker, now: float, leg: Leg | None) -> Attempt:
        started_at = rfc3339(self._clock.unix_us(now))
        attempt = Attempt(
            worker.node_id, worker.url, started_at, leg=leg, worker_origin=worker.origin
        )
        self.live.detail.attempts.append(attempt)
        return attempt

    def processing(self, http_status: int) -> None:
        """An answer's head was accepted for relaying."""
        self.live.trace.http_status = http_status
        self.live.move("processing")
        self._put(self.live)

    def known_as(self, engine_request_id: str) -> None:
        """A stream has told the engine's id: the request can be found, and aborted, by it."""
        self.live.trace.engine_request_id = engine_request_id
        self._put(self.live)

    def answered(self, answer: AnswerFacts, first_byte_at: float | None) -> None:
        """What the worker's bytes said, as far as they came."""
        trace = self.live.trace
        trace.input_tokens = answer.input_tokens
        trace.output_tokens = answer.output_tokens
        trace.cached_tokens = answer.cached_tokens
        trace.engine = answer.engine
        if answer.engine_request_id is not None:
            trace.engine_request_id = answer.engine_request_id
        if trace.stream and first_byte_at is not None:
            trace.ttft_seconds = seconds(first_byte_at - self._arrived)
        if answer.cached_tokens is not None and answer.input_tokens:
            trace.cache_hit_rate = round(min(1.0, answer.cached_tokens / answer.input_tokens), 4)
            trace.cache_source = "engine"

    def ended(
        self,
        status: Status,
        now: float,
        *,
        http_status: int | None = None,
        error: TraceError | None = None,
    ) -> None:
        """The one terminal status. Never awaits; called from `finally`."""
        trace = self.live.trace
        if http_status is not None:
            trace.http_status = http_status
        trace.error = error
        trace.duration_seconds = seconds(now - self._arrived)
        trace.completion_time = rfc3339(self._clock.unix_us(now))
        self.live.move(status)
        self._put(self.live)
        if self._csv is not None:
            self._csv.ended(trace, self._clock.unix_us(now))
        if self._tell_spans is not None and self._span_ids is not None:
            self._tell_spans(self.live, self._span_ids)


def _end(
    attempt: Attempt, duration: float, http_status: int | None, error: TraceError | None
) -> None:
    attempt.duration_seconds = duration
    attempt.http_status = http_status
    attempt.error = error


class Recorder:
    """Opens the record of each request."""

    def __init__(
        self,
        put: Put,
        clock: Clock,
        router_id: str,
        policy: str,
        csv: DecisionCsv | None = None,
        tell_spans: TellSpans | None = None,
    ) -> None:
        self._put = put
        self._tell_spans = tell_spans
        self._clock = clock
        self._router_id = router_id
        self._policy = policy
        self._csv = csv

    def open(self, opening: Opening, arrived: float) -> RequestRecord:
        arrived_us = self._clock.unix_us(arrived)
        trace = Trace(
            request_id=opening.request_id,
            node_id=NO_NODE,
            worker_url=NO_WORKER_URL,
            routing_policy=self._policy,
            status="queued",
            timestamp=rfc3339(arrived_us),
            cache_hit_rate=None,
            queue_size=0,
            key=opening.key,
            route=opening.route,
            method=opening.method,
            router_id=self._router_id,
            trace_id=opening.trace_id,
            session_id=opening.session_id,
            label=opening.label,
        )
        live = LiveTrace(trace, arrived_us)
        record = RequestRecord(live, arrived, self._clock, self._put, self._csv)
        ids = opening.span_ids
        if ids is not None and ids.sampled and self._tell_spans is not None:
            record.tell_spans(self._tell_spans, ids)
        return record


def seconds(duration: float) -> float:
    """Microsecond precision: more digits are noise and bytes. For what is not negative."""
    return int(duration * 1e6 + 0.5) / 1e6  # a third of the cost of round()
