"""The client's side: aiohttp's server, with the few hooks that forwarding needs.

aiohttp parses requests and keeps connections; `ClientConnection` adds what a relay must know of
the connection below a response: whether the client keeps up, and that it has left. Nothing here
knows what a request is for.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from typing import cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from router.api.guard import ConnectionLimits, HeadWatch, Room, raw_error, say_goodbye
from router.api.relay import Exchange
from router.errors import error_body
from router.tasks import Tasks

SERVER_NAME = "trace-router"
LEAST_TIMEOUT_SECONDS = 0.01
NO_LINGER = struct.pack("ii", 1, 0)

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class ClientConnection(RequestHandler):
    """One client connection; a `ClientStream` for the exchange attached to it."""

    __slots__ = ("_exchange", "_head", "_listener", "_refused", "_time")

    def __init__(
        self, server: web.Server, loop: asyncio.AbstractEventLoop, listener: Listener
    ) -> None:
        limits = listener.limits
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=limits.idle_seconds,
            access_log=None,  # type: ignore[arg-type]  # aiohttp's own way to turn it off
            auto_decompress=False,  # bodies go through byte for byte
            max_line_size=limits.max_header_bytes,
            max_field_size=limits.max_header_bytes,
        )
        self._exchange: Exchange | None = None
        self._listener = listener
        self._head = HeadWatch()
        self._time = loop.time
        self._refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._listener.welcome(self):
            super().connection_made(transport)
        else:
            self.transport = cast(asyncio.Transport, transport)  # aiohttp never hears of it
            self.refuse(503, "too_many_connections", "too many connections")

    def connection_lost(self, exc: BaseException | None) -> None:
        self._listener.gone(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._head.awaited:
            size = self._head.take(data, self._time)
            limit = self._listener.limits.max_header_bytes
            if size > limit:
                self.refuse(431, "head_too_large", f"the head is larger than {limit} bytes")
                return
        super().data_received(data)

    def check_head(self, now: float) -> None:
        """Close the connection when its client takes too long to send a head."""
        began, limit = self._head.began_at, self._listener.limits.header_read_seconds
        if began is not None and now - began > limit and not self._refused:
            self.refuse(408, "head_timeout", f"the head did not come within {limit:g} s")

    def refuse(self, status: int, code: str, message: str) -> None:
        """Answer what is no request yet, and close."""
        self._refused = True
        if self.transport is not None:
            say_goodbye(self.transport, raw_error(status, code, message))

    def log_access(
        self, request: web.BaseRequest, response: web.StreamResponse, time: float | None
    ) -> None:
        """aiohttp calls this when an answer has been written."""
        # A request that came ahead of the answer is queued, and its body may be on its way.
        if request.content.is_eof() and not self._messages:
            self._head.next()

    def attach(self, exchange: Exchange | None) -> None:
        self._exchange = exchange

    def write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._exchange is not None:
            self._exchange.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._exchange is not None:
            self._exchange.resume()

    async def drained(self) -> None:
        """Wait until a client that fell behind has caught up."""
        await self._drain_helper()

    def eof_received(self) -> None:
        # Without this the transport would first wait until the client has read what is left.
        if self._exchange is not None and self.transport is not None:
            self.transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a request that is not HTTP; aiohttp calls this, also for crashes of handlers."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has already begun")
        code = "bad_http" if status < 500 else "internal_error"
        text = (message or "").splitlines()[0] if message else "malformed HTTP request"
        response = web.Response(
            status=status,
            body=error_body(status, code, text if status < 500 else "internal error"),
            content_type="application/json",
            headers={"Server": SERVER_NAME},
        )
        response.force_close()
        return response


def reset(transport: asyncio.Transport) -> None:
    """End the connection with RST: where its close would look like the end of an answer."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    transport.abort()


class Sent(web.StreamResponse):
    """Stands for an answer that has been written to the connection already."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._stay = keep_alive

    @property
    def keep_alive(self) -> bool:
        return self._stay

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


class Listener:
    """Accepts connections on one address and hands requests to `handler`.

    `handler` is cancelled when its client leaves.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        tls: ssl.SSLContext | None = None,
        limits: ConnectionLimits | None = None,
    ) -> None:
        self._tls = tls
        self.limits = limits or ConnectionLimits()
        self._room = Room(self.limits.max_connections)
        self._open: set[ClientConnection] = set()
        self._tasks = Tasks()
        self._handler = handler
        self._server: web.Server | None = None
        self._sockets: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; the port listened on (also where `port` is 0). Raises OSError."""
        loop = asyncio.get_running_loop()
        server = self._server = web.Server(self._handler, handler_cancellation=True)
        self._sockets = await loop.create_server(
            lambda: ClientConnection(server, loop, self),
            host,
            port,
            backlog=4096,
            ssl=self._tls,
            ssl_handshake_timeout=self.limits.header_read_seconds if self._tls else None,
        )
        self._tasks.spawn(self._check_heads(), "slow heads")
        bound: int = self._sockets.sockets[0].getsockname()[1]
        return bound

    @property
    def connections(self) -> int:
        return len(self._open)

    def welcome(self, connection: ClientConnection) -> bool:
        """A connection was made: is there room for it?"""
        if self._room.enter():
            self._open.add(connection)
            return True
        return False

    def gone(self, connection: ClientConnection) -> None:
        """A connection has ended."""
        if connection in self._open:
            self._open.remove(connection)
            self._room.leave()

    async def _check_heads(self) -> None:
        loop = asyncio.get_running_loop()
        period = min(1.0, self.limits.header_read_seconds / 4)
        while True:
            await asyncio.sleep(period)
            now = loop.time()
            for connection in tuple(self._open):
                connection.check_head(now)

    def stop_accepting(self) -> None:
        """New connections are refused; those there are finish what they do and close."""
        if self._sockets is not None:
            self._sockets.close()
        if self._server is not None:
            self._server.pre_shutdown()

    async def close(self, timeout_seconds: float) -> None:
        """End every connection; handlers have `timeout_seconds` to finish."""
        self.stop_accepting()
        await self._tasks.cancel()
        if self._server is not None:
            # aiohttp takes 0 for no limit at all.
            await self._server.shutdown(max(timeout_seconds, LEAST_TIMEOUT_SECONDS))
