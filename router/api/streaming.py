"""An answer that is made while it is sent."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from router.api.connection import NO_LINGER

Write = Callable[[bytes], Awaitable[None]]
Produce = Callable[[Write], Awaitable[None]]


class Broken(Exception):
    """The rest cannot be made: the client must see that the answer is not whole."""


class Streaming(web.StreamResponse):
    """`produce(write)` runs when the head is out, and makes the body.

    `write` waits while the client does not keep up. The client's leaving cancels `produce`, as does the
    end of the router. Whatever `produce` raises cuts the connection, so that nobody takes a part for
    the whole; Broken is one that is expected.
    """

    def __init__(self, produce: Produce, headers: Mapping[str, str]) -> None:
        super().__init__(headers={"X-Content-Type-Options": "nosniff", **headers})
        self._produce = produce
        self._asked: web.BaseRequest | None = None
        self._transport: asyncio.Transport | None = None

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        self._asked = request
        self._transport = request.transport  # gone from the request when aiohttp stops
        return await super().prepare(request)

    async def write_eof(self, data: bytes = b"") -> None:
        request = self._asked
        assert request is not None
        if request.method != "HEAD":
            try:
                await self._produce(self.write)
            except Broken as error:
                reset(self._transport)
                raise ConnectionResetError(str(error)) from error
            except BaseException:
                reset(self._transport)
                raise
        await super().write_eof(data)


def reset(transport: asyncio.Transport | None) -> None:
    """End the connection with RST: to HTTP/1.0 its close would look like the end of the answer."""
    if transport is None:
        return
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:  # else the client closed it
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    transport.abort()
