"""Bytes on a socket, exactly: a client and a scripted server for what HTTP libraries will not do."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from tests.waiting import PATIENCE_SECONDS


class RawResponse:
    """An HTTP/1.1 answer: `raw` is every byte of it as it came."""

    def __init__(self, head: bytes, body: bytes, raw: bytes) -> None:
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split(" ", 2)[1])
        self.headers = [
            (name.lower(), value.strip())
            for name, _, value in (line.partition(":") for line in lines[1:] if line)
        ]
        self.body = body
        self.raw = raw

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name.lower()), None)


class RawConnection:
    """One TCP connection. Every read has a deadline; TimeoutError says that nothing came."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = sock
        self.received = bytearray()
        """Read from the socket and not yet asked for."""

    @classmethod
    async def connect(
        cls, port: int, host: str = "127.0.0.1", *, receive_buffer: int | None = None
    ) -> Self:
        """`receive_buffer` (bytes) makes a client that the other side fills quickly."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await asyncio.get_running_loop().sock_connect(sock, (host, port))
        except OSError:
            sock.close()
            raise
        return cls(sock)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def post(self, path: str, body: bytes, headers: str = "") -> None:
        """Send a JSON request; `headers` are whole lines, each with its CRLF."""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n{headers}\r\n"
        )
        await self.send(head.encode("latin-1") + body)

    async def get(self, path: str, headers: str = "") -> None:
        await self.send(f"GET {path} HTTP/1.1\r\nHost: test\r\n{headers}\r\n".encode("latin-1"))

    async def _more(self) -> bool:
        data = await asyncio.get_running_loop().sock_recv(self.socket, 1 << 16)
        self.received += data
        return bool(data)

    def _take(self, count: int) -> bytes:
        taken = bytes(self.received[:count])
        del self.received[:count]
        return taken

    async def read_exactly(self, count: int, seconds: float = PATIENCE_SECONDS) -> bytes:
        """Raises EOFError if the other side ended before."""
        async with asyncio.timeout(seconds):
            while len(self.received) < count:
                if not await self._more():
                    raise EOFError(bytes(self.received))
        return self._take(count)

    async def read_until(self, end: bytes, seconds: float = PATIENCE_SECONDS) -> bytes:
        """Everything up to and with `end`. Raises EOFError if it never came."""
        async with asyncio.timeout(seconds):
            while (at := self.received.find(end)) < 0:
                if not await self._more():
                    raise EOFError(bytes(self.received))
        return self._take(at + len(end))

    async def read_to_end(self, seconds: float = PATIENCE_SECONDS) -> bytes:
        """Everything until the other side's FIN. Raises ConnectionResetError on RST."""
        async with asyncio.timeout(seconds):
            while await self._more():
                pass
        return self._take(len(self.received))

    async def read_response(
        self, *, head_only: bool = False, seconds: float = PATIENCE_SECONDS
    ) -> RawResponse:
        """One answer by its own framing. Raises EOFError if it is cut short."""
        head = await self.read_until(b"\r\n\r\n", seconds)
        response = RawResponse(head, b"", head)
        if head_only or response.status < 200 or response.status in (204, 304):
            return response
        if "chunked" in (response.header("transfer-encoding") or ""):
            response.body, framed = await self._read_chunks(seconds)
        elif (length := response.header("content-length")) is not None:
            response.body = framed = await self.read_exactly(int(length), seconds)
        else:
            response.body = framed = await self.read_to_end(seconds)
        response.raw += framed
        return response

    async def _read_chunks(self, seconds: float) -> tuple[bytes, bytes]:
        body = framed = b""
        while True:
            line = await self.read_until(b"\r\n", seconds)
            framed += line
            size = int(line.split(b";")[0], 16)
            if size == 0:
                while line != b"\r\n":
                    line = await self.read_until(b"\r\n", seconds)
                    framed += line
                return body, framed
            chunk = await self.read_exactly(size + 2, seconds)
            framed += chunk
            body += chunk[:-2]

    def finish_sending(self) -> None:
        """FIN in our direction; the answer can still be read."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Leave at once, with RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        self.socket.close()


class ScriptedServer:
    """Runs `script` with each connection that comes in; closes the connection after it.

    What went wrong in a script is raised when the server is left.
    """

    def __init__(self, script: Callable[[RawConnection], Awaitable[None]]) -> None:
        self._script = script
        self._tasks: list[asyncio.Task[None]] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.connections = 0

    async def __aenter__(self) -> Self:
        self._accepting = asyncio.create_task(self._accept())
        return self

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(self._listener)
            self.connections += 1
            self._tasks.append(asyncio.create_task(self._run(RawConnection(sock))))

    async def _run(self, connection: RawConnection) -> None:
        async with connection:
            await self._script(connection)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        tasks = [self._accepting, *self._tasks]
        crashed = [task.exception() for task in self._tasks if task.done() and not task.cancelled()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listener.close()
        if error is None:
            for problem in crashed:
                if problem is not None and not isinstance(problem, EOFError | ConnectionError):
                    raise problem
