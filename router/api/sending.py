"""Sending a request to the worker that was chosen, and waiting until its exchange is over."""

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


async def carry(
    shared: Forwarding,
    incoming: Incoming,
    record: RequestRecord,
    exchange: Exchange,
    worker: Worker,
    body: bytes,
) -> None:
    """Send the request to `worker`, with this body, and wait for the end of `exchange`."""
    request = incoming.request
    if worker.rank is not None:
        body = with_rank(request, incoming.path, body, worker, worker.rank)
    pool = shared.pools.of(worker)
    shared.watch.add(exchange)
    connection = None
    try:
        head = shared.headers.request_head(
            request.method,
            incoming.target,
            headers_for(worker, incoming, record),
            worker,
            incoming.id_line,
            len(body) if request.has_body else None,
            request.written if incoming.span_ids is None else {},
        )
        now = shared.clock.now()
        # What must not be repeated never goes onto a connection that may just be closing.
        connection = pool.take_idle(now) if incoming.generates else None
        if connection is None:
            connection = await connect(shared, incoming, pool)
            now = shared.clock.now()
        exchange.begin(connection, head, body, now)
        if record.sent_at is None:
            record.sent_at = exchange.sent_at
        await exchange.done
        if isinstance(exchange.error, StaleConnection):
            # Closed by the worker before any byte: the request cannot have been acted upon.
            connection = await connect(shared, incoming, pool)
            exchange.begin(connection, head, body, shared.clock.now())
            await exchange.done
    except UpstreamError as error:
        exchange.error = error
    finally:
        shared.watch.discard(exchange)
        exchange.abort()
        # Also when the client left just as its answer ended: nobody else would close it.
        if connection is not None:
            pool.give_back(connection, shared.clock.now())


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
