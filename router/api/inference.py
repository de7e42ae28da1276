"""Forwarding: the life of one inference request, from its head to its trace.

    read body -> facts -> admission -> [ choose worker -> send -> relay ] -> trace

The bracket is an attempt; it repeats (another worker) only while nothing has gone to the client.
Whatever happens, also when a client leaves, `end` gives the worker back and writes exactly one terminal
status, without waiting for anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from router.api.edits import with_own_rid, with_served_model
from router.api.forwarding import Forwarding
from router.api.gate import Ticket
from router.api.incoming import Incoming
from router.api.leg import Leg
from router.api.record import RequestRecord
from router.api.refusal import refuse
from router.api.relay import ClientFacts, Exchange, Owner
from router.api.sending import Sending, stale
from router.api.taking import take_worker
from router.core.answer_head import AnswerHead, Framing
from router.core.answers import AnswerFacts
from router.core.engines import engine_named
from router.core.facts import BadBody, RequestFacts, read_facts
from router.core.outcome import answer_trouble, not_computed, terminal_status, trace_error
from router.core.retry import Failure, GiveUp, Situation, next_move, parse_retry_after
from router.core.usage import ResponseScanner
from router.core.worker import Worker
from router.errors import (
    BadRequest,
    ClientGone,
    FirstByteTimeout,
    IdleTimeout,
    InternalError,
    NoWorker,
    RequestTimeout,
    RouterError,
    RouterStopped,
    TotalTimeout,
)
from router.fleet import Group

STOPPED: Final = "the router was stopped before the answer was whole"
ABORTING: Final = (ClientGone, FirstByteTimeout, IdleTimeout, TotalTimeout)
UNREAD: Final = RequestFacts(route="")

log = logging.getLogger("router.requests")

Wait = Callable[[], Coroutine[Any, Any, None]]

E = TypeVar("E", bound=Exchange)


class Run(Owner):
    """One request while it runs: what it holds and must give back. Its exchanges tell it how they go.

    It goes from step to step. A step that needs nothing that is not there calls the next one; else a task
    waits, and goes on. So most requests need none: they wait for an exchange only, which tells us its end.
    """

    def __init__(self, shared: Forwarding, incoming: Incoming) -> None:
        request = incoming.request
        self.shared = shared
        self.incoming = incoming
        self.record: RequestRecord = shared.recorder.open(incoming)
        self.client_facts = ClientFacts(
            request.http11,
            request.keep_alive and not shared.fleet.draining,
            request.method == "HEAD",
            request.http11 and request.asked.trailers,
        )
        self.body = b""
        self.facts: RequestFacts = UNREAD
        self.own_rid: str | None = None  # the engine's id of this request, where we chose it
        self.group: Group = shared.group  # whom this request may go to
        self.ticket: Ticket | None = None
        self.leg: Leg | None = None  # of the last attempt
        self.exchange: Exchange | None = None
        self.tried: list[Worker] = []
        self.sending: Sending | None = None
        self.pause_seconds = 0.0  # before the next attempt
        self.stop_waiting: Callable[[], bool] | None = None
        self.over = False
        shared.open_requests += 1
        self.counted = shared.metrics.request_received(incoming.label, request.method)
        shared.budget.request(incoming.arrived)

    # -- from step to step -----------------------------------------------------------------

    def start(self) -> None:
        """The first step: as far as nothing is to be waited for, mostly to a worker."""
        if self.over:
            return
        try:
            if self.enter():
                self.attempt()
            else:
                self.wait(self.wait_to_enter, self.attempt)
        except Exception as raised:
            self.fail(raised)

    def go_on(self) -> None:
        """The step behind an exchange."""
        if self.over:
            return
        try:
            self.answered()
        except Exception as raised:
            self.fail(raised)

    def wait(self, it_is_there: Wait, step: Callable[[], None]) -> None:
        """Take `step` when `it_is_there()` has been awaited."""
        self.stop_waiting = self.shared.spawn(self.wait_and_go_on(it_is_there, step), "request")

    async def wait_and_go_on(self, it_is_there: Wait, step: Callable[[], None]) -> None:
        try:
            await it_is_there()
            self.stop_waiting = None
            step()
        except Exception as raised:
            self.stop_waiting = None
            self.fail(raised)

    # -- ends, from wherever it is ---------------------------------------------------------

    def leave(self) -> None:
        """The client has left, or the router stops."""
        if not self.over:
            self.end(self.why_left(), stay=False)

    def fail(self, raised: Exception) -> None:
        """A step raised it: that is the answer, where the client has seen nothing of another."""
        incoming, exchange = self.incoming, self.exchange
        if isinstance(raised, RouterError):
            # Its traceback, and that of what it came from, hold the frames that hold it: circles.
            error = raised.with_traceback(None)
            error.__context__ = None
        else:
            error = InternalError("internal error")
            words = "request %s to %s crashed"
            log.error(words, incoming.request_id, incoming.target[:200], exc_info=raised)
        if self.over:
            return
        stay = False
        if exchange is None or not exchange.relayed():
            stay = refuse(incoming.client, incoming.request, error, incoming.answer_headers)
        self.end(error, stay)

    def end(self, error: RouterError | None, stay: bool) -> None:
        """Give everything back, and write exactly one terminal status. Then the client's connection
        hears whether it may `stay`."""
        self.over = True
        shared = self.shared
        try:
            if self.stop_waiting is not None:
                self.stop_waiting()
            if self.sending is not None:
                self.sending.over()
            elif self.exchange is not None:
                self.exchange.abort()
            now = shared.clock.now()
            self.end_attempt(error, now)
            if self.ticket is not None:
                shared.gate.leave(self.ticket)
            shared.open_requests -= 1
            self.finish(error, now)
        finally:
            # They know us, too: circles that only the collector would free.
            self.exchange = self.sending = self.stop_waiting = None
            self.incoming.client.served(stay)

    def why_left(self) -> RouterError | None:
        """None for a client that left with all of its answer: OpenAI's closes at `[DONE]`, without
        waiting for the body to end."""
        if self.shared.stopping:
            return RouterStopped(STOPPED)
        exchange = self.exchange
        if (
            exchange is not None
            and exchange.said_done()
            and not self.incoming.client.writing_paused()
        ):
            return None
        return ClientGone("the client left")

    # -- in --------------------------------------------------------------------------------

    def enter(self) -> bool:
        """Take the body and a place, if they are there at once, as they mostly are. Raises what
        `understand` raises."""
        request, shared = self.incoming.request, self.shared
        if not request.whole:
            return False
        self.understand(request.take(shared.settings.max_payload_bytes))
        self.ticket = shared.gate.try_enter(self.incoming.arrived)
        return self.ticket is not None

    async def wait_to_enter(self) -> None:
        """Wait for the body and for a place. Raises what `understand`, `Request.body` and the gate
        raise, and RequestTimeout."""
        request, shared = self.incoming.request, self.shared
        self.record.waiting()
        total = shared.settings.limits.total_seconds
        left = None if total is None else self.incoming.arrived + total - shared.clock.now()
        try:
            async with asyncio.timeout(left):
                if not request.whole:
                    self.understand(await request.body(shared.settings.max_payload_bytes))
                self.ticket = await shared.gate.enter()
        except TimeoutError:
            raise RequestTimeout(f"the request took longer than {total:g} s") from None

    def understand(self, body: bytes) -> None:
        """Facts, and who serves the model. Raises BadRequest, ModelNotFound, NoWorker."""
        incoming, shared = self.incoming, self.shared
        request, models = incoming.request, shared.models
        self.body = body
        if body or request.method == "POST":
            try:
                aliases = None if models is None else models.aliases
                self.facts = read_facts(incoming.path, body, request.asked, aliases)
            except BadBody as error:
                raise BadRequest(str(error)) from None
            if shared.settings.inject_rid:
                self.choose_rid()
        else:
            self.facts = RequestFacts(route=incoming.path)
        facts = self.facts
        if facts.target_worker is not None:
            facts.target_worker = shared.fleet.named(facts.target_worker)
        self.record.understood(facts)
        if models is not None and (body or request.method == "POST"):
            self.group = models.group(facts)
            self.body = with_served_model(request, self.body, facts)

    def choose_rid(self) -> None:
        """Give the engine an id of ours for a single prompt, so that it can be aborted."""
        rid = self.incoming.key
        body = with_own_rid(self.incoming.request, self.incoming.path, self.body, self.facts, rid)
        if body is not None:
            self.body = body
            self.own_rid = self.facts.engine_request_id = rid

    # -- attempts --------------------------------------------------------------------------

    def attempt(self) -> None:
        """Send it to a worker, another one than before. Raises what `choose_again` raises."""
        self.choose_again()
        assert self.leg is not None
        self.exchange = exchange = self.relaying(Exchange)
        expected = self.leg.choice.expected_seconds
        if expected is not None and not self.facts.stream:
            exchange.prefill_seconds = expected
        self.sending = self.sending_of(exchange, self.leg.worker, self.body)
        if not self.sending.at_once():
            self.connect(self.sending)

    def connect(self, sending: Sending) -> None:
        self.wait(sending.connect, self.connected)

    def connected(self) -> None:
        """Mostly the exchange has begun now. It is over where there is no connection, or was so before."""
        exchange = self.exchange
        if exchange is not None and exchange.over:
            self.answered()

    def answered(self) -> None:
        """An exchange is over. Raises its error where it is the last one, and the client has seen nothing
        of an answer."""
        exchange, sending = self.exchange, self.sending
        assert exchange is not None
        if sending is not None:
            if stale(exchange):
                self.connect(sending)
                return
            sending.over()
            self.sending = None
        if self.again(exchange):
            if self.pause_seconds > 0:
                self.wait(self.pause, self.attempt)
            else:
                self.attempt()
        elif exchange.error is not None:
            self.end(exchange.error, self.break_off(exchange))
        elif self.incoming.client.writing_paused():
            # An answer counts as delivered when a client that fell behind has taken it.
            self.wait(self.incoming.client.drained, self.delivered)
        else:
            self.delivered()

    async def pause(self) -> None:
        await asyncio.sleep(self.pause_seconds)

    def delivered(self) -> None:
        """The client has all of a worker's answer."""
        exchange = self.exchange
        assert exchange is not None
        self.end(None, self.client_facts.keep_alive and not exchange.until_close())

    def choose_again(self) -> None:
        """Take a worker, another one than before. Raises NoWorker, or the error of the last attempt."""
        try:
            self.choose()
        except NoWorker:
            # Where the last worker failed and is out now, its failure says more than "none".
            if self.exchange is not None and self.exchange.error is not None:
                raise self.exchange.error from None
            raise

    def again(self, exchange: Exchange) -> bool:
        """Whether another attempt is to follow, after `pause_seconds`. Raises what `answered` raises."""
        error = exchange.error
        if exchange.relayed() or (error is None and exchange.refused is None):
            return False
        if error is not None and not self.try_again(Failure(error=error)):
            raise error
        self.end_attempt(error, self.shared.clock.now())
        return True

    def choose(self) -> None:
        """Take a worker, and write down why. Raises NoWorker."""
        now = self.shared.clock.now()
        self.leg = leg = take_worker(self.shared, self.group, self.facts, self.tried, now)
        self.tried.append(leg.worker)
        leg.queue(self.facts.input_tokens)
        self.shared.caches.routed(self.facts.blocks, leg.worker)
        self.record.routed(leg, leg, now)

    def relaying(self, kind: type[E]) -> E:
        """An exchange between the worker that was chosen and the client."""
        assert self.leg is not None
        return kind(
            self.incoming.client,
            self.client_facts,
            self.shared.settings.limits,
            ResponseScanner(self.incoming.path, self.facts.stream),
            self,
            self.leg.series.gaps,
            self.incoming.arrived,
            self.shared.clock.now,
        )

    def sending_of(self, exchange: Exchange, worker: Worker, body: bytes) -> Sending:
        """The request, with this body, on its way to `worker`."""
        return Sending(self.shared, self.incoming, self.record, exchange, worker, body)

    # -- what an exchange tells (`Owner`) --------------------------------------------------

    def head_received(self, head: AnswerHead, framing: Framing, now: float) -> bytes | None:
        """The head for the client, or None when we try again instead."""
        leg, facts = self.leg, self.client_facts
        assert leg is not None
        leg.answered(head.status)
        if head.status >= 400:
            value = head.first(b"retry-after")
            asked = parse_retry_after(
                value.decode("latin-1") if value is not None else None,
                self.shared.clock.unix_us() / 1e6,
            )
            if self.try_again(Failure(http_status=head.status, retry_after_seconds=asked)):
                return None
        answer = self.shared.headers.response_head(
            head,
            framing,
            leg.worker,
            self.incoming.answer_headers,
            facts.http11,
            facts.keep_alive,
        )
        self.record.processing(head.status, now)
        return answer

    def body_began(self) -> None:
        """The worker has gone through the input."""
        if self.leg is not None:
            self.leg.prefilled()

    def known_as(self, engine_request_id: str) -> None:
        """A stream has told the engine's id."""
        if self.facts.engine_request_id is None:
            self.record.known_as(engine_request_id)

    def exchange_over(self) -> None:
        """Unless something is waited for, which goes on by itself."""
        if self.stop_waiting is None and not self.over:
            self.shared.outbox.afterwards(self.go_on)

    # -- again? ----------------------------------------------------------------------------

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

    def break_off(self, exchange: Exchange) -> bool:
        """The answer broke after a part of it was relayed: the client must not take it for whole.

        Whether its connection may stay.
        """
        if exchange.break_client(error_frame=self.shared.settings.sse_error_frames):
            return self.client_facts.keep_alive
        self.incoming.client.break_off(reset=exchange.until_close())
        return False

    def end_attempt(self, error: RouterError | None, now: float) -> None:
        """Give the worker back, and say how the attempt went. Harmless without one."""
        leg = self.leg
        if leg is not None and not leg.over:
            leg.end(self.exchange, error, now)
            self.take_back(leg, self.exchange, error)

    def take_back(self, leg: Leg, exchange: Exchange | None, error: RouterError | None) -> None:
        """Believe no longer that the worker holds a prompt that it did not get to."""
        status = None if exchange is None else exchange.http_status()
        if not_computed(error, status):
            self.shared.caches.not_computed(leg.worker, leg.choice.sent)

    def finish(self, error: RouterError | None, now: float) -> None:
        """The one terminal status, and who is told of it."""
        shared, exchange, record = self.shared, self.exchange, self.record
        trace = record.live
        trouble = None if error is None else trace_error(error)
        http_status = None if error is None else error.status
        if exchange is not None and exchange.head is not None:
            http_status = exchange.head.status
            answer = self.answer_facts(exchange)
            if exchange.scanner.stream:
                trace.stream = True  # whatever we made of what was asked: pydantic takes 1 for true
            record.answered(answer, exchange.first_token_at())
            if answer.cached_tokens is not None:
                leg = self.computing()
                shared.caches.reported(
                    leg.worker,
                    trace.predicted_cached_tokens,
                    answer.cached_tokens,
                    answer.input_tokens,
                    leg.choice.sent,
                )
            elif answer.output_tokens:  # not of a vector
                shared.caches.unreported(self.computing().worker)
            if error is None:
                trouble = answer_trouble(answer, http_status)
        elif isinstance(error, ClientGone):
            http_status = None
        if error is not None and exchange is not None and isinstance(error, ABORTING):
            self.abort(exchange)
        status = terminal_status(error, trouble, bool(self.tried))
        record.ended(status, now, http_status, trouble)
        shared.metrics.request_ended(
            trace,
            self.counted,
            None if self.leg is None else self.leg.series,
            "" if error is None else error.code,
            None if record.head_at is None else record.head_at - record.arrived,
            None if record.sent_at is None else record.sent_at - record.arrived,
            self.ticket is not None,
        )
        if self.tried:
            for policy in shared.policies:
                if policy.learns:
                    # In milliseconds, as other replicas read it: all have the same history.
                    policy.finished(trace.row(), shared.clock.unix_us(now) // 1000 / 1000)
        shared.request_log.ended(trace, len(self.tried))

    def computing(self) -> Leg:
        """That of the last attempt which computes the input, so whose worker's cache counts."""
        assert self.leg is not None
        return self.leg

    @property
    def workers(self) -> tuple[Worker, ...]:
        """Those of the last attempt. Not before the first one."""
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
