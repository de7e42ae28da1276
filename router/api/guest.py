"""aiohttp's server for one request: our own endpoints, on a connection that is ours.

A `Guest` gets the bytes of one request, writes its answer and leaves. The connection (who may have
one, for how long, and what comes next on it) stays with `ClientConnection`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from router.errors import error_body

SERVER_NAME = "trace-router"


class GuestTransport(asyncio.Transport):
    """The connection's transport, as a guest may use it: until it has left."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport: asyncio.Transport | None = transport

    def leave(self) -> None:
        """From now on nothing reaches the connection."""
        self._transport = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        if self._transport is not None:
            self._transport.writelines(list_of_data)

    def is_closing(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def pause_reading(self) -> None:
        if self._transport is not None and self._transport.is_reading():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        transport = self._transport
        if transport is not None and not transport.is_closing() and not transport.is_reading():
            transport.resume_reading()

    def get_write_buffer_size(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default if self._transport is None else self._transport.get_extra_info(name, default)


class Guest(RequestHandler):
    """Answers one request; `on_answered(keep_alive)` is called when its answer is written."""

    __slots__ = ("_on_answered",)

    def __init__(
        self,
        server: web.Server,
        loop: asyncio.AbstractEventLoop,
        *,
        max_header_bytes: int,
        on_answered: Callable[[bool], None],
    ) -> None:
        super().__init__(
            server,
            loop=loop,
            tcp_keepalive=False,
            keepalive_timeout=0,
            lingering_time=0,
            access_log=None,  # type: ignore[arg-type]  # aiohttp's own way to turn it off
            auto_decompress=False,
            max_line_size=max_header_bytes,
            max_field_size=max_header_bytes,
        )
        self._on_answered = on_answered

    def log_access(
        self, request: web.BaseRequest, response: web.StreamResponse, time: float | None
    ) -> None:
        """aiohttp calls this when an answer has been written."""
        self._on_answered(bool(response.keep_alive))

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
