"""`--processes N`: one port, several processes, each a replica by itself.

The supervisor binds the port and hands the socket down, so that no connection is lost when a process
dies or starts: closing one of several SO_REUSEPORT listeners would reset what is queued there. It
starts again what dies, and passes signals on; it serves nothing itself. When it is gone its processes
end as for SIGTERM: they see the end of their standard input.

Its standard input is a socket: what a process needs comes over it (`Order`), so that keys are on no
command line, and the process says there that it is ready.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import Process
from contextlib import ExitStack, suppress
from typing import Final

import msgspec

from router.config import Config
from router.tasks import Tasks
from tracking.embedded import EmbeddedStore, NoServerProgram

log = logging.getLogger("router.processes")

BACKLOG: Final = 4096
READY: Final = b"ready\n"
STORE_CHECK_SECONDS: Final = 0.5
QUICK_DEATH_SECONDS: Final = 5.0  # who lives no longer is not started again at once
RESTART_PAUSE_SECONDS: Final = 1.0


def path_flags() -> tuple[str, ...]:
    """For a Python of ours to find the modules that this one found: `-m` alone would look in the working
    directory first, which may have a `router` of its own."""
    return () if {"", os.getcwd()}.intersection(sys.path) else ("-P",)


class Order(msgspec.Struct, frozen=True):
    """What one process is to do. Sockets are file descriptors; `siblings` is a directory."""

    config: Config
    number: int
    sockets: list[int]
    metrics_sockets: list[int]
    siblings: str


def count_of(config: Config) -> int:
    """How many processes are asked for."""
    if config.processes == "auto":
        return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return config.processes


def share_of(config: Config, number: int, count: int) -> Config:
    """The settings of process `number` of `count`: limits of the host are divided, at least 1 each."""

    def part(whole: int) -> int:
        return max(1, whole // count + (number < whole % count)) if whole > 0 else whole

    rate = config.rate_limit_tokens_per_second
    return msgspec.structs.replace(
        config,
        processes=1,
        router_id=f"{config.router_id}-{number}",
        max_connections=part(config.max_connections),
        max_concurrent_requests=part(config.max_concurrent_requests),
        max_requests_per_worker=part(config.max_requests_per_worker),
        queue_size=part(config.queue_size),
        rate_limit_tokens_per_second=None if rate is None else rate / count,
        trace_buffer_bytes=part(config.trace_buffer_bytes),
        warnings=(),
    )


def bind(host: str, port: int) -> list[socket.socket]:
    """Listening sockets for every address of `host`, on one port. Raises OSError."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    with ExitStack() as undo:
        sockets: list[socket.socket] = []
        for family, _, _, _, address in dict.fromkeys(found):
            at = (address[0], sockets[0].getsockname()[1] if sockets else port, *address[2:])
            sockets.append(socket.create_server(at, family=family, backlog=BACKLOG))
            undo.callback(sockets[-1].close)
        undo.pop_all()
    for one in sockets:
        one.set_inheritable(True)
    return sockets


class Supervisor:
    """Runs `count` processes until it is told to stop."""

    def __init__(self, config: Config, count: int) -> None:
        self._config = config
        self._count = count
        self._path_flags = path_flags()  # once: the working directory may be deleted under us
        self._tasks = Tasks()
        self._running: dict[int, Process] = {}
        self._store: EmbeddedStore | None = None
        self._stop = asyncio.Event()
        self._failed = False

    async def run(self) -> int:
        """The exit status: 1 when it could not start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled)
        config = self._config
        with ExitStack() as stack:
            try:
                sockets = bind(config.host, config.port)
                metrics = (
                    []
                    if config.prometheus_port is None
                    else bind(config.prometheus_host, config.prometheus_port)
                )
                for one in (*sockets, *metrics):
                    stack.callback(one.close)
                siblings = stack.enter_context(
                    tempfile.TemporaryDirectory(prefix="trace-router-", ignore_cleanup_errors=True)
                )
                if config.redis_url is None and config.enable_request_tracking:
                    self._store = EmbeddedStore()
                    await self._store.start()
                    config = msgspec.structs.replace(config, redis_url=self._store.url)
            except (OSError, NoServerProgram) as error:
                log.error("cannot start: %s", error)
                return 1
            if not config.enable_request_tracking:
                log.warning("without traces, /workers changes the process that is asked, no other")
            orders = [
                Order(
                    share_of(config, number, self._count),
                    number,
                    [one.fileno() for one in sockets],
                    [one.fileno() for one in metrics],
                    siblings,
                )
                for number in range(self._count)
            ]
            await asyncio.gather(*(self._keep(order) for order in orders))
            await self._tasks.cancel()
            if self._store is not None:
                await self._store.stop()
        return 1 if self._failed else 0

    def _signalled(self) -> None:
        self._stop.set()
        for process in self._running.values():
            if process.returncode is None:
                terminate(process)

    async def _keep(self, order: Order) -> None:
        """Run one process, again and again."""
        loop = asyncio.get_running_loop()
        served = False
        while not self._stop.is_set():
            began = loop.time()
            process, reader, writer = await self._start(order)
            with suppress(ConnectionError):
                served = await reader.readline() == READY or served
            status = await process.wait()
            writer.close()
            del self._running[order.number]
            could_not_start = status > 0 and not served  # else a signal has ended it
            if self._stop.is_set():
                self._failed = self._failed or could_not_start
                return
            if could_not_start:
                log.error("process %d could not start: all are stopped", order.number)
                self._failed = True
                self._signalled()
                return
            log.warning("process %d ended with status %d: starting another", order.number, status)
            if loop.time() - began < QUICK_DEATH_SECONDS:
                await asyncio.sleep(RESTART_PAUSE_SECONDS)

    async def _start(
        self, order: Order
    ) -> tuple[Process, asyncio.StreamReader, asyncio.StreamWriter]:
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *self._path_flags,
                *("-m", "router.replica"),
                stdin=theirs.fileno(),
                pass_fds=(*order.sockets, *order.metrics_sockets),
                start_new_session=True,  # a terminal's Ctrl-C is for us, who pass it on
            )
        self._running[order.number] = process
        reader, writer = await asyncio.open_connection(sock=ours)
        writer.write(msgspec.json.encode(order) + b"\n")
        if self._stop.is_set():
            terminate(process)
        return process, reader, writer


def terminate(process: Process) -> None:
    """Not by `send_signal`: it would take the exit status away from asyncio."""
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGTERM)


def run(config: Config, count: int) -> int:
    """Supervise until SIGINT or SIGTERM; the exit status."""
    return asyncio.run(Supervisor(config, count).run())
