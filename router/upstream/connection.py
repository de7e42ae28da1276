"""One HTTP/1.1 connection to a worker.

The library parser (llhttp) does the parsing; this class only turns its callbacks into calls of an
`AnswerReceiver`, synchronously, inside `data_received`: no task switch and no queue lie between
the worker's bytes and the client's transport. Payload arrives without its transfer coding, one
call per read of the socket however many chunks the read held.

What it decides: where an answer begins and ends, whether the connection can be used again, and
which error a broken one is. What it does not: retries, time limits, anything about the client.
"""

from __future__ import annotations

import asyncio
import socket
from typing import cast

import httptools

from router.core.answer_head import AnswerHead, RawHeaders
from router.core.chunks import ends_chunk, only_chunk
from router.errors import StaleConnection, UpstreamError, WorkerCut
from router.outbox import Outbox
from router.upstream.known_answers import KnownAnswers

MAX_HEAD_BYTES = 256 * 1024  # uvicorn and llama.cpp send under 1 KB; beyond this it is no answer

# Of one answer the kernel keeps up to a third more for us, and no read brings more than that: a stream
# that always has something does not hold up the others, and one that nobody reads piles up no megabytes.
# Much less would be slow: below a segment, 64 KB on loopback, the kernel's timers set the pace.
RECEIVE_BYTES = 96 * 1024

LARGE_BYTES = 16 * 1024  # joining what is shorter costs less than telling the kernel of each part


class AnswerReceiver:
    """Who a connection reports to while an exchange runs. No method may raise."""

    __slots__ = ()

    def interim_received(self, head: AnswerHead) -> None:
        raise NotImplementedError

    def head_received(self, head: AnswerHead) -> None:
        """The rest of what the same read brought follows in `received`."""
        raise NotImplementedError

    def received(
        self, payload: bytes, trailers: RawHeaders | None, chunk: bytes | None = None
    ) -> None:
        """What one read of the socket brought of an answer's body. With trailers, be it none of
        them, the answer is whole. `chunk` is all of the read, where that was one chunk behind others."""
        raise NotImplementedError

    def answer_broken(self, error: UpstreamError) -> None:
        raise NotImplementedError


