"""Forwarding: the life of one inference request, from its head to its trace.

    read body -> facts -> admission -> [ choose worker -> connect -> relay ] -> trace

The bracket is an attempt; it repeats (another worker) only while nothing has gone to the client.
Whatever happens, `finally` releases the worker and writes exactly one terminal status, without
awaiting: when a client leaves, this coroutine is cancelled at whatever it awaits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from typing import Final, NamedTuple, TypeVar

import msgspec

from router.api.connection import ClientConnection
from router.api.forwarding import Forwarding, Incoming
from router.api.gate import Ticket
from router.api.guard import CLOSE, Said, raw_error
from router.api.http import retry_after
from router.api.record import seconds
from router.api.relay import ClientFacts, Exchange, Framing
from router.api.request import Request
from router.core.breaker import Permit, Verdict, verdict
from router.core.engines import engine_named
from router.core.facts import JSON_ROUTES, BadBody, RequestFacts, read_facts
from router.core.headers import RawHeaders
from router.core.outcome import answer_trouble, attempt_trouble, terminal_status, trace_error
from router.core.retry import (
    Failure,
    GiveUp,
    Situation,
    next_move,
    parse_retry_after,
)
from router.core.rid import TAKES_RID, with_rid
from router.core.splice import with_field
from router.core.usage import AnswerFacts, ResponseScanner
from router.core.worker import Worker
from router.errors import (
    BadRequest,
    ClientGone,
    ConnectFailed,
    FirstByteTimeout,
    IdleTimeout,
    InternalError,
    NoWorker,
    OtherLegFailed,
    PrefillRefused,
    RequestTimeout,
    RouterError,
    RouterStopped,
    StaleConnection,
    TotalTimeout,
    UpstreamError,
)
from router.fleet import Group
from router.metrics import WorkerSeries
from router.policies.base import Choice, NoTarget
from router.policies.receipt import receipt
from router.upstream.connection import AnswerHead, UpstreamConnection
from router.upstream.pool import ConnectionPool
from tracking.trace import Decision, TraceError

STOPPED: Final = "the router was stopped before the answer was whole"
ABORTING: Final = (ClientGone, FirstByteTimeout, IdleTimeout, TotalTimeout)

log = logging.getLogger("router.requests")

E = TypeVar("E", bound=Exchange)


class Picked(NamedTuple):
    """A choice that holds: the permit must be given back. `queue_size`: in flight there before."""

    choice: Choice
    permit: Permit
    series: WorkerSeries
    decision: Decision
    queue_size: int


class Run:
    """One request while it runs: what it holds and must give back."""

    def __init__(self, shared: Forwarding, incoming: Incoming) -> None:
        request = incoming.request
        http11 = request.http11
        self.shared = shared
        self.incoming = incoming
        self.record = shared.recorder.open(incoming.opening, incoming.arrived)
        self.client_facts = ClientFacts(
            http11=http11,
            keep_alive=request.keep_alive and not shared.fleet.draining,
            head_request=request.method == "HEAD",
            accepts_trailers=http11 and "trailers" in request.headers.get("te", ""),
        )
        self.body = b""
        self.facts = RequestFacts(route=incoming.path)
        self.own_rid: str | None = None  # the engine's id of this request, where we chose it
        self.group = shared.group  # whom this request may go to
        self.ticket: Ticket | None = None
        self.worker: Worker | None = None
        self.series: WorkerSeries | None = None  # of the last worker, which may be gone by the end
        self.permit: Permit | None = None
        self.exchange: Exchange | None = None
        self.tried: list[Worker] = []
        self.queued_tokens = 0  # at the worker, until its first byte
        self.pause_seconds = 0.0  # before the next attempt
        self.sent_at: float | None = None
        self.head_at: float | None = None

    async def run(self) -> bool:
        """Whether the client's connection may stay."""
        shared, request = self.shared, self.incoming.request
        shared.open_requests += 1
        shared.metrics.request_received(self.incoming.label, request.method)
        shared.budget.request(self.incoming.arrived)
        error: RouterError | None = None
        try:
            await self.admit()
            stay = await self.attempts()
            error = None if self.exchange is None else self.exchange.error
            return stay
        except RouterError as raised:
            # Its traceback holds the frames that hold it: a circle, too.
            error = raised.with_traceback(None)
        except asyncio.CancelledError:
            error = self.why_cancelled()
            raise
        except Exception:
            error = InternalError("internal error")
            name = self.incoming.opening.request_id
            log.exception("request %s to %s crashed", name, self.incoming.target[:200])
        finally:
            # No await from here on: this also runs when the client has left.
            self.end_attempt(error)
            if self.ticket is not None:
                shared.gate.leave(self.ticket)
            shared.open_requests -= 1
            self.finish(error)
            relayed = self.exchange is not None and self.exchange.relayed
            self.exchange = None  # it knows us, too: a circle that only the collector would free
        if relayed:
            return False
        return refuse(self.incoming.client, request, error, self.incoming.answer_headers)

    def why_cancelled(self) -> RouterError:
        return RouterStopped(STOPPED) if self.shared.stopping else ClientGone("the client left")

    async def admit(self) -> None:
        """Body, facts, and a place. Raises what `read` and the gate raise, and RequestTimeout."""
        shared, total = self.shared, self.shared.settings.limits.total_seconds
        whole = self.incoming.request.whole
        if whole or total is None:  # then reading does not wait, or may
            await self.read()
        if total is None:
            self.ticket = await shared.gate.enter()
            return
        now = shared.clock.now()
        if whole:
            self.ticket = shared.gate.try_enter(now)
            if self.ticket is not None:
                return  # as most do: no timer is set for what does not wait
        try:
            async with asyncio.timeout(self.incoming.arrived + total - now):
                if not whole:
                    await self.read()
                self.ticket = await shared.gate.enter()
        except TimeoutError:
            raise RequestTimeout(f"the request took longer than {total:g} s") from None

    async def read(self) -> None:
        """Body and facts, and who serves the model. Raises BadRequest, TooLarge, ModelNotFound,
        NoWorker."""
        request, models = self.incoming.request, self.shared.models
        self.body = await request.body(self.shared.settings.max_payload_bytes)
        if self.body or request.method == "POST":
            try:
                headers = request.headers
                self.facts = read_facts(
                    self.incoming.path,
                    self.body,
                    headers.get("content-type", ""),
                    headers,
                    None if models is None else models.aliases,
                )
            except BadBody as error:
                raise BadRequest(str(error)) from None
            if self.shared.settings.inject_rid:
                self.choose_rid()
        if self.facts.target_worker is not None:
            self.facts.target_worker = self.shared.fleet.named(self.facts.target_worker)
        self.record.understood(self.facts)
        if models is not None and (self.body or request.method == "POST"):
            self.group = models.group(self.facts)
            self.name_model()

    def name_model(self) -> None:
        """Tell the worker what an alias stands for. A form, or what is compressed, stays as it is."""
        model = self.facts.served_model
        if model is not None and "content-encoding" not in self.incoming.request.headers:
            self.body = with_field(self.body, b"model", msgspec.json.encode(model)) or self.body

    def choose_rid(self) -> None:
        """Give the engine an id of ours for a single prompt, so that it can be aborted."""
        if self.incoming.path not in TAKES_RID or self.facts.sequences != 1:
            return
        rid = self.incoming.opening.key
        body = with_rid(self.body, rid)
        if body is not None and "content-encoding" not in self.incoming.request.headers:
            self.body = body
            self.own_rid = self.facts.engine_request_id = rid

    # -- attempts --------------------------------------------------------------------------

    async def attempts(self) -> bool:
        """Try workers until one answers; whether the client's connection may stay.

        Raises NoWorker and the errors of the last attempt.
        """
        while True:
            try:
                self.choose()
            except NoWorker:
                # Where the last worker failed and is out now, its failure says more than "none".
                if self.exchange is not None and self.exchange.error is not None:
                    raise self.exchange.error from None
                raise
            exchange = await self.attempt()
            if exchange.error is None and exchange.refused is None:
                await self.drain()
                return self.client_facts.keep_alive and not exchange.until_close
            if exchange.relayed:
                return self.break_off(exchange)
            if exchange.error is not None and not self.try_again(Failure(error=exchange.error)):
                raise exchange.error
            self.end_attempt(exchange.error)
            if self.pause_seconds > 0:
                await asyncio.sleep(self.pause_seconds)

    def choose(self) -> None:
        """Take a worker, and its permit, and write down why. Raises NoWorker."""
        now = self.shared.clock.now()
        picked = self.pick(self.group, self.tried, now)
        choice, worker = picked.choice, picked.choice.worker
        self.worker, self.permit, self.series = worker, picked.permit, picked.series
        self.tried.append(worker)
        self.queued_tokens = self.facts.input_tokens - (choice.predicted_cached_tokens or 0)
        worker.queue(self.queued_tokens)
        self.shared.caches.routed(self.facts.blocks, worker)
        self.record.routed(
            worker,
            picked.decision,
            queue_size=picked.queue_size,
            prefill_tokens=worker.queued_tokens,
            predicted_cached_tokens=choice.predicted_cached_tokens,
            predicted_hit_rate=choice.predicted_hit_rate,
            now=now,
        )

    def pick(self, group: Group, tried: Collection[Worker], now: float) -> Picked:
        """One of `group`, with its permit. Raises NoWorker."""
        shared = self.shared
        candidates = group.candidates(now, tried)
        if not candidates:
            raise NoWorker(group.why_none())
        try:
            choice = group.policy.choose(self.facts, candidates, now)
        except NoTarget as reason:
            raise NoWorker(str(reason)) from None
        worker = choice.worker
        queue_size = worker.load
        permit = worker.begin(now)
        if permit is None:  # its breaker's last probe was taken between the two questions
            raise NoWorker(group.why_none())
        limit = shared.settings.receipt_candidates
        decision = receipt(
            choice,
            candidates,
            policy=group.policy.name,
            decision_seconds=seconds(shared.clock.now() - now),
            limit=None if limit is None else limit + 1,
            load_age_seconds=seconds(shared.fleet.others.age_seconds(now)),
            quality=shared.fleet.others.quality(now),
        )
        series = shared.metrics.worker(worker)
        series.chose(group.policy.name, choice.reason)
        shared.metrics.decided(decision)
        return Picked(choice, permit, series, decision, queue_size)

    async def attempt(self) -> Exchange:
        """One worker's answer, relayed; or why it was not."""
        assert self.worker is not None
        self.exchange = exchange = self.relaying(Exchange)
        await self.carry(exchange, self.worker, self.body)
        return exchange

    def relaying(self, kind: type[E]) -> E:
        """An exchange between the worker that was chosen and the client."""
        assert self.series is not None
        exchange = kind(
            self.incoming.client,
            self.client_facts,
            self.shared.settings.limits,
            ResponseScanner(self.incoming.path, self.facts.stream),
            arrived=self.incoming.arrived,
            now=self.shared.clock.now,
            on_head=self.head_received,
            on_gap=self.series.observe_gap,
        )
        exchange.on_first_byte = self.prefilled
        if self.facts.engine_request_id is None:
            exchange.on_engine_id = self.record.known_as
        return exchange

    def headers_for(self, worker: Worker) -> RawHeaders:
        """The client's; with OpenTelemetry, this attempt is the parent of what the worker does."""
        raw = self.incoming.request.raw_headers
        ids = self.incoming.opening.span_ids
        if ids is None:
            return raw
        attempts = self.record.live.detail.attempts
        at = [n for n, one in enumerate(attempts, start=1) if one.node_id == worker.node_id]
        return ids.headers(raw, at[-1] if at else len(attempts))

    async def carry(self, exchange: Exchange, worker: Worker, body: bytes) -> None:
        """Send the request to `worker`, with this body, and wait for the end of `exchange`."""
        shared = self.shared
        if worker.rank is not None:
            body = self.pinned(worker, worker.rank, body)
        pool = shared.pools.of(worker)
        shared.watch.add(exchange)
        connection = None
        try:
            # What must not be repeated never goes onto a connection that may just be closing.
            connection = pool.take_idle(shared.clock.now()) if self.incoming.generates else None
            head = shared.headers.request_head(
                self.incoming.request.method,
                self.incoming.target,
                self.headers_for(worker),
                worker=worker,
                request_id=self.incoming.opening.request_id,
                content_length=len(body) if self.incoming.request.has_body else None,
            )
            if connection is None:
                connection = await self.connect(pool)
            if self.sent_at is None:
                self.sent_at = shared.clock.now()
            exchange.begin(connection, head, body)
            await exchange.done
            if isinstance(exchange.error, StaleConnection):
                # Closed by the worker before any byte: the request cannot have been acted upon.
                connection = await self.connect(pool)
                exchange.begin(connection, head, body)
                await exchange.done
        except UpstreamError as error:
            exchange.error = error
        finally:
            shared.watch.discard(exchange)
            exchange.abort()
            # Also when the client left just as its answer ended: nobody else would close it.
            if connection is not None:
                pool.give_back(connection, shared.clock.now())

    def pinned(self, worker: Worker, rank: int, body: bytes) -> bytes:
        """The body for one rank. The head says it too, but SGLang reads that only in new versions."""
        if (
            worker.engine != "sglang"
            or self.incoming.path not in JSON_ROUTES
            or "content-encoding" in self.incoming.request.headers
        ):
            return body
        return with_field(body, b"data_parallel_rank", b"%d" % rank) or body

    async def connect(self, pool: ConnectionPool) -> UpstreamConnection:
        """A new connection. Raises ConnectFailed, and TotalTimeout before that takes too long."""
        total = self.shared.settings.limits.total_seconds
        if total is None:
            return await pool.connect()
        try:
            async with asyncio.timeout(self.incoming.arrived + total - self.shared.clock.now()):
                return await pool.connect()
        except TimeoutError:
            raise TotalTimeout(f"the request took longer than {total:g} s") from None

    def prefilled(self) -> None:
        """The worker has gone through the input. Harmless when it had before."""
        if self.worker is not None:
            self.worker.prefilled(self.queued_tokens)
        self.queued_tokens = 0

    def head_received(self, head: AnswerHead, framing: Framing) -> bytes | None:
        """Called by the exchange: the head for the client, or None when we try again instead."""
        worker, permit = self.worker, self.permit
        assert worker is not None and permit is not None
        worker.answered(permit, verdict(head.status))
        if head.status >= 400:
            value = next((v for n, v in head.headers if n.lower() == b"retry-after"), None)
            asked = parse_retry_after(
                value.decode("latin-1") if value is not None else None,
                self.shared.clock.unix_us() / 1e6,
            )
            if self.try_again(Failure(http_status=head.status, retry_after_seconds=asked)):
                return None
        answer = self.shared.headers.response_head(
            head,
            framing,
            worker=worker,
            own=self.incoming.answer_headers,
            http11=self.client_facts.http11,
            keep_alive=self.client_facts.keep_alive,
        )
        self.head_at = self.shared.clock.now()  # not before: a head that is refused is retried
        self.record.processing(head.status)
        return answer

    def try_again(self, failure: Failure) -> bool:
        """Whether to make another attempt, and after which pause."""
        shared, now = self.shared, self.shared.clock.now()
        total = shared.settings.limits.total_seconds
        move = next_move(
            failure,
            Situation(
                attempts=len(self.tried),
                others_left=self.others_left(now),
                repeatable=self.incoming.generates,
                remaining_seconds=None if total is None else self.incoming.arrived + total - now,
            ),
            shared.settings.retry,
            shared.budget,
            shared.random,
            now,
        )
        if isinstance(move, GiveUp):
            return False
        self.pause_seconds = move.after_seconds
        return True

    def others_left(self, now: float) -> bool:
        """Is there somewhere to go to that was not tried yet?"""
        return self.group.others_left(now, self.tried)

    # -- ends ------------------------------------------------------------------------------

    async def drain(self) -> None:
        """An answer counts as delivered when a client that fell behind has taken it."""
        if self.incoming.client.writing_paused:
            await self.incoming.client.drained()

    def break_off(self, exchange: Exchange) -> bool:
        """The answer broke after a part of it was relayed: the client must not take it for whole.

        Whether its connection may stay.
        """
        if exchange.break_client(error_frame=self.shared.settings.sse_error_frames):
            return self.client_facts.keep_alive
        self.incoming.client.break_off(reset=exchange.until_close)
        return False

    def end_attempt(self, error: RouterError | None) -> None:
        """Give worker and permit back, and say how the attempt went. Harmless without one."""
        worker, permit, exchange = self.worker, self.permit, self.exchange
        series = self.series
        if worker is None or permit is None or series is None:
            return
        now = self.shared.clock.now()
        self.prefilled()
        status, trouble = give_back(worker, permit, exchange, error, now)
        self.worker = self.permit = None
        duration = self.record.attempt_ended(now, status, trouble)
        kind = None if trouble is None or isinstance(error, OtherLegFailed) else trouble.type
        series.attempt_ended(status, kind, duration)

    def finish(self, error: RouterError | None) -> None:
        """The one terminal status."""
        shared, exchange = self.shared, self.exchange
        now = shared.clock.now()
        trouble = None if error is None else trace_error(error)
        http_status = None if error is None else error.status
        if exchange is not None and exchange.head is not None:
            http_status = exchange.head.status
            answer = self.answer_facts(exchange)
            self.record.answered(answer, exchange.first_byte_at)
            if answer.cached_tokens is not None:
                expected = self.record.live.trace.predicted_cached_tokens
                shared.caches.reported(self.workers[0], expected, answer.cached_tokens)
            elif answer.output_tokens:  # not of a vector
                shared.caches.unreported(self.workers[0])
            if error is None:
                trouble = answer_trouble(answer, http_status)
        elif isinstance(error, ClientGone):
            http_status = None
        if isinstance(error, ABORTING) and exchange is not None:
            self.abort(exchange)
        status = terminal_status(error, trouble, tried=bool(self.tried))
        self.record.ended(status, now, http_status=http_status, error=trouble)
        arrived = self.incoming.arrived
        shared.metrics.request_ended(
            self.record.live.trace,
            self.series,
            route=self.incoming.label,
            error_code="" if error is None else error.code,
            head_seconds=None if self.head_at is None else self.head_at - arrived,
            overhead_seconds=None if self.sent_at is None else self.sent_at - arrived,
        )
        if self.tried:
            for policy in shared.policies:
                if policy.learns:
                    # In milliseconds, as other replicas read it: all have the same history.
                    ended_at = shared.clock.unix_us(now) // 1000 / 1000
                    policy.finished(self.record.live.trace, ended_at)
        shared.request_log.ended(self.record.live.trace, len(self.tried))

    @property
    def workers(self) -> tuple[Worker, ...]:
        """Those of the last attempt, first the one whose cache counts. Not before the first one."""
        return (self.tried[-1],)

    def answer_facts(self, exchange: Exchange) -> AnswerFacts:
        """What the answer says of itself."""
        return exchange.facts()

    def abort(self, exchange: Exchange) -> None:
        """Tell the engine to give up what nobody waits for; never under an id that a client chose.

        SGLang takes an id for the beginning of ids, so a client's could name others' requests too.
        """
        rid = self.own_rid
        if self.facts.engine_request_id is None:
            rid = exchange.scanner.engine_request_id
        for worker in self.workers:
            if rid is not None and engine_named(worker.engine).aborts:
                self.shared.aborter.abort(worker, rid)


