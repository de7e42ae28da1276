"""A proxy that makes a store slow: everything passes, later."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self


class SlowProxy:
    """Listens on loopback and passes to the unix socket `path`; answers come `seconds` later."""

    def __init__(self, path: str, seconds: float) -> None:
        self.seconds = seconds
        self._path = path
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        far_reader, far_writer = await asyncio.open_unix_connection(self._path)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_pass(reader, far_writer))
                both.create_task(self._later(far_reader, writer))
        except* OSError:
            pass
        finally:
            self._tasks.discard(task)
            for one in (writer, far_writer):
                with suppress(OSError):
                    one.close()

    async def _later(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while data := await reader.read(1 << 16):
            # Delayed, not slowed: the next bytes are read meanwhile.
            loop.call_later(self.seconds, writer.write, data)
        writer.close()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()
