"""Sending a request to the worker that was chosen."""

from __future__ import annotations

import asyncio

from router.api.edits import with_rank
from router.api.forwarding import Forwarding
from router.api.incoming import Incoming
from router.api.record import RequestRecord
from router.api.relay import Exchange
from router.core.headers import RawHeaders
from router.core.worker import Worker
from router.errors import StaleConnection, TotalTimeout, UpstreamError
from router.upstream.connection import UpstreamConnection
from router.upstream.pool import ConnectionPool


class Sending:
    """A request on its way to a worker, with this body, and the connection it has there until `over`."""

    __slots__ = (
        "_body",
        "_connection",
        "_exchange",
        "_head",
        "_incoming",
        "_pool",
        "_record",
        "_shared",
    )

    def __init__(
        self,
        shared: Forwarding,
        incoming: Incoming,
        record: RequestRecord,
        exchange: Exchange,
        worker: Worker,
        body: bytes,
    ) -> None:
        request = incoming.request
        if worker.rank is not None:
            body = with_rank(request, incoming.path, body, worker, worker.rank)
        self._shared = shared
        self._incoming = incoming
        self._record = record
        self._exchange = exchange
        self._pool: ConnectionPool = shared.pools.of(worker)
        self._connection: UpstreamConnection | None = None
        self._body = body
        self._head = shared.headers.request_head(
            request.method,
            incoming.target,
            headers_for(worker, incoming, record),
            worker,
            incoming.id_line,
            len(body) if request.has_body else None,
            request.written if incoming.span_ids is None else {},
        )
        shared.watch.add(exchange)

    def at_once(self) -> bool:
        """Send it over a connection that is there. False without one."""
        # What must not be repeated never goes onto a connection that may just be closing.
        if not self._incoming.generates:
            return False
        now = self._shared.clock.now()
        connection = self._pool.take_idle(now)
        if connection is None:
            return False
        self._begin(connection, now)
        return True

    async def connect(self) -> None:
        """Send it over a new connection, or tell the exchange why there is none."""
        try:
            connection = await connect(self._shared, self._incoming, self._pool)
        except UpstreamError as error:
            self._exchange.answer_broken(error)
        else:
            self._begin(connection, self._shared.clock.now())

    async def carry(self) -> None:
        """Send it, and wait for the end of its exchange."""
        exchange = self._exchange
        try:
            if not self.at_once():
                await self.connect()
            await exchange.ended()
            if stale(exchange):
                await self.connect()
                await exchange.ended()
        finally:
            self.over()

    def _begin(self, connection: UpstreamConnection, now: float) -> None:
        self._connection = connection
        self._exchange.begin(connection, self._head, self._body, now)
        if self._record.sent_at is None:
            self._record.sent_at = now

    def over(self) -> None:
        """The exchange is over, or is to be: give the connection back."""
        shared = self._shared
        shared.watch.discard(self._exchange)
        self._exchange.abort()
        # Also when the client left just as its answer ended: nobody else would close it.
        connection = self._connection
        if connection is not None:
            self._connection = None
            self._pool.give_back(connection, shared.clock.now())


def stale(exchange: Exchange) -> bool:
    """Its connection was closed by the worker before any byte: the request cannot have been acted upon,
    and is to go over another one."""
    return isinstance(exchange.error, StaleConnection)


def headers_for(worker: Worker, incoming: Incoming, record: RequestRecord) -> RawHeaders:
    """The client's; with OpenTelemetry, this attempt is the parent of what the worker does."""
    raw = incoming.request.raw_headers
    ids = incoming.span_ids
    if ids is None:
        return raw
    attempts = record.live.attempts
    at = [n for n, one in enumerate(attempts, start=1) if one.node_id == worker.node_id]
    return ids.headers(raw, at[-1] if at else len(attempts))


async def connect(
    shared: Forwarding, incoming: Incoming, pool: ConnectionPool
) -> UpstreamConnection:
    """A new connection. Raises ConnectFailed, and TotalTimeout before that takes too long."""
    total = shared.settings.limits.total_seconds
    if total is None:
        return await pool.connect()
    try:
        async with asyncio.timeout(incoming.arrived + total - shared.clock.now()):
            return await pool.connect()
    except TimeoutError:
        raise TotalTimeout(f"the request took longer than {total:g} s") from None
