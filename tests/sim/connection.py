"""One HTTP/1.1 server connection that does nothing on its own.

aiohttp would finish, time out and repair things by itself; a worker that is to misbehave in exact
ways needs the transport. Requests are parsed by httptools and served one after the other, also
when they are pipelined. The body is not read from the socket before it is asked for.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
import traceback
from collections import deque
from collections.abc import Awaitable, Callable
from typing import cast
from urllib.parse import parse_qsl, unquote

import httptools

Serve = Callable[["Connection", "Request"], Awaitable[None]]

RST_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER, no time to linger


class ClientGone(Exception):
    """The client left while an answer was being written."""


class Request:
    """A request head, and its body once it was read."""

    __slots__ = (
        "_done",
        "body",
        "connection",
        "headers",
        "keep_alive",
        "method",
        "target",
        "version",
    )

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.method = ""
        self.target = ""
        self.version = ""
        self.keep_alive = True
        self.headers: list[tuple[str, str]] = []
        self.body = bytearray()
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def path(self) -> str:
        return unquote(self.target.partition("?")[0])

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(self.target.partition("?")[2]))

    def header(self, name: str) -> str | None:
        """The first value of `name` (lower case)."""
        return next((value for key, value in self.headers if key.lower() == name), None)

    @property
    def complete(self) -> bool:
        return self._done.done()

    def body_ended(self) -> None:
        self._done.set_result(None)

    async def read(self) -> bytes:
        """The whole body."""
        if not self.complete:
            if (self.header("expect") or "").lower() == "100-continue":
                self.connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.connection.transport.resume_reading()
            await asyncio.shield(self._done)
        return bytes(self.body)


class Connection(asyncio.Protocol):
    """Calls `serve` for each request. A task is cancelled when its client leaves."""

    transport: asyncio.Transport

    def __init__(
        self, number: int, serve: Serve, idle_seconds: Callable[[], float], all_: set[Connection]
    ) -> None:
        self.number = number
        self.close_after_answer = False
        self._serve = serve
        self._idle_seconds = idle_seconds
        self._all = all_
        self._parser = httptools.HttpRequestParser(self)
        self._queue: deque[Request] = deque()
        self._reading: Request | None = None
        self._task: asyncio.Task[None] | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._lost = self._loop.create_future()
        self._drained: asyncio.Future[None] | None = None

    # transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self._all.add(self)
        raw = transport.get_extra_info("socket")
        if raw.family != socket.AF_UNIX:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.discard(self)
        self._lost.set_result(None)
        self.resume_writing()
        if self._idle_timer:
            self._idle_timer.cancel()
        if self._task:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._drained and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.transport.write(
                b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n"
                b"connection: close\r\ncontent-length: 30\r\n\r\nInvalid HTTP request received."
            )
            self.transport.close()

    # httptools

    def on_message_begin(self) -> None:
        self._reading = Request(self)

    def on_url(self, url: bytes) -> None:
        assert self._reading
        self._reading.target += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        assert self._reading
        self._reading.headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        request = self._reading
        assert request
        request.method = self._parser.get_method().decode()
        request.version = self._parser.get_http_version()
        request.keep_alive = self._parser.should_keep_alive()
        if request.header("transfer-encoding") or request.header("content-length") not in (
            None,
            "0",
        ):
            self.transport.pause_reading()
        self._queue.append(request)
        self._next()

    def on_body(self, data: bytes) -> None:
        assert self._reading
        self._reading.body += data

    def on_message_complete(self) -> None:
        assert self._reading
        self._reading.body_ended()
        self._reading = None
        self.transport.resume_reading()

    # one request after the other

    def _next(self) -> None:
        if self._task is None and self._queue:
            if self._idle_timer:
                self._idle_timer.cancel()
            self._task = self._loop.create_task(self._run(self._queue.popleft()))

    async def _run(self, request: Request) -> None:
        try:
            await self._serve(self, request)
        except ClientGone:
            pass
        except Exception:
            traceback.print_exc(file=sys.stderr)
            self.transport.abort()
        self._task = None
        if self.close_after_answer or not request.keep_alive or not request.complete:
            self.transport.close()
        elif self._queue:
            self._next()
        else:
            self._idle_timer = self._loop.call_later(self._idle_seconds(), self.transport.close)

    # for those who serve

    @property
    def idle(self) -> bool:
        return self._task is None

    async def write(self, data: bytes) -> None:
        """Send; waits while the client does not read. Raises ClientGone."""
        if self.transport.is_closing():
            raise ClientGone
        self.transport.write(data)
        if self._drained:
            await asyncio.shield(self._drained)

    async def wait_lost(self, seconds: float | None = None) -> None:
        """Until the client left, or `seconds` passed."""
        await asyncio.wait([self._lost], timeout=seconds)

    async def cut(self, *, reset: bool) -> None:
        """End the connection here, after what was written: FIN, or RST."""
        if reset:
            while self.transport.get_write_buffer_size() and not self._lost.done():
                await asyncio.sleep(0)
            self.transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE
            )
            self.transport.abort()
        else:
            self.transport.close()
