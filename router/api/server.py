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

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from router.api.relay import Exchange
from router.errors import error_body

SERVER_NAME = "trace-router"
NO_LINGER = struct.pack("ii", 1, 0)

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class ClientConnection(RequestHandler):
    """One client connection; a `ClientStream` for the exchange attached to it."""

    __slots__ = ("_exchange",)

    def __init__(self, server: web.Server, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # aiohttp's own way to turn it off
            auto_decompress=False,  # bodies go through byte for byte
            max_line_size=16384,
            max_field_size=16384,
        )
        self._exchange: Exchange | None = None

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

    def __init__(self, handler: Handler, *, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._server = web.Server(handler, handler_cancellation=True)
        self._sockets: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; the port listened on (also where `port` is 0). Raises OSError."""
        loop = asyncio.get_running_loop()
        self._sockets = await loop.create_server(
            lambda: ClientConnection(self._server, loop), host, port, backlog=4096, ssl=self._tls
        )
        bound: int = self._sockets.sockets[0].getsockname()[1]
        return bound

    @property
    def connections(self) -> int:
        return len(self._server.connections)

    def stop_accepting(self) -> None:
        """New connections are refused; those there are finish what they do and close."""
        if self._sockets is not None:
            self._sockets.close()
        self._server.pre_shutdown()

    async def close(self, timeout_seconds: float) -> None:
        """End every connection; handlers have `timeout_seconds` to finish."""
        self.stop_accepting()
        await self._server.shutdown(timeout_seconds)
