"""The client's side: accepts connections, bounds how many, looks after them, and ends them."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from aiohttp import web

from router.api.connection import ClientConnection, Serving
from router.api.guard import ConnectionLimits, Room
from router.api.request import Request
from router.outbox import Outbox, end_of_turn
from router.tasks import Tasks

LEAST_TIMEOUT_SECONDS = 0.01
BACKLOG = 4096

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Forward = Callable[[Request, ClientConnection], Serving | None]


class Listener:
    """Accepts connections on one address.

    `forward` serves the requests that are for workers, as in `connection.Host`; all others go to
    `handler`, by aiohttp. Both are cancelled when their client leaves.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        outbox: Outbox | None = None,
        forward: Forward | None = None,
        tls: ssl.SSLContext | None = None,
        limits: ConnectionLimits | None = None,
    ) -> None:
        self.outbox = outbox or Outbox(end_of_turn)
        self._tls = tls
        self.limits = limits or ConnectionLimits()
        self.forward: Forward = forward or (lambda _request, _client: None)
        self._room = Room(self.limits.max_connections)
        self._open: set[ClientConnection] = set()
        self._tasks = Tasks()
        self._handler = handler
        self.server: web.Server | None = None
        self._servers: list[asyncio.Server] = []

    async def start(
        self, host: str, port: int, inherited: Sequence[socket.socket] | None = None
    ) -> int:
        """Listen; the port listened on (also where `port` is 0). Raises OSError.

        With `inherited` on these sockets, which listen already.
        """
        loop = asyncio.get_running_loop()
        self.open()
        listen = partial(
            loop.create_server,
            lambda: ClientConnection(self, loop),
            backlog=BACKLOG,
            ssl=self._tls,
            ssl_handshake_timeout=self.limits.header_read_seconds if self._tls else None,
        )
        if inherited:
            self._servers = [await listen(sock=sock) for sock in inherited]
        else:
            self._servers = [await listen(host, port)]
        self._tasks.spawn(self._check(), "slow clients")
        bound: int = self._servers[0].sockets[0].getsockname()[1]
        return bound

    def open(self) -> None:
        """Be ready for connections, wherever they come from."""
        self.server = web.Server(self._handler, handler_cancellation=True)

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

    async def _check(self) -> None:
        loop = asyncio.get_running_loop()
        period = min(1.0, self.limits.header_read_seconds / 4, self.limits.idle_seconds / 4)
        while True:
            await asyncio.sleep(period)
            now = loop.time()
            for connection in tuple(self._open):
                connection.check(now)

    def stop_accepting(self) -> None:
        """New connections are refused; those there are finish what they do and close."""
        for server in self._servers:
            server.close()
        for connection in tuple(self._open):
            connection.finish()

    async def close(self, timeout_seconds: float) -> None:
        """End every connection; aiohttp's handlers have `timeout_seconds` to finish."""
        self.stop_accepting()
        await self._tasks.cancel()
        for connection in tuple(self._open):
            connection.cut()
        if self.server is not None:
            # aiohttp takes 0 for no limit at all.
            await self.server.shutdown(max(timeout_seconds, LEAST_TIMEOUT_SECONDS))
