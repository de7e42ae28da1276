"""One attempt at one worker: its answer, relayed to the client byte by byte as it comes.

An `Exchange` sits between an `UpstreamConnection` and a `ClientStream` and runs inside the
worker's `data_received`: bytes are written to the client first and looked at afterwards. The
owner is told when it is `over`. An exchange never raises; how it went is in its fields:

* `error` is set: the worker's side broke, or a time limit ended it;
* `refused` is the head of an answer that was not relayed because another attempt is to be made;
* otherwise the answer was relayed whole.
"""

from __future__ import annotations

import logging
from asyncio import Future, get_running_loop
from collections.abc import Callable
from math import inf
from typing import Final

import msgspec

from router.core.answer_head import AnswerHead, Framing, RawHeaders
from router.core.answers import AnswerFacts
from router.core.chunks import CHUNK_END, CHUNK_HEADS
from router.core.usage import ResponseScanner
from router.errors import (
    FirstByteTimeout,
    IdleTimeout,
    RouterError,
    StaleConnection,
    TotalTimeout,
    UpstreamError,
    error_body,
)
from router.metrics.histogram import Histogram
from router.upstream.connection import LARGE_BYTES, AnswerReceiver, UpstreamConnection

log = logging.getLogger("router.relay")

EVENT_STREAM: Final = b"text/event-stream"
LAST_CHUNK: Final = b"0\r\n\r\n"


class ClientStream:
    """What forwarding needs of the client's connection, whichever server it belongs to."""

    __slots__ = ()

    def writing_paused(self) -> bool:
        """The client does not keep up."""
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        raise NotImplementedError

    def writelines(self, parts: list[bytes]) -> None:
        """In one system call. The caller may change the list afterwards."""
        raise NotImplementedError

    def attach(self, exchange: Exchange | None) -> None:
        """From now on `exchange` hears when the client keeps up or does not."""
        raise NotImplementedError


class Owner:
    """Whom an exchange tells how it goes. Times are in monotonic seconds."""

    __slots__ = ()

    def head_received(self, head: AnswerHead, framing: Framing, now: float) -> bytes | None:
        """The client's head, or None to refuse the answer."""
        raise NotImplementedError

    def body_began(self) -> None:
        """The worker has gone through the input."""
        raise NotImplementedError

    def known_as(self, engine_request_id: str) -> None:
        """Told once, soon after the engine has said it."""
        raise NotImplementedError

    def exchange_over(self) -> None:
        """It has ended by itself, by a time limit, or by an `abort`. Told from within a read or a write."""
        raise NotImplementedError


class ClientFacts:
    """What the answer's framing depends on."""

    __slots__ = ("accepts_trailers", "head_request", "http11", "keep_alive")

    def __init__(
        self, http11: bool, keep_alive: bool, head_request: bool, accepts_trailers: bool
    ) -> None:
        self.http11 = http11
        self.keep_alive = keep_alive
        self.head_request = head_request
        self.accepts_trailers = accepts_trailers


class Limits(msgspec.Struct, frozen=True, gc=False):
    """Time limits of an exchange in seconds; None is no limit."""

    first_byte_seconds: float | None
    idle_seconds: float | None
    total_seconds: float | None


NO_BODY: Final = Framing(chunked=False, until_close=False, has_body=False)
AS_IT_IS: Final = Framing(chunked=False, until_close=False, has_body=True)
IN_CHUNKS: Final = Framing(chunked=True, until_close=False, has_body=True)
UNTIL_CLOSE: Final = Framing(chunked=False, until_close=True, has_body=True)


def framing(client: ClientFacts, head: AnswerHead) -> Framing:
    """A known length stays as it is; otherwise chunks, or until close for HTTP/1.0 (RFC 9112, 6)."""
    if client.head_request or head.status in (204, 304):
        return NO_BODY
    if head.content_length is not None:
        return AS_IT_IS
    return IN_CHUNKS if client.http11 else UNTIL_CLOSE