def give_back(
    worker: Worker,
    permit: Permit,
    exchange: Exchange | None,
    error: RouterError | None,
    now: float,
) -> tuple[int | None, TraceError | None]:
    """An attempt at `worker` is over: end its permit with what this says of the worker.

    Returns the worker's status, if it came, and what the trace shows as its error.
    """
    head = None if exchange is None else exchange.head or exchange.refused
    status = None if head is None else head.status
    said: Verdict | None = None
    if not isinstance(error, ClientGone | RouterStopped) and (error or head) is not None:
        said = verdict(status, error)
    worker.end(permit, said, now)
    if isinstance(error, ConnectFailed):
        worker.health.connect_failed(error.message)
    return status, attempt_trouble(error, status)


def refuse(
    client: ClientConnection, request: Request, error: RouterError | None, own: bytes
) -> bool:
    """Answer with an error of ours, with the header lines `own`. Whether the connection may stay."""
    assert error is not None
    lines = own
    if error.retry_after_seconds is not None:
        lines += b"Retry-After: %b\r\n" % retry_after(error.retry_after_seconds).encode()
    if not request.keep_alive:
        lines += CLOSE
    elif not request.http11:
        lines += b"Connection: keep-alive\r\n"
    said = Said(*error.answer) if isinstance(error, PrefillRefused) else None
    bodiless = request.method == "HEAD"
    client.write(
        raw_error(
            error.status,
            error.code,
            error.message,
            param=error.param,
            lines=lines,
            bodiless=bodiless,
            said=said,
        )
    )
    return request.keep_alive
