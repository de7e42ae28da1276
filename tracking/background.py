"""Tasks that run beside their owner until it closes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine

log = logging.getLogger("tracking")


class BackgroundTasks:
    """Started one by one, ended together. One that crashes is logged, and not started again."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def __bool__(self) -> bool:
        return bool(self._tasks)

    def start(self, coroutine: Coroutine[object, object, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        task.add_done_callback(_report_crash)
        self._tasks.append(task)

    async def end(self) -> None:
        # More than once: before Python 3.12 asyncio.wait_for, which redis-py uses, swallows a
        # cancellation that arrives together with the answer.
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks, timeout=0.05)
            self._tasks = [task for task in self._tasks if not task.done()]


def _report_crash(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("%s crashed", task.get_name(), exc_info=error)
