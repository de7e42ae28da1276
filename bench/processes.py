"""Processes pinned to cores, and what they used of them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Pinned:
    """A process, and what it starts, on these cores only. Ended with the `with` block."""

    def __init__(
        self,
        command: Sequence[str],
        cores: Collection[int],
        log: Path,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=os.environ | (environment or {}),
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def cpu_seconds(self) -> dict[int, float]:
        """User and system time of the process and its living descendants, by pid."""
        return {pid: _cpu_ticks(pid) / TICKS_PER_SECOND for pid in _tree(self._process.pid)}

    def memory_bytes(self) -> int:
        """Resident memory of all of them."""
        return sum(_resident_pages(pid) for pid in _tree(self._process.pid)) * PAGE_BYTES


def core_busy_seconds(core: int) -> float:
    """How long `core` has worked since the machine started."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _iowait, irq, softirq = map(int, fields[:7])
            return (user + nice + system + irq + softirq) / TICKS_PER_SECOND
    raise ValueError(f"no core {core}")


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the command, which may hold spaces; none if it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _cpu_ticks(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[11]) + int(fields[12]) if fields else 0


def _resident_pages(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[21]) if fields else 0


def _tree(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    tree = [root]
    for pid in tree:
        tree += children.get(pid, [])
    return tree
