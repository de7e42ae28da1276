"""The trace of one request, written down as the request goes.

`Recorder` opens records; a `RequestRecord` turns what happens (routed, answered, broken, gone)
into fields and statuses of the trace. It does no I/O and never awaits: `put` hands the live trace
to the tracker's writer, which commits it later.
"""

from __future__ import annotations

from collections.abc import Callable

from router.api.incoming import Incoming
from router.api.leg import Leg
from router.clock import Clock
from router.core.answers import AnswerFacts
from router.core.blocks import landmarks
from router.core.facts import RequestFacts
from router.core.ids import identifier
from router.core.rounding import rounded, rounded_share
from router.decision_csv import DecisionCsv
from router.telemetry.spans import SpanIds
from tracking.lifecycle import LiveTrace
from tracking.trace import (
    Attempt,
    LegKind,
    Status,
    TraceError,
    rfc3339,
)

Put = Callable[[LiveTrace], None]
TellSpans = Callable[[LiveTrace, SpanIds], None]


class RequestRecord:
    """One request's trace. Every method takes `now` in monotonic seconds.

    `arrived`, `sent_at` (the first time to a worker) and `head_at` (of the answer that is relayed) are
    such, too; None where that point was never reached.
    """

    __slots__ = (
        "_clock", "_csv", "_put", "_span_ids", "_tell_spans", "arrived", "head_at", "live", "sent_at",
    )  # fmt: skip

    def __init__(
        self, live: LiveTrace, arrived: float, clock: Clock, put: Put, csv: DecisionCsv | None
    ) -> None:
        self.live = live
        self.arrived = arrived
        self.sent_at: float | None = None
        self.head_at: float | None = None
        self._clock = clock
        self._put = put
        self._csv = csv
        self._span_ids: SpanIds | None = None
        self._tell_spans: TellSpans | None = None

    def tell_spans(self, tell: TellSpans, ids: SpanIds) -> None:
        """`tell` is told of the end."""
        self._tell_spans, self._span_ids = tell, ids

    def waiting(self) -> None:
        """It is to be seen before a worker is chosen: it must wait for its body, or in line."""
        self._put(self.live)

    def understood(self, facts: RequestFacts) -> None:
        """The body has been read."""
        live = self.live
        live.model = facts.model
        live.served_model = facts.served_model
        live.stream = facts.stream
        if facts.session_id is not None:
            live.session_id = facts.session_id
        elif live.session_id is None:
            live.session_id = identifier(facts.routing_key)
        live.engine_request_id = facts.engine_request_id
        live.prefix_hashes = [prefix.to_bytes(8).hex() for prefix in landmarks(facts.blocks)]

    def prefilling(self, leg: Leg, now: float) -> None:
        """A worker was chosen for the prefill alone; `routed` follows, for the decode."""
        live, worker = self.live, leg.worker
        live.prefill_node_id = worker.node_id
        live.prefill_worker_url = worker.url
        live.prefill_decision = leg.decision
        self._begin(leg, now, "prefill")

    def decoding(self, leg: Leg, now: float) -> None:
        """The attempt begins only now, as the prefill had to come first."""
        leg.began = now
        if leg.attempt is not None:
            leg.attempt.started_at = rfc3339(self._clock.unix_us(now))

    def routed(self, leg: Leg, prefill: Leg, now: float) -> None:
        """A worker was chosen, for the first or for another attempt. `prefill` is the leg that the
        prefill is part of: the same, but where that is another worker's."""
        live, worker, choice = self.live, leg.worker, prefill.choice
        live.node_id = worker.node_id
        live.worker_url = worker.url
        live.worker_origin = worker.origin
        live.routing_policy = leg.decision.policy
        live.queue_size = leg.queue_size
        live.prefill_tokens = prefill.worker.queued_tokens
        live.predicted_cached_tokens = choice.predicted_cached_tokens
        live.cache_hit_rate = choice.predicted_hit_rate
        live.cache_source = None if choice.predicted_hit_rate is None else "predicted"
        if live.queue_seconds is None:
            live.queue_seconds = rounded(now - self.arrived)
        live.decision = leg.decision
        self._begin(leg, now, None if prefill is leg else "decode")
        live.move("routed")
        self._put(live)

    def _begin(self, leg: Leg, now: float, kind: LegKind | None) -> None:
        worker = leg.worker
        began_us = self._clock.unix_us(now)
        leg.began = now
        leg.attempt = Attempt(
            worker.node_id,
            worker.url,
            rfc3339(began_us),
            None,
            None,
            None,
            kind,
            worker.origin,
        )
        self.live.attempts.append(leg.attempt)
        if self._csv is not None:
            self._csv.decided(self.live.request_id, leg.decision, began_us)

    def processing(self, http_status: int, now: float) -> None:
        """An answer's head was accepted for relaying."""
        live = self.live
        self.head_at = now
        live.http_status = http_status
        live.move("processing")
        self._put(live)

    def known_as(self, engine_request_id: str) -> None:
        """A stream has told the engine's id: the request can be found, and aborted, by it."""
        self.live.engine_request_id = engine_request_id
        self._put(self.live)

    def answered(self, answer: AnswerFacts, first_token_at: float | None) -> None:
        """What the worker's bytes said, as far as they came."""
        live = self.live
        live.input_tokens = answer.input_tokens
        live.output_tokens = answer.output_tokens
        live.cached_tokens = answer.cached_tokens
        live.engine = answer.engine
        if answer.engine_request_id is not None:
            live.engine_request_id = answer.engine_request_id
        if live.stream and first_token_at is not None:
            live.ttft_seconds = rounded(first_token_at - self.arrived)
        if answer.cached_tokens is not None and answer.input_tokens:
            rate = min(1.0, answer.cached_tokens / answer.input_tokens)
            live.cache_hit_rate = rounded_share(rate)
            live.cache_source = "engine"

    def ended(
        self,
        status: Status,
        now: float,
        http_status: int | None,
        error: TraceError | None,
    ) -> None:
        """The one terminal status. Never awaits; called from `finally`."""
        live = self.live
        ended_us = self._clock.unix_us(now)
        if http_status is not None:
            live.http_status = http_status
        live.error = error
        live.duration_seconds = rounded(now - self.arrived)
        live.completion_time = rfc3339(ended_us)
        live.move(status)
        self._put(live)
        if self._csv is not None:
            self._csv.ended(live.row(), ended_us)
        if self._tell_spans is not None and self._span_ids is not None:
            self._tell_spans(live, self._span_ids)


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

    def open(self, incoming: Incoming) -> RequestRecord:
        live = LiveTrace(incoming.key, incoming.request_id, self._policy, incoming.arrived_us)
        live.route = incoming.path
        live.method = incoming.request.method
        live.router_id = self._router_id
        live.trace_id = incoming.trace_id
        live.label = incoming.trace_label
        record = RequestRecord(live, incoming.arrived, self._clock, self._put, self._csv)
        ids = incoming.span_ids
        if ids is not None and ids.sampled and self._tell_spans is not None:
            record.tell_spans(self._tell_spans, ids)
        return record