class Exchange(AnswerReceiver):
    """See the module. `gaps` are the times between the events of a stream."""

    __slots__ = (
        "_client",
        "_connection",
        "_facts",
        "_framing",
        "_gaps",
        "_limits",
        "_now",
        "_owner",
        "_paused",
        "_readable",
        "_told_id",
        "_unsent",
        "_waiter",
        "arrived",
        "error",
        "first_byte_at",
        "head",
        "last_byte_at",
        "over",
        "prefill_seconds",
        "refused",
        "scanner",
        "sent_at",
        "worker_name",
    )

    def __init__(
        self,
        client: ClientStream,
        facts: ClientFacts,
        limits: Limits,
        scanner: ResponseScanner,
        owner: Owner,
        gaps: Histogram,
        arrived: float,
        now: Callable[[], float],
    ) -> None:
        self._client = client
        self._facts = facts
        self._limits = limits
        self._owner = owner
        self._gaps = gaps
        self._now = now
        self._connection: UpstreamConnection | None = None
        self._framing: Framing = NO_BODY  # until the head is there
        self._paused = False
        self._readable = True
        self._unsent = b""  # the client's head, until the read that brought it has been told
        self._told_id = False
        self.scanner = scanner
        self.arrived = arrived
        self.worker_name = ""
        self.sent_at = inf
        self.prefill_seconds = inf  # after which an answer in one piece is taken to be begun
        self.first_byte_at: float | None = None
        self.last_byte_at = 0.0
        self.head: AnswerHead | None = None
        self.refused: AnswerHead | None = None
        self.error: RouterError | None = None
        self.over = False
        self._waiter: Future[None] | None = None

    def begin(self, connection: UpstreamConnection, head: bytes, body: bytes, now: float) -> None:
        """Send the request over `connection`; also again, after a stale connection."""
        self.sent_at = self.last_byte_at = now
        if self.over:
            if not isinstance(self.error, StaleConnection):  # ended while it was being connected
                return
            self.over = False
            self.error = None
        self._connection = connection
        self.worker_name = connection.name
        self._client.attach(self)
        connection.send(head, body, self, self._facts.head_request)
        if self._client.writing_paused():
            self.pause()

    # -- the worker's side (AnswerReceiver) ------------------------------------------------

    def interim_received(self, head: AnswerHead) -> None:
        """RFC 9110, 15.2: pass on what we did not ask for; 100 answers our own server's Expect."""
        folded = [v for _, v in head.headers if b"\n" in v]
        if self._facts.http11 and head.status != 100 and not folded:
            lines = [b"HTTP/1.1 %d %s" % (head.status, head.reason)]
            lines += [n + b": " + v for n, v in head.headers if n.lower() == b"link"]
            self._client.write(b"\r\n".join(lines) + b"\r\n\r\n")

    def head_received(self, head: AnswerHead) -> None:
        self.last_byte_at = now = self._now()
        how = framing(self._facts, head)
        answer = self._owner.head_received(head, how, now)
        if answer is None:
            self.refused = head
            assert self._connection is not None
            self._connection.abort()
            self._finish()
            return
        self.head = head
        self._framing = how
        self._unsent = answer
        if head.content_type:
            # `startswith` takes six times as long.
            self.scanner.stream = head.content_type[: len(EVENT_STREAM)] == EVENT_STREAM
        self._readable = head.content_encoding in (b"", b"identity")

    def received(
        self, payload: bytes, trailers: RawHeaders | None, chunk: bytes | None = None
    ) -> None:
        """Pass on what one read brought, in one write (each is a system call), then look at it."""
        if chunk is not None and self._framing is IN_CHUNKS:  # it can go on as it came
            self._client.write(chunk)
            self._look_at(payload, self._now())
            return
        head = self._unsent
        self._pass_on(head, payload, trailers)
        if payload:
            # What came with the head came when that did.
            self._look_at(payload, self.last_byte_at if head else self._now())
        if trailers is not None:
            self._finish()

    def _pass_on(self, head: bytes, payload: bytes, trailers: RawHeaders | None) -> None:
        size, chunked = len(payload), self._framing.chunked
        self._unsent = b""
        begin, end = head, b""
        if chunked and size:
            begin += CHUNK_HEADS[size] if size < len(CHUNK_HEADS) else b"%x\r\n" % size
            end = CHUNK_END
        if chunked and trailers is not None:
            end += self._last_chunk(trailers)
        if size > LARGE_BYTES:
            self._client.writelines([begin, payload, end])
        elif data := begin + payload + end:
            self._client.write(data)

    def _last_chunk(self, trailers: RawHeaders) -> bytes:
        if not (trailers and self._facts.accepts_trailers):
            return LAST_CHUNK
        fields = [n + b": " + v + b"\r\n" for n, v in trailers if safe_trailer(n, v)]
        return b"0\r\n%b\r\n" % b"".join(fields)

    def _look_at(self, payload: bytes, now: float) -> None:
        events = 0
        if self._readable:
            try:
                events = self.scanner.feed(payload, now)
            except Exception:
                # A bug of ours. The answer matters more than what we make of it.
                log.exception("what worker %s answers is read no further", self.worker_name)
                self._readable = False
        if self.first_byte_at is None:
            self.first_byte_at = now
            self._owner.body_began()
        elif events:
            self._gaps.observe_evenly(now - self.last_byte_at, events)
        self.last_byte_at = now

    def facts(self) -> AnswerFacts:
        """What the answer, as far as it came, tells of itself."""
        try:
            return self.scanner.finish()
        except Exception:
            log.exception("what worker %s answered cannot be read", self.worker_name)
            return AnswerFacts()

    def answer_broken(self, error: UpstreamError) -> None:
        self.error = error
        self._finish()

    # -- the client's side -----------------------------------------------------------------

    def pause(self) -> None:
        """The client does not keep up: read no more from the worker."""
        if self._connection is not None:
            self._paused = True
            self._connection.pause()

    def resume(self) -> None:
        if self._connection is not None:
            self._paused = False
            self.last_byte_at = self._now()  # silence while we did not listen is not the worker's
            self._connection.resume()

    def abort(self) -> None:
        """The client has gone, or we end it: free the worker at once."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._client.attach(None)
            connection.abort()
        self._ended()

    # -- time ------------------------------------------------------------------------------

    def check_limits(self, now: float) -> None:
        """End the exchange when one of its time limits has passed. Called a few times a second."""
        if not self._told_id and (known := self.scanner.engine_request_id) is not None:
            self._told_id = True
            self._owner.known_as(known)
        if now - self.sent_at > self.prefill_seconds:
            self._owner.body_began()
        limits = self._limits
        error: UpstreamError | None = None
        if limits.total_seconds is not None and now - self.arrived > limits.total_seconds:
            error = TotalTimeout(f"the request took longer than {limits.total_seconds:g} s")
        elif self.head is None:
            limit = limits.first_byte_seconds
            if limit is not None and now - self.sent_at > limit:
                error = FirstByteTimeout(
                    f"worker {self.worker_name} did not answer within {limit:g} s"
                )
        elif not self._paused:
            limit = limits.idle_seconds
            if limit is not None and now - self.last_byte_at > limit:
                error = IdleTimeout(f"worker {self.worker_name} was silent for {limit:g} s")
        if error is not None:
            self.end(error)

    def end(self, error: RouterError) -> None:
        """End the exchange, if it still runs, for a reason that is ours."""
        if not self.over:
            self.error = error
            self.abort()

    def http_status(self) -> int | None:
        """The worker's, whether its answer was relayed or refused; None while there is none."""
        head: AnswerHead | None = self.head or self.refused
        return None if head is None else head.status

    def relayed(self) -> bool:
        """True once a part of the answer has gone to the client: no second attempt after that."""
        return self.head is not None

    def first_token_at(self) -> float | None:
        """When a stream's first event came: a comment before it only keeps the connection alive. The
        first byte where events cannot be told; None for an error, which has no token."""
        if self.head is None or self.head.status >= 400:
            return None
        return self.scanner.first_event_at or self.first_byte_at

    def said_done(self) -> bool:
        """True once the last event of a stream has gone to the client."""
        return self.relayed() and self.scanner.stream and self.facts().done_seen

    def break_client(self, *, error_frame: bool) -> bool:
        """Tell the client that its answer is not whole. True when its connection can stay.

        With `error_frame`, and for event streams only, as a last SSE event; otherwise the caller
        must close the connection without the end of the body.
        """
        if not (error_frame and self.scanner.stream and self._framing.chunked):
            return False
        assert self.error is not None
        body = error_body(self.error.status, self.error.code, self.error.message)
        frame = b"\n\ndata: %b\n\n" % body
        self._client.write(b"%x\r\n%b\r\n%b" % (len(frame), frame, LAST_CHUNK))
        return True

    def until_close(self) -> bool:
        """True for a body that lasts until close: only a reset can tell a cut from an end."""
        return self._framing.until_close

    def _finish(self) -> None:
        self._connection = None
        self._client.attach(None)
        self._ended()

    def _ended(self) -> None:
        if self.over:
            return
        self.over = True
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        self._owner.exchange_over()

    async def ended(self) -> None:
        """Wait until it is over."""
        if not self.over:
            self._waiter = get_running_loop().create_future()
            await self._waiter


FORBIDDEN_TRAILERS = frozenset(
    (b"content-length", b"transfer-encoding", b"host", b"trailer", b"content-encoding", b"te")
)


def safe_trailer(name: bytes, value: bytes) -> bool:
    """A trailer must not change framing or routing (RFC 9110, 6.5.1)."""
    lowered = name.lower()
    return lowered not in FORBIDDEN_TRAILERS and not lowered.startswith(b"x-smg-")
