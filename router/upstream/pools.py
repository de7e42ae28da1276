"""The connection pools of all workers."""

from __future__ import annotations

import ssl

from router.core.worker import Worker
from router.outbox import Outbox
from router.upstream.pool import ConnectionPool


class Pools:
    """One `ConnectionPool` for each worker, made when first needed."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        tls: ssl.SSLContext | None,
        connect_timeout_seconds: float,
        keepalive_seconds: float,
        hide_worker_urls: bool = False,
    ) -> None:
        self._outbox = outbox
        self._tls = tls
        self._connect_timeout = connect_timeout_seconds
        self._keepalive = keepalive_seconds
        self._hide_urls = hide_worker_urls
        self._pools: dict[Worker, ConnectionPool] = {}

    def name_of(self, worker: Worker) -> str:
        """What errors that clients read call it."""
        return worker.node_id if self._hide_urls else worker.url

    def of(self, worker: Worker) -> ConnectionPool:
        pool = self._pools.get(worker)
        if pool is None:
            pool = self._pools[worker] = self.made(worker)
        return pool

    def made(self, worker: Worker) -> ConnectionPool:
        """A new pool, for `of` to keep."""
        return ConnectionPool(
            self.name_of(worker),
            worker.host,
            worker.port,
            outbox=self._outbox,
            tls=(self._tls or ssl.create_default_context()) if worker.tls else None,
            connect_timeout_seconds=self._connect_timeout,
            keepalive_seconds=self._keepalive,
        )

    def renamed(self, worker: Worker) -> None:
        """Its errors tell the new name from now on, also those of connections that are open."""
        pool = self._pools.get(worker)
        if pool is not None:
            pool.rename(self.name_of(worker))

    def forget(self, worker: Worker) -> None:
        """The worker was removed: close its idle connections."""
        pool = self._pools.pop(worker, None)
        if pool is not None:
            pool.close_idle()

    def close_idle(self, now: float | None = None) -> None:
        """Close what has been idle too long, or everything idle when `now` is None."""
        for pool in self._pools.values():
            pool.close_idle(now)
