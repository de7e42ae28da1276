"""A whole router without sockets: its clients and its workers are objects in this process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Final, Self

from bench.fuzz_cases import MAX_BODY_BYTES, Ending
from router.api.connection import ClientConnection
from router.api.record import Recorder
from router.app import App
from router.configure import from_keywords
from router.core.worker import Worker
from router.outbox import Outbox
from router.upstream.connection import UpstreamConnection
from router.upstream.pool import ConnectionPool
from router.upstream.pools import Pools
from tracking.lifecycle import LiveTrace

WORKER_URLS: Final = ("http://127.0.0.1:1", "http://127.0.0.1:2")  # nobody connects to them
CONNECT_SECONDS: Final = 1
KEEPALIVE_SECONDS: Final = 1000

MakeConnection = Callable[[str], UpstreamConnection]  # from the worker's URL


class MemoryTransport(asyncio.Transport):
    """Keeps what is written. A close is told to the protocol in the next turn of the loop."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = False
        self.aborted = False
        self._protocol = protocol
        self._reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self.closed:
            self.written += data

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return False

    def is_closing(self) -> bool:
        return self.closed

    def is_reading(self) -> bool:
        return self._reading

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default

    def close(self) -> None:
        self.end(None)

    def abort(self) -> None:
        self.aborted = self.aborted or not self.closed
        self.end(None)

    def end(self, error: Exception | None) -> None:
        """The connection is over, whoever ended it."""
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, error)


class WorkerWire(MemoryTransport):
    """A worker: to whatever is sent it says its lines, one a turn, and then ends as told."""

    def __init__(
        self, connection: UpstreamConnection, lines: Iterable[bytes], ending: Ending
    ) -> None:
        super().__init__(connection)
        self._connection = connection
        self._lines = list(lines)
        self._ending = ending

    def write(self, data: bytes | bytearray | memoryview) -> None:
        super().write(data)
        self._later(iter(self._lines))

    def _later(self, lines: Iterable[bytes]) -> None:
        asyncio.get_running_loop().call_soon(self._say, lines)

    def _say(self, lines: Iterable[bytes]) -> None:
        if self.closed:
            return
        for line in lines:
            self._connection.data_received(line)
            self._later(lines)
            return
        if self._ending == "rst":
            self.end(ConnectionResetError())
        elif self._ending == "fin":
            self._connection.eof_received()
            self.end(None)


class MemoryPool(ConnectionPool):
    """Its connections lead to a `WorkerWire`."""

    def __init__(self, worker: Worker, make: MakeConnection, outbox: Outbox) -> None:
        super().__init__(
            worker.url,
            worker.host,
            worker.port,
            outbox=outbox,
            tls=None,
            connect_timeout_seconds=CONNECT_SECONDS,
            keepalive_seconds=KEEPALIVE_SECONDS,
        )
        self._make = make

    async def connect(self) -> UpstreamConnection:
        return self._make(self._name)


class MemoryPools(Pools):
    def __init__(self, make: MakeConnection, outbox: Outbox) -> None:
        super().__init__(
            outbox=outbox,
            tls=None,
            connect_timeout_seconds=CONNECT_SECONDS,
            keepalive_seconds=KEEPALIVE_SECONDS,
        )
        self._make = make

    def made(self, worker: Worker) -> ConnectionPool:
        return MemoryPool(worker, self._make, self._outbox)


class Client:
    """One client connection to the router."""

    def __init__(self, world: World) -> None:
        self.connection = ClientConnection(world.app.listener, asyncio.get_running_loop())
        self.transport = MemoryTransport(self.connection)
        self.connection.connection_made(self.transport)

    def send(self, data: bytes) -> None:
        if not self.transport.closed:
            self.connection.data_received(data)

    def leave(self) -> None:
        if not self.transport.closed:
            self.connection.eof_received()
            self.transport.end(None)


class World(logging.Handler):
    """The router, what it logged as an error, and every trace it opened."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        settings: dict[str, object] = {
            "worker_urls": list(WORKER_URLS),
            "policy": "round_robin",
            "disable_health_check": True,
            "disable_circuit_breaker": True,
            "enable_request_tracking": False,
            "admin_api_key": "no-client-here-has-it",
            "max_payload_size": MAX_BODY_BYTES,
            "max_concurrent_requests": 1000,
            "retry_initial_backoff_ms": 1,
            "retry_max_backoff_ms": 1,
            "log_level": "error",
        }
        self.app = App(from_keywords(settings, {}))
        self.app.forwarding.recorder = Recorder(self._put, self.app.clock, "fuzz", "round_robin")
        self.app.forwarding.pools = MemoryPools(self._connect, self.app.outbox)
        for number, url in enumerate(WORKER_URLS):
            self.app.fleet.add(Worker(url, f"worker-{number}"))
        self.errors: list[str] = []
        self.traces: dict[str, LiveTrace] = {}
        self.ends: list[str] = []  # the key of a trace, each time that one is put down as ended
        self.wires: list[WorkerWire] = []
        self.upstream: list[UpstreamConnection] = []
        self.lines: list[bytes] = []
        self.ending: Ending = "silence"

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self.app.listener.open()
        loop.set_exception_handler(lambda _, context: self.errors.append(repr(context)))
        logging.getLogger().addHandler(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.get_running_loop().set_exception_handler(None)
        logging.getLogger().removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.errors.append(logging.Formatter().format(record))

    def begin(self, lines: list[bytes], ending: Ending) -> None:
        """A new case: what the workers will say, everything else forgotten."""
        self.lines, self.ending = lines, ending
        self.app.forwarding.pools.close_idle()
        self.errors.clear()
        self.traces.clear()
        self.ends.clear()
        self.wires.clear()
        self.upstream.clear()

    def _put(self, live: LiveTrace) -> None:
        key = live.key
        self.traces[key] = live
        if live.terminal:
            self.ends.append(key)

    def _connect(self, url: str) -> UpstreamConnection:
        connection = UpstreamConnection(url, self.app.outbox)
        wire = WorkerWire(connection, self.lines, self.ending)
        connection.connection_made(wire)
        self.wires.append(wire)
        self.upstream.append(connection)
        return connection

    # -- to ask ----------------------------------------------------------------------------

    @property
    def at_workers(self) -> int:
        return sum(worker.in_flight for worker in self.app.fleet.workers)

    def leaks(self) -> list[str]:
        """What should be nothing once every client has left."""
        held = {
            "open requests": self.app.forwarding.open_requests,
            "in flight at workers": self.at_workers,
            "places taken": self.app.gate.counts.active,
            "waiting": self.app.gate.counts.waiting,
            "watched exchanges": len(self.app.watch),
            "client connections": self.app.listener.connections,
            "worker connections that nobody holds": self._unheld(),
        }
        return [f"{count} {what}" for what, count in held.items() if count]

    def _unheld(self) -> int:
        pools = self.app.forwarding.pools
        held = {c for worker in self.app.fleet.workers for c in pools.of(worker)._idle}
        return sum(not c.closed and c not in held for c in self.upstream)

    async def quiet(self, turns: int = 8) -> None:
        """Until nothing has happened for so many turns of the loop."""
        still, before = 0, (-1, -1)
        while still < turns:
            await asyncio.sleep(0)
            now = (self.app.forwarding.open_requests, sum(len(w.written) for w in self.wires))
            still, before = (still + 1, before) if now == before else (0, now)
