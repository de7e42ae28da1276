"""One client connection: requests come in, are answered one after the other, and it stays or ends.

llhttp parses; nothing here knows what a request is for. The listener's `forward` says which ones
are for a worker and serves them; any other is put to aiohttp, as a `Guest` on this connection.
What a client may cost before its request is there is bounded here: the size of a head, what it
sends ahead, and (by `check`, called about once a second) the time it takes.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from typing import Final, Protocol, cast

import httptools
from aiohttp import web

from router.api.guard import CLOSE, ConnectionLimits, has_left, raw_error, say_goodbye
from router.api.guest import Guest, GuestTransport
from router.api.known_head import KnownHead, known_head
from router.api.relay import ClientStream, Exchange
from router.api.request import Header, Request, by_name
from router.core.known_length import MOST_DIGITS
from router.errors import BadRequest, UploadStalled
from router.outbox import Outbox

LINGER_SECONDS: Final = 10.0  # for the rest of a body that nobody wants
AHEAD_BYTES: Final = 64 * 1024  # of requests that are sent before their turn: then reading stops
AHEAD_REQUESTS: Final = 32
HEADS_TO_KNOW: Final = 4  # tries, of a connection: some clients never repeat themselves
SLOW_CLIENT_CLOSE_SECONDS: Final = 30.0  # a broken answer's rest is offered this long, then reset
NO_LINGER: Final = struct.pack("ii", 1, 0)


class Host(Protocol):
    """What a connection needs of its listener."""

    limits: ConnectionLimits
    server: web.Server | None
    outbox: Outbox

    def welcome(self, connection: ClientConnection) -> bool:
        """Is there room for it?"""
        ...

    def gone(self, connection: ClientConnection) -> None: ...

    def forward(self, request: Request, client: ClientConnection) -> Serving | None:
        """How a request is served that is for a worker; None for any other."""
        ...


class Serving(Protocol):
    """A request on its way. It tells its client when it is over, by `served`."""

    def start(self) -> None: ...

    def leave(self) -> None:
        """End now: the client has left, or all ends. Harmless when it is over."""
        ...


class ClientConnection(asyncio.Protocol, ClientStream):
    """See the module. A `ClientStream` for the exchange attached to it."""

    __slots__ = (
        "_ahead_bytes",
        "_behind",
        "_closing",
        "_current",
        "_deaf",
        "_drain_waiter",
        "_exchange",
        "_guest",
        "_head_bytes",
        "_head_open",
        "_headers",
        "_heads_to_know",
        "_host",
        "_known",
        "_lingering",
        "_loop",
        "_outbox",
        "_oversized",
        "_parser",
        "_reading",
        "_read_paused",
        "_serving",
        "_since",
        "_target",
        "_trouble",
        "_waiting",
        "transport",
    )

    def __init__(self, host: Host, loop: asyncio.AbstractEventLoop) -> None:
        self.transport: asyncio.Transport | None = None
        self._host = host
        self._outbox: Outbox = host.outbox
        self._loop = loop
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Request] = deque()  # their heads are here; the first is next
        self._reading: Request | None = None  # whose body is being parsed
        self._current: Request | None = None  # which is being answered
        self._lingering: Request | None = None  # which is answered, and not whole
        self._serving: Serving | None = None
        self._guest: tuple[Guest, GuestTransport] | None = None
        self._exchange: Exchange | None = None
        self._behind = False
        self._drain_waiter: asyncio.Future[None] | None = None
        self._closing = False  # no request after this one
        self._deaf = False  # what comes from now on is not read
        self._trouble: str | None = None  # what was sent behind those waiting is not HTTP
        self._since: float | None = None  # how long this has lasted: from when `check` saw it
        self._head_open = False
        self._head_bytes = 0
        self._oversized = False
        self._ahead_bytes = 0
        self._read_paused = False
        self._target = b""
        self._headers: list[Header] = []
        self._known: KnownHead | None = None
        self._heads_to_know = HEADS_TO_KNOW

    # -- asyncio ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        if not self._host.welcome(self):
            self.refuse(503, "too_many_connections", "too many connections")
            return
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._host.gone(self)
        self.transport = None
        self._deaf = True
        self._waiting.clear()
        # Parser, requests and guest know this connection: circles that only the collector would free.
        del self._parser
        self._reading = self._lingering = None
        guest, self._guest = self._guest, None
        if guest is not None:
            guest[0].connection_lost(exc)
        if self._serving is not None:
            # In the next turn: what came before is begun first.
            self._loop.call_soon(self._serving.leave)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        between = self._reading is None and not self._head_open and not self._waiting
        request = self._known.again(self, data) if between and self._known is not None else None
        if request is not None:
            self._waiting.append(request)
        elif not self._parse(data):
            return
        elif between and self._waiting and self._heads_to_know:
            self._heads_to_know -= 1
            limit = self._host.limits.max_header_bytes - MOST_DIGITS
            self._known = known_head(self._waiting[0], data, limit) or self._known
        if self._current is not None:
            self._since = None
            self._current.wake()
            if self._waiting:
                self._count_ahead(len(data))
        elif self._lingering is None or self._lingering.whole:
            self._go_on()

    def _parse(self, data: bytes) -> bool:
        """False where another parser has been fed, and all is seen to."""
        self._oversized = self._head_bytes + len(data) > self._host.limits.max_header_bytes
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as switch:
            self._stay_with_http1(data[switch.args[0] :])
            return False
        except httptools.HttpParserError as error:
            if not self._deaf:  # else it came behind the last request of this connection
                self._malformed(str(error))
        if self._head_open:
            self._count_head(len(data))
        return True

    def eof_received(self) -> None:
        # Without this the transport would first wait until the client has read what is left.
        if self._exchange is not None and self.transport is not None:
            self.transport.abort()

    def pause_writing(self) -> None:
        self._behind = True
        if self._exchange is not None:
            self._exchange.pause()
        if self._guest is not None:
            self._guest[0].pause_writing()

    def resume_writing(self) -> None:
        self._behind = False
        waiter, self._drain_waiter = self._drain_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if self._exchange is not None:
            self._exchange.resume()
        if self._guest is not None:
            self._guest[0].resume_writing()

    # -- httptools -------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers = []
        self._head_open = True

    def on_url(self, target: bytes) -> None:
        self._target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))  # trailers, too: nobody reads them

    def on_headers_complete(self) -> None:
        parser = self._parser
        if parser.should_upgrade():
            return
        self._head_open = False
        self._head_bytes = 0
        request = Request(
            self,
            parser.get_method().decode(),
            self._target,
            self._headers,
            by_name(self._headers),
            parser.get_http_version() == "1.1",
            parser.should_keep_alive(),
        )
        if self._oversized and self._too_large(len(request.raw_head())):
            return
        if request.chunked and request.headers["transfer-encoding"].lower() != "chunked":
            self._trouble, self._deaf = "a transfer coding other than chunked", True
            return
        self._reading = request
        self._waiting.append(request)

    def on_body(self, piece: bytes) -> None:
        if self._reading is not None:
            self._reading.feed(piece)

    def on_message_complete(self) -> None:
        request, self._reading = self._reading, None
        if request is not None:
            request.end()
            self._deaf = not request.keep_alive

    # -- heads, good and bad ---------------------------------------------------------------

    def _count_head(self, size: int) -> None:
        """A head has begun, and this read did not complete it."""
        if self._head_bytes == 0:
            self._since = None
        self._head_bytes += size
        self._too_large(self._head_bytes)

    def _too_large(self, size: int) -> bool:
        limit = self._host.limits.max_header_bytes
        if size > limit and not self._deaf:
            self.refuse(431, "head_too_large", f"the head is larger than {limit} bytes")
        return size > limit

    def _stay_with_http1(self, rest: bytes) -> None:
        """An Upgrade is an offer that need not be taken (RFC 9110, 7.8): read on without it."""
        method = self._parser.get_method().decode()
        if method == "CONNECT":
            self._malformed("this is no tunnel")
            return
        http11 = self._parser.get_http_version() == "1.1"
        named = by_name(self._headers)
        asked = Request(self, method, self._target, self._headers, named, http11, True)
        self._parser = httptools.HttpRequestParser(self)
        self.data_received(asked.raw_head(without=b"upgrade") + rest)

    def _malformed(self, problem: str) -> None:
        """What was sent is not HTTP. Requests that came before it are answered first."""
        self._deaf = True
        reading, self._reading = self._reading, None
        if reading is None:
            self._trouble = self._trouble or problem
        else:
            reading.give_up(BadRequest(f"the body is broken: {problem}"))
        if self._current is None:
            self._go_on()

    def refuse(self, status: int, code: str, message: str) -> None:
        """Answer what is no request yet, and close."""
        self._deaf = self._closing = True
        self._waiting.clear()
        if self.transport is not None:
            lines = CLOSE + (b"Retry-After: 1\r\n" if status == 503 else b"")
            self._outbox.flush()
            say_goodbye(self.transport, raw_error(status, code, message, lines=lines))

    # -- one request after the other -------------------------------------------------------

    def _next(self) -> None:
        request = self._current = self._waiting.popleft()
        self._since = None
        if self._read_paused and self.transport is not None:
            self._read_paused = False
            self._ahead_bytes = 0
            self.transport.resume_reading()
        self._serving = serving = self._host.forward(request, self)
        if serving is not None:
            self._outbox.afterwards(serving.start)
        else:
            self._invite(request)

    def _invite(self, request: Request) -> None:
        """Let aiohttp answer."""
        assert self.transport is not None and self._host.server is not None
        self._outbox.flush()
        guest = Guest(
            self._host.server,
            self._loop,
            max_header_bytes=self._host.limits.max_header_bytes,
            on_answered=self._guest_answered,
        )
        transport = GuestTransport(self.transport)
        self._guest = guest, transport
        guest.connection_made(transport)
        if self._behind:
            guest.pause_writing()
        request.pour(guest.data_received)

    def _guest_answered(self, stay: bool) -> None:
        if self._guest is not None:
            guest, transport = self._guest
            self._guest = None
            transport.resume_reading()
            transport.leave()
            self._loop.call_soon(guest.connection_lost, None)  # not from inside its own task
            self._answered(stay)

    def _answered(self, stay: bool) -> None:
        """The current request is over; `stay`: the connection may be used again."""
        request, self._current = self._current, None
        self._since = None
        if request is None or self.transport is None or self.transport.is_closing():
            return
        if not (stay and request.keep_alive):
            self._closing = True
        if request.whole or request.broken is not None:
            self._go_on()
        else:  # closing on unread bytes would reset the connection before the answer is read
            request.drop()
            self._lingering = request

    def _go_on(self) -> None:
        """Nothing is being answered: what next?"""
        self._lingering = None
        if self._closing:
            self._close()
        elif self._waiting:
            self._next()
        elif self._trouble is not None:
            self.refuse(400, "bad_http", self._trouble)

    # -- what the listener calls -----------------------------------------------------------

    def check(self, now: float) -> None:
        """Close the connection when its client takes too long for what it is at, or has left."""
        transport, limits = self.transport, self._host.limits
        if transport is None or transport.is_closing():
            return
        request = self._current
        if request is not None and request.whole:
            if self._read_paused and has_left(transport):
                transport.abort()
            return
        if self._since is None:
            self._since = now
            return
        spent = now - self._since
        if request is not None:
            if spent > limits.idle_seconds:
                self._stalled(request, limits.idle_seconds)
        elif self._lingering is not None:
            if spent > LINGER_SECONDS:
                self._close()
        elif self._head_open:
            if spent > limits.header_read_seconds and not self._deaf:
                text = f"the head did not come within {limits.header_read_seconds:g} s"
                self.refuse(408, "head_timeout", text)
        elif spent > limits.idle_seconds:
            self._close()

    def _stalled(self, request: Request, seconds: float) -> None:
        """The body of the current request has stopped coming."""
        self._deaf = True
        self._reading = None
        if self._guest is None:
            request.give_up(UploadStalled(f"nothing came of the body for {seconds:g} s"))
        elif self.transport is not None:  # a guest waits for its body for as long as we let it
            self.transport.abort()

    def finish(self) -> None:
        """Take no further request."""
        self._closing = True
        if self._current is None:
            self._close()

    def _close(self) -> None:
        if self.transport is not None:
            self._outbox.flush()
            self.transport.close()

    def cut(self) -> None:
        """End now, whatever runs."""
        self.finish()
        if self._serving is not None:
            self._serving.leave()

    # -- what an exchange and its request call (ClientStream) ------------------------------

    def served(self, stay: bool) -> None:
        """The request that was forwarded is over; `stay`: the connection may be used again."""
        self._serving = None
        self._answered(stay)

    def writing_paused(self) -> bool:
        return self._behind

    def attach(self, exchange: Exchange | None) -> None:
        self._exchange = exchange

    def write(self, data: bytes) -> None:
        if self.transport is not None:
            self._outbox.write(self.transport, data)

    def writelines(self, parts: list[bytes]) -> None:
        if self.transport is not None:
            self._outbox.flush()
            self.transport.writelines(parts)

    def break_off(self, *, reset: bool) -> None:
        """End the connection in the middle of an answer.

        With `reset` by RST, at once: where its close would look like the end of an answer.
        """
        transport = self.transport
        if transport is None:
            return
        self._outbox.flush()
        if reset:
            sock = transport.get_extra_info("socket")
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            transport.abort()
        else:
            transport.close()
            self._loop.call_later(SLOW_CLIENT_CLOSE_SECONDS, transport.abort)

    async def drained(self) -> None:
        """Wait until a client that fell behind has caught up."""
        self._outbox.flush()
        if self._behind:
            self._drain_waiter = self._loop.create_future()
            await self._drain_waiter

    # -- what is sent ahead ----------------------------------------------------------------

    def _count_ahead(self, size: int) -> None:
        """Requests wait behind the current one. Their bytes must not pile up."""
        self._ahead_bytes += size
        many = self._ahead_bytes > AHEAD_BYTES or len(self._waiting) > AHEAD_REQUESTS
        if many and not self._read_paused and self.transport is not None:
            self._read_paused = True
            self.transport.pause_reading()
