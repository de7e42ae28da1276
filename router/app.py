"""The life of a router: its parts (`router.parts`) are started and stopped here, and nowhere else.

Start order: traces, workers (checked, for a bounded time), then the listener, so that the first
request finds a router that works. Stop order: readiness falls, requests are still served for the
drain window, no new connections, running requests finish within the grace period, traces are
flushed. A second signal skips the waiting.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from router.api.http import simple_handler
from router.api.inference import STOPPED
from router.api.server import Listener
from router.config import Config
from router.errors import RouterStopped
from router.metrics import Siblings
from router.parts import Parts
from router.settings import listed
from router.worker_names import worker_names

log = logging.getLogger("router")

START_PROBE_SECONDS: Final = 2.0  # workers that cannot be reached do not hold up the start longer
FLUSH_SECONDS: Final = 5.0
SWEEP_SECONDS: Final = 1.0
LAST_WORDS_SECONDS: Final = 0.05  # for requests that are cut off to say so


class Sockets(msgspec.Struct, frozen=True):
    """What one of several processes was handed down; see `router.processes`."""

    serving: Sequence[socket.socket]
    metrics: Sequence[socket.socket]
    siblings: str
    number: int
    ready: Callable[[], None]  # to be called when this process serves


class App(Parts):
    """One running router. `await start()`, then `port`; `await stop()` once."""

    def __init__(self, config: Config, inherited: Sockets | None = None) -> None:
        super().__init__(config)
        self._inherited = inherited
        self.metrics_listener: Listener | None = None
        self.port = 0

    async def start(self) -> None:
        """Everything up to the open port. Raises what the parts raise: OSError, ConfigError, ..."""
        config, inherited = self.config, self._inherited
        if inherited is not None:
            self.metrics_api.siblings = Siblings(
                inherited.siblings, inherited.number, self.metrics_api.exposition.collect
            )
            await self.metrics_api.siblings.start()
        if self.tracker is not None:
            await self.tracker.start()
        await self.registry.add_static(worker_names(config), config.static_worker_key)
        if self.learning is not None:
            self.tasks.spawn(self.learning.run(), "learning")
        await self.control.start()
        await self.prober.start([member.worker for member in self.registry.members])
        if self.tracker is not None and self.sharing is not None:
            await self.tracker.list_static(listed(config))
            await self.sharing.start()
            self.tasks.spawn(self.sharing.run(), "sharing")
        if self.discovery is not None:
            await self.discovery.start()
        await self.prober.first_round(START_PROBE_SECONDS)
        self.tasks.spawn(self.watch.run(), "time limits")
        self.tasks.spawn(self._sweep(), "sweep")
        if self.decision_csv is not None:
            self.tasks.spawn(self.decision_csv.run(), "decision CSV")
        if self.span_export is not None:
            self.tasks.spawn(self.span_export.run(), "OpenTelemetry")
        if config.prometheus_port is not None:
            self.metrics_listener = Listener(simple_handler(self.metrics_api.routes()))
            await self.metrics_listener.start(
                config.prometheus_host,
                config.prometheus_port,
                None if inherited is None else inherited.metrics,
            )
        self.port = await self.listener.start(
            config.host, config.port, None if inherited is None else inherited.serving
        )
        ready = sum(worker.healthy for worker in self.fleet.workers)
        log.info(
            "Listening on %s port %d: %d of %d workers healthy, policy %s",
            config.host,
            self.port,
            ready,
            len(self.fleet.workers),
            self._policy_names(),
        )

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.pools.close_idle(self.clock.now())
            self.gate.look()

    async def stop(self, now: asyncio.Event) -> None:
        """Drain and end; each wait is cut short once `now` is set."""
        config = self.config
        self.fleet.draining = True
        log.info("Draining: %d requests are running", self.forwarding.open_requests)
        if config.drain_secs > 0:
            await until(now, config.drain_secs)
        if self.tracker is not None:
            self.tracker.tail.close()
        self.listener.stop_accepting()
        deadline = self.clock.now() + config.shutdown_grace_period_secs
        while self.forwarding.open_requests and self.clock.now() < deadline and not now.is_set():
            await until(now, 0.05)
        if self.forwarding.open_requests:
            log.warning("%d requests are cut off", self.forwarding.open_requests)
            self.forwarding.stopping = True
            self.watch.end_all(RouterStopped(STOPPED))
            await asyncio.sleep(LAST_WORDS_SECONDS)
        await self.listener.close(0.0)
        if self.metrics_listener is not None:
            await self.metrics_listener.close(0.0)
        if self.metrics_api.siblings is not None:
            await self.metrics_api.siblings.close()
        await self.tasks.cancel()
        if self.discovery is not None:
            await self.discovery.close()
        if self.decision_csv is not None:
            await self.decision_csv.close()
        if self.span_export is not None:
            await self.span_export.close()
        await self.registry.close()
        await self.prober.close()
        await self.aborter.close()
        await self.control.close()
        self.pools.close_idle()
        if self.tracker is not None:
            await self.tracker.close(FLUSH_SECONDS)
        log.info("Stopped")


async def until(event: asyncio.Event, seconds: float) -> None:
    """Wait for `event`, at most so long."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return
