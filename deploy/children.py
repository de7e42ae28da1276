"""Child processes that end with us, however we end."""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

POLL_SECONDS = 0.05
STOP_SECONDS = 10.0
PR_SET_PDEATHSIG = 1


class ChildFailed(Exception):
    """A child ended, or was not ready in time. The message holds the end of its log."""


class Child:
    def __init__(self, name: str, process: subprocess.Popen[bytes], log_path: Path) -> None:
        self.name = name
        self.process = process
        self.log_path = log_path

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def signal_group(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass  # nobody of it is left


class Children:
    """Started in order, stopped in reverse, each with its own process group and log file.

    async with Children() as children:
        child = children.start("worker-0", [...])
        await children.until(ready, child, seconds=10)
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="trace-router-demo-"))
        self._children: list[Child] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for child in reversed(self._children):
            await self._stop(child)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Child:
        log_path = self.folder / f"{name}.log"
        with log_path.open("wb") as log, warnings.catch_warnings():
            # Newer Pythons warn of a fork beside threads; ours only makes two system calls.
            warnings.simplefilter("ignore", DeprecationWarning)
            process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C reaches us alone: we stop the others, in order.
                start_new_session=True,
                preexec_fn=_end_with(os.getpid()) if sys.platform == "linux" else None,
            )
        child = Child(name, process, log_path)
        self._children.append(child)
        return child

    def check(self) -> None:
        """Raises ChildFailed if one has ended."""
        for child in self._children:
            if (status := child.process.poll()) is not None:
                raise ChildFailed(f"{child.name} ended with {status}:\n{child.log()[-3000:]}")

    async def until(
        self, ready: Callable[[], Awaitable[bool]], child: Child, seconds: float
    ) -> None:
        """Wait until `ready()`. Raises ChildFailed when a child ends or time is up."""
        try:
            async with asyncio.timeout(seconds):
                while not await ready():
                    self.check()
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise ChildFailed(
                f"{child.name} was not ready after {seconds:.0f} s:\n{child.log()[-3000:]}"
            ) from None

    async def _stop(self, child: Child) -> None:
        child.signal_group(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                while child.process.poll() is None:
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            pass
        child.signal_group(signal.SIGKILL)  # also what it started and left behind
        child.process.wait()


def _end_with(parent: int) -> Callable[[], None]:
    """Have Linux end the child when we are killed and cannot."""
    libc = ctypes.CDLL(None)  # looked up before the fork: afterwards almost nothing is safe

    def before_exec() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended in between
            os._exit(1)

    return before_exec
