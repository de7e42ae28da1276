"""Asking an engine for its load, and to empty its prefix cache, by the path that its kind knows."""

from __future__ import annotations

from typing import Final

from router.core.engines import EngineLoad, Unreadable, engine_named
from router.core.worker import Worker
from router.upstream.control import Control, ControlFailed

METRICS_BYTES: Final = 16 << 20
NOT_THERE: Final = (404, 405, 501)  # llama.cpp answers 501 for what a flag would switch on


async def loads_of(control: Control, worker: Worker) -> list[EngineLoad]:
    """What `worker` has to do by its own account, for each of its ranks. Raises ControlFailed."""
    for source in engine_named(worker.engine).loads:
        reply = await control.call(worker, "GET", source.path, max_bytes=METRICS_BYTES)
        if reply.status in NOT_THERE:
            continue
        if reply.status != 200:
            raise ControlFailed(f"{source.path} answered {reply.status}")
        try:
            return source.read(reply.body)
        except Unreadable as error:
            raise ControlFailed(f"its {source.path} is not understood: {error}") from None
    raise ControlFailed("it does not tell its load")


async def flush(control: Control, worker: Worker) -> None:
    """Have `worker` empty its prefix cache. Raises ControlFailed."""
    engine = engine_named(worker.engine)
    if engine.flush_path is None:
        raise ControlFailed(f"{engine.name} has no call that empties its cache")
    await control.call_good(worker, "POST", engine.flush_path)
