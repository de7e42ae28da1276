"""What a client may cost before its request is there, and how it is told that it is too much."""

from __future__ import annotations

import asyncio
import logging
import socket
from http import HTTPStatus
from typing import Final, NamedTuple

import msgspec

from router.clock import http_date
from router.errors import error_body

log = logging.getLogger("router.connections")

CLOSE: Final = b"Connection: close\r\n"
JSON: Final = b"application/json"
GOODBYE_SECONDS: Final = 1.0  # for a client that is refused to read why
TCP_CLOSE, TCP_CLOSE_WAIT = 7, 8  # include/net/tcp_states.h
RELIEF: Final = 0.9  # share of the limit below which it is said to be over


class ConnectionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """`--max-header-bytes` and its neighbours; `max_connections` 0 is no limit. `idle_seconds`: without
    a request, or without a byte of the body that is being sent."""

    max_header_bytes: int = 65536
    header_read_seconds: float = 30.0
    idle_seconds: float = 90.0
    max_connections: int = 0


class Said(NamedTuple):
    """A worker's own words: the reason of its status line, the body's type, and the body."""

    reason: bytes
    content_type: bytes
    body: bytes


def raw_error(
    status: int,
    code: str,
    message: str,
    *,
    param: str | None = None,
    lines: bytes = CLOSE,
    bodiless: bool = False,
    said: Said | None = None,
) -> bytes:
    """An error as a whole answer; `lines` are further header lines of it. What a worker `said` of it
    is passed on in the place of our own words."""
    reason, kind, body = said or (HTTPStatus(status).phrase.encode(), JSON, b"")
    if not body:
        kind, body = JSON, error_body(status, code, message, param=param)
    return (
        b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n"
        b"X-Content-Type-Options: nosniff\r\nX-SMG-Error-Code: %b\r\nServer: trace-router\r\n"
        b"Date: %b\r\n"
        b"%b\r\n%b"
        % (
            status,
            reason,
            kind,
            len(body),
            code.encode(),
            http_date(),
            lines,
            b"" if bodiless else body,
        )
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


def has_left(transport: asyncio.Transport) -> bool:
    """Has the other side closed a connection that is not being read, so that nobody would tell?

    Only Linux says so; elsewhere nobody has left.
    """
    sock = transport.get_extra_info("socket")
    if sock is None or not hasattr(socket, "TCP_INFO"):
        return False
    state = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return state in (TCP_CLOSE, TCP_CLOSE_WAIT)
