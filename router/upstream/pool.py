"""Idle connections to one worker, and the making of new ones.

Newest first: the most recently used connection is the least likely to have been closed by the
worker. A connection idle for longer than `keepalive_seconds` is never used: uvicorn and llama.cpp
close theirs after 5 s, and a request written onto a closing connection is a request lost. There is
no upper limit: how many requests may run is admission's business.
"""

from __future__ import annotations

import asyncio
import ssl

from router.errors import ConnectFailed
from router.outbox import Outbox
from router.upstream.connection import UpstreamConnection
from router.upstream.known_answers import KnownAnswers


class ConnectionPool:
    """Connections to one `host:port`. Not bounded; `close_idle` is called now and then."""

    __slots__ = (
        "_connect_timeout",
        "_host",
        "_idle",
        "_keepalive",
        "_known",
        "_name",
        "_outbox",
        "_port",
        "_ssl",
    )

    def __init__(
        self,
        name: str,
        host: str,
        port: int,
        *,
        outbox: Outbox,
        tls: ssl.SSLContext | None,
        connect_timeout_seconds: float,
        keepalive_seconds: float,
    ) -> None:
        self._name = name
        self._host = host
        self._port = port
        self._outbox = outbox
        self._ssl = tls
        self._connect_timeout = connect_timeout_seconds
        self._keepalive = keepalive_seconds
        self._known = KnownAnswers()
        self._idle: list[UpstreamConnection] = []

    def take_idle(self, now: float) -> UpstreamConnection | None:
        """The most recently used connection that is still good, or None."""
        idle = self._idle
        while idle:
            connection: UpstreamConnection = idle.pop()
            if now - connection.idle_since > self._keepalive:
                connection.abort()  # the others are older still
                self.close_idle(now)
                return None
            if connection.reusable():
                return connection
        return None

    async def connect(self) -> UpstreamConnection:
        """A new connection; raises ConnectFailed."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout):
                _, connection = await loop.create_connection(
                    lambda: UpstreamConnection(self._name, self._outbox, self._known),
                    self._host,
                    self._port,
                    ssl=self._ssl,
                )
        except TimeoutError:
            raise ConnectFailed(
                f"no connection to worker {self._name} within {self._connect_timeout:g} s"
            ) from None
        except (OSError, ssl.SSLError) as error:
            reason = error.strerror or str(error) or type(error).__name__
            raise ConnectFailed(f"cannot connect to worker {self._name}: {reason}") from None
        if connection.closed:
            raise ConnectFailed(f"worker {self._name} closed the connection at once")
        return connection

    def give_back(self, connection: UpstreamConnection, now: float) -> None:
        """Keep `connection` for the next request if it can carry one."""
        if connection.reusable():
            connection.name = self._name
            connection.idle_since = now
            self._idle.append(connection)

    def rename(self, name: str) -> None:
        """What errors call the worker from now on."""
        self._name = name
        for connection in self._idle:
            connection.name = name

    def close_idle(self, now: float | None = None) -> None:
        """Close what has been idle for too long; everything idle when `now` is None."""
        fresh = 0
        if now is not None:
            while fresh < len(self._idle) and (
                now - self._idle[fresh].idle_since > self._keepalive
                or not self._idle[fresh].reusable()
            ):
                fresh += 1
        else:
            fresh = len(self._idle)
        expired, self._idle[:] = self._idle[:fresh], self._idle[fresh:]
        for connection in expired:
            connection.abort()

    def __len__(self) -> int:
        return len(self._idle)

    def __repr__(self) -> str:
        return f"<ConnectionPool {self._name} {len(self._idle)} idle>"
