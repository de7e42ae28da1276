"""A process that serves until it is told to stop: its loop, its signals, its limits."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable

import aiohttp

from router.app import App, Sockets
from router.config import Config

log = logging.getLogger("router")


def run(config: Config, inherited: Sockets | None = None) -> int:
    """Serve until SIGINT or SIGTERM; the exit status."""
    raise_file_limit()
    with asyncio.Runner(loop_factory=event_loop_factory()) as runner:
        return runner.run(serve(config, inherited))


async def serve(config: Config, inherited: Sockets | None = None) -> int:
    """`run`, inside a loop that is there already."""
    stop, now = asyncio.Event(), asyncio.Event()

    def signalled() -> None:
        (now if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, signalled)
    app = None
    try:
        app = await asyncio.to_thread(
            App, config, inherited
        )  # it reads files: certificates, our version
        await app.start()
    except (OSError, ValueError, aiohttp.ClientError) as error:
        log.error("cannot start: %s", error)
        now.set()
        if app is not None:
            await app.stop(now)
        return 1
    spare_the_collector()
    if inherited is not None:
        inherited.ready()
    await stop.wait()
    await app.stop(now)
    return 0


def event_loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop

    # Names are looked up by threads of libuv, four unless told otherwise: as many workers whose names
    # hang would hold up Redis, every other worker and the start.
    os.environ.setdefault("UV_THREADPOOL_SIZE", "64")
    return uvloop.new_event_loop


def spare_the_collector() -> None:
    """Take what lives as long as the process out of the garbage collector's sight.

    Requests leave few cycles behind; reference counting frees nearly everything. Without this the
    collector walks through all imported modules and the prefix index again and again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def raise_file_limit() -> None:
    """Each request needs two sockets; the usual soft limit of 1024 is soon reached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