class UpstreamConnection(asyncio.Protocol):
    """Carries one exchange at a time; `receiver` is None while idle.

    What is `known` of the worker's answers is not parsed; without, the connection learns by itself.
    """

    __slots__ = (
        "_at_chunk",
        "_between",
        "_bodiless",
        "_chunked",
        "_complete",
        "_content_encoding",
        "_content_length",
        "_content_type",
        "_head",
        "_head_bytes",
        "_headers",
        "_interim",
        "_keep_alive",
        "_known",
        "_outbox",
        "_parser",
        "_paused",
        "_payloads",
        "_reason",
        "_receiver",
        "_surplus_from",
        "_trailers",
        "_violation",
        "closed",
        "exchanges",
        "idle_since",
        "name",
        "on_body",
        "transport",
    )

    def __init__(self, name: str, outbox: Outbox, known: KnownAnswers | None = None) -> None:
        self.name = name
        self._outbox = outbox
        self._known: KnownAnswers = known or KnownAnswers()
        self.transport: asyncio.Transport | None = None
        self.closed = False
        self.exchanges = 0
        self.idle_since = 0.0
        self._receiver: AnswerReceiver | None = None
        self._paused = False
        self._payloads: list[bytes] = []
        # The parser calls it once a chunk: the list's own method is the cheapest there is.
        self.on_body = self._payloads.append
        self._parser = httptools.HttpResponseParser(self)
        self._between = True  # answers: the parser has seen no byte of the next
        self._begin()
        self._reset()

    def _begin(self) -> None:
        """An exchange."""
        self._head: AnswerHead | None = None  # of its answer, once it is whole
        self._head_bytes = 0
        self._complete = False
        self._at_chunk = False  # the next of its body begins with what is read next

    def _reset(self) -> None:
        """What the parser has found of an answer."""
        self._interim = False
        self._keep_alive = False
        self._surplus_from: int | None = None  # these payloads are behind the answer's end
        self._violation: str | None = None
        self._chunked = False
        self._content_length: int | None = None
        self._content_type = self._content_encoding = b""
        self._reason = b""
        self._headers: RawHeaders = []
        self._trailers: RawHeaders = []

    # -- what the pool and the exchange call ------------------------------------------------

    def send(self, head: bytes, body: bytes, receiver: AnswerReceiver, bodiless: bool) -> None:
        """Start an exchange. `bodiless`: the answer to HEAD has no body whatever its head says."""
        assert self.transport is not None and self._receiver is None
        self._receiver = receiver
        self._bodiless = bodiless
        self._begin()
        self.exchanges += 1
        if len(body) > LARGE_BYTES:
            self.transport.writelines([head, body])
        else:
            self._outbox.write(self.transport, head + body)

    def reusable(self) -> bool:
        """True when the last exchange has ended so cleanly that another may follow."""
        return not self.closed and self._receiver is None

    def pause(self) -> None:
        """Stop reading: the client does not keep up. Not once the answer is whole: another
        exchange may follow, of another client."""
        if self._receiver is not None and self.transport is not None:
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self._paused and self.transport is not None:
            self._paused = False
            self.transport.resume_reading()

    def abort(self) -> None:
        """End at once; the receiver hears nothing more."""
        self._receiver = None
        self.closed = True
        if self.transport is not None:
            self.transport.abort()

    # -- asyncio ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)

    def data_received(self, data: bytes) -> None:
        receiver = self._receiver
        if receiver is None:  # a byte nobody asked for: never use this connection again
            self.abort()
            return
        if self._at_chunk:
            payload = only_chunk(data)
            if payload is not None:
                receiver.received(payload, None, data)
                return
        between = self._between
        if between and not self._bodiless:
            head = self._known.again(data)
            if head is not None:
                self._take_known(receiver, head, data)
                return
        if self._head is None:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            # llhttp also complains of bytes behind a whole answer: that answer is still good.
            if not self._complete:
                self._violation = self._violation or str(error)
            self._surplus_begins()
        head = self._head
        if head is None and self._head_bytes > MAX_HEAD_BYTES:
            self._violation = f"a head over {MAX_HEAD_BYTES} bytes"
        if self._violation is not None:
            self._break_protocol(self._violation)
        elif head is not None:
            payload = self._take_payload()
            if self._receiver is None:  # it refused the answer while that was parsed
                return
            if self._bodiless:
                # The answer to HEAD: llhttp waits for a body that will never come. Not reused.
                payload, self._complete = b"", True
            if not self._complete:
                self._at_chunk = ends_chunk(data, payload)
                receiver.received(payload, None)
                return
            if between and self._keep_alive and self._surplus_from is None:
                self._known.learn(head, data, len(payload))
            self._end(payload)

    def _take_known(self, receiver: AnswerReceiver, head: AnswerHead, data: bytes) -> None:
        """All that the parser would have found in `data`."""
        self._head = head
        try:
            receiver.head_received(head)
        except Exception as error:  # as where the parser calls it
            self._break_protocol(str(error))
        if self._receiver is not None:  # else it has refused the answer, or it is broken
            self._keep_alive = True
            self._trailers = []
            assert head.content_length is not None
            self._end(data[len(data) - head.content_length :])

    def pause_writing(self) -> None:
        """Nothing follows a request before its answer."""

    def resume_writing(self) -> None: ...

    def eof_received(self) -> None:
        self.closed = True  # the transport closes itself, and tells it in the loop's next turn

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.transport = None
        del self._parser  # it knows our methods: a circle that only the collector would free
        if self._receiver is None:
            return
        until_close = self._head is not None and not self._chunked and self._content_length is None
        if until_close and exc is None:
            self._end(b"")
        elif self._head_bytes == 0 and self.exchanges > 1:
            self._break(StaleConnection(f"worker {self.name} closed an idle connection"))
        else:
            when = "within its answer" if self._head is not None else "before it answered"
            self._break(WorkerCut(f"worker {self.name} closed the connection {when}"))

    # -- httptools -------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._between = False
        if self._complete:
            self._surplus_begins()
        else:
            self._reset()

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head is not None:
            self._trailers.append((name, value))
            return
        self._headers.append((name, value))
        lowered = name.lower()
        if lowered == b"content-length":
            self._content_length = int(value)
        elif lowered == b"content-type":
            self._content_type = value.lower()
        elif lowered == b"content-encoding":
            self._content_encoding = value.lower()
        elif lowered == b"transfer-encoding":
            self._chunked = True
            if value.lower() != b"chunked":  # without its header the body would be gibberish
                self._violation = "a transfer coding other than chunked"

    def on_headers_complete(self) -> None:
        if self._surplus_from is not None or self._receiver is None:
            return
        status: int = self._parser.get_status_code()
        head = AnswerHead(
            status,
            self._reason,
            self._headers,
            self._content_length,
            self._content_type,
            self._content_encoding,
        )
        if 100 <= status < 200 and status != 101:
            self._interim = True
            self._receiver.interim_received(head)
            return
        if status == 101:
            self._violation = "it switched protocols unasked"
        if self._violation is not None:
            return
        self._head = head
        self._receiver.head_received(head)

    def on_message_complete(self) -> None:
        self._between = True
        if self._interim:
            self._begin()
            self._reset()
        elif self._surplus_from is None and self._head is not None:
            self._complete = True
            self._keep_alive = self._parser.should_keep_alive()

    def _surplus_begins(self) -> None:
        if self._surplus_from is None:
            self._surplus_from = len(self._payloads)

    # -- ends ------------------------------------------------------------------------------

    def _take_payload(self) -> bytes:
        """What was parsed of the body, in one piece."""
        payloads = self._payloads
        if self._surplus_from is not None:
            del payloads[self._surplus_from :]
        if len(payloads) == 1:
            return payloads.pop()
        payload = b"".join(payloads)
        payloads.clear()
        return payload

    def _end(self, payload: bytes) -> None:
        receiver, self._receiver = self._receiver, None
        assert receiver is not None
        transport = self.transport
        if (
            transport is None
            or self._surplus_from is not None
            or not self._keep_alive
            or transport.get_write_buffer_size() > 0  # it answered without reading all we sent
        ):
            self.closed = True
            if transport is not None:
                transport.abort()
        else:
            self.resume()
        receiver.received(payload, self._trailers)

    def _break_protocol(self, violation: str) -> None:
        payload = self._take_payload()
        if self._head is not None and self._receiver is not None:
            self._receiver.received(payload, None)
        self._break(WorkerCut(f"worker {self.name} broke the HTTP protocol: {violation}"))

    def _break(self, error: UpstreamError) -> None:
        receiver, self._receiver = self._receiver, None
        self.closed = True
        if self.transport is not None:
            self.transport.abort()
        if receiver is not None:
            receiver.answer_broken(error)

    def __repr__(self) -> str:
        state = "closed" if self.closed else "idle" if self._receiver is None else "busy"
        return f"<UpstreamConnection {self.name} {state} {self.exchanges} exchanges>"
