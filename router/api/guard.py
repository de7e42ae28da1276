"""What a client may cost before its request is there: size and time of a head, connections at all.

aiohttp bounds each line of a head and closes idle connections; the rest is here. Nothing is done
per request but one search in the bytes that come first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import msgspec

from router.errors import error_body

log = logging.getLogger("router.connections")

HEAD_END: Final = b"\r\n\r\n"
GOODBYE_SECONDS: Final = 1.0  # for a client that is refused to read why
RELIEF: Final = 0.9  # share of the limit below which it is said to be over
PHRASES: Final = {
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class ConnectionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """`--max-header-bytes` and its neighbours; `max_connections` 0 is no limit."""

    max_header_bytes: int = 65536
    header_read_seconds: float = 30.0
    idle_seconds: float = 90.0
    max_connections: int = 0


class HeadWatch:
    """Follows the bytes of one connection from request to request while they are those of a head."""

    __slots__ = ("_bytes", "_tail", "awaited", "began_at")

    def __init__(self) -> None:
        self.awaited = True  # the next byte is that of a head
        self.began_at: float | None = None  # a head has begun and is not complete
        self._bytes = 0
        self._tail = b""

    def take(self, data: bytes, now: Callable[[], float]) -> int:
        """Count `data`; the size of the head so far. `now()` in monotonic seconds."""
        seen = self._tail + data if self._tail else data
        end = seen.find(HEAD_END)
        if end < 0:
            if self.began_at is None:
                self.began_at = now()
            self._bytes += len(data)
            self._tail = seen[-3:]
            return self._bytes
        size = self._bytes + end + len(HEAD_END) - len(self._tail)
        self.awaited = False
        self.began_at = None
        self._bytes = 0
        self._tail = b""
        return size

    def next(self) -> None:
        """A request was read and answered; a head may follow."""
        self.awaited = True


def raw_error(status: int, code: str, message: str) -> bytes:
    """An answer for where there is no request to answer, with its head."""
    body = error_body(status, code, message)
    retry = b"Retry-After: 1\r\n" if status == 503 else b""
    return (
        b"HTTP/1.1 %d %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b"
        b"Connection: close\r\nServer: trace-router\r\n\r\n%b"
        % (status, PHRASES[status].encode(), len(body), retry, body)
    )


def say_goodbye(transport: asyncio.Transport, answer: bytes) -> None:
    """Send a last answer and close. The protocol must drop what still comes.

    It is read for a moment: closing on unread bytes would reset the connection, and the client
    would never see why.
    """
    transport.write(answer)
    if transport.can_write_eof():
        transport.write_eof()
    asyncio.get_running_loop().call_later(GOODBYE_SECONDS, transport.abort)


class Room:
    """How many connections there may be (0: any number), and a log line when that is reached."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._full = False

    def enter(self) -> bool:
        """False, and nothing is counted, when there is no room."""
        if self._limit and self._taken >= self._limit:
            if not self._full:
                self._full = True
                log.warning("%d client connections: more are refused", self._limit)
            return False
        self._taken += 1
        return True

    def leave(self) -> None:
        self._taken -= 1
        if self._full and self._taken <= self._limit * RELIEF:
            self._full = False
            log.info("%d client connections: more are taken again", self._taken)
