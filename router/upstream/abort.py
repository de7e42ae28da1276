"""Telling SGLang workers to stop working on requests whose clients have gone.

Closing the connection should be enough and mostly is; this is for when it is not. Nobody waits for
it: `abort` returns at once, and what a worker says is only counted.
"""

from __future__ import annotations

import logging
from typing import Final

import msgspec

from router.core.worker import Worker
from router.metrics import Metrics
from router.tasks import Tasks
from router.upstream.control import Control, ControlFailed

log = logging.getLogger("router.abort")

MOST_AT_ONCE: Final = 256  # a thousand clients may leave together; the rest is left to the close


class Aborter:
    """`abort` as often as needed, `close` at the end."""

    def __init__(self, control: Control, metrics: Metrics) -> None:
        self._control = control
        self._metrics = metrics
        self._tasks = Tasks()
        self._running = 0

    def abort(self, worker: Worker, rid: str) -> None:
        """Have `worker` end the request it knows as `rid`, given whole: SGLang matches prefixes."""
        if self._running >= MOST_AT_ONCE:
            self._metrics.abort_ended("dropped")
            return
        self._running += 1
        self._tasks.spawn(self._abort(worker, rid), "abort")

    async def _abort(self, worker: Worker, rid: str) -> None:
        try:
            await ask_to_abort(self._control, worker, rid)
        except ControlFailed as failure:
            self._metrics.abort_ended("failed")
            log.debug("worker %s did not take the abort: %s", worker.node_id, failure)
        else:
            self._metrics.abort_ended("sent")
        finally:
            self._running -= 1

    async def close(self) -> None:
        await self._tasks.cancel()


async def ask_to_abort(control: Control, worker: Worker, rid: str | None) -> None:
    """POST /abort_request, of everything when `rid` is None. Raises ControlFailed."""
    asked = {"abort_all": True} if rid is None else {"rid": rid}
    await control.call_good(worker, "POST", "/abort_request", body=msgspec.json.encode(asked))
