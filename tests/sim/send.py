"""Puts an answer on the wire, honestly or as a fault says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from email.utils import formatdate
from http import HTTPStatus
from typing import Literal

import msgspec

from tests.sim.connection import Connection, Request
from tests.sim.faults import Fault

Headers = tuple[tuple[str, str], ...]
Outcome = Literal["finished", "cut"]

JSON: Headers = (("content-type", "application/json"),)
TEXT: Headers = (("content-type", "text/plain; charset=utf-8"),)
SSE: Headers = (("content-type", "text/event-stream; charset=utf-8"),)
INTERIM = (
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>; rel=preload\r\n\r\n"
)


class Answer(msgspec.Struct):
    """What a route says. A body that is not bytes yet is sent piece by piece, as it comes."""

    body: bytes | AsyncGenerator[bytes, None] = b""
    status: int = 200
    headers: Headers = TEXT


def json_answer(value: object, status: int = 200) -> Answer:
    return Answer(msgspec.json.encode(value), status, JSON)


async def send(
    connection: Connection, request: Request, answer: Answer, fault: Fault | None
) -> Outcome:
    """Answer `request`. Raises ClientGone."""
    match fault:
        case Fault(kind="hang" | "no_read", status=0):
            await connection.wait_lost(fault.seconds)
            await connection.cut(reset=fault.reset)
            return "cut"
        case Fault(kind="cut_before_head"):
            await connection.cut(reset=fault.reset)
            return "cut"
        case Fault(kind="cut_mid_head"):
            await connection.write(b"HTTP/1.1 200 OK\r\nContent-Ty")
            await connection.cut(reset=fault.reset)
            return "cut"
        case Fault(kind="garbage_head"):
            await connection.write(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
            await connection.cut(reset=fault.reset)
            return "cut"
        case Fault(kind="interim"):
            await connection.write(INTERIM)
        case Fault(kind="huge_body"):
            answer = Answer(b'"' + b"x" * (fault.bytes - 2) + b'"', 200, JSON)
    return await _send_whole(connection, request, answer, fault)


async def _send_whole(
    connection: Connection, request: Request, answer: Answer, fault: Fault | None
) -> Outcome:
    kind = fault.kind if fault else None
    by_close = kind == "http10" or request.version == "1.0"
    chunked = not by_close and (
        not isinstance(answer.body, bytes)
        or kind in ("trailers", "length_and_chunked")
        or (fault is not None and fault.chunked)
    )
    headers: list[tuple[str, str]] = [
        ("date", formatdate(usegmt=True)),
        ("server", "uvicorn"),
        *answer.headers,
    ]
    if chunked:
        headers.append(("transfer-encoding", "chunked"))
    elif isinstance(answer.body, bytes) and kind != "http10":
        headers.append(("content-length", str(len(answer.body))))
    if kind == "connection_close" or (by_close and kind != "http10"):
        headers.append(("connection", "close"))
    headers += _fault_headers(answer, fault)

    version = "1.0" if kind == "http10" else "1.1"
    await connection.write(_head(version, answer.status, headers))
    if by_close or kind in ("connection_close", "close_silently"):
        connection.close_after_answer = True
    if request.method == "HEAD":
        return "finished"
    async with aclosing(_pieces(answer.body, fault)) as pieces:
        async for piece in pieces:
            await connection.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
    if fault and kind in ("cut", "hang_after"):
        if kind == "hang_after":
            await connection.wait_lost(fault.seconds)
        await connection.cut(reset=fault.reset)
        return "cut"
    if chunked:
        await connection.write(
            b"0\r\nx-sim-trailer: last\r\n\r\n" if kind == "trailers" else b"0\r\n\r\n"
        )
    return "finished"


def _head(version: str, status: int, headers: list[tuple[str, str]]) -> bytes:
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = "Unknown"
    lines = [f"HTTP/{version} {status} {reason}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _fault_headers(answer: Answer, fault: Fault | None) -> list[tuple[str, str]]:
    length = len(answer.body) if isinstance(answer.body, bytes) else 0
    match fault:
        case Fault(kind="trailers"):
            return [("trailer", "x-sim-trailer")]
        case Fault(kind="conflicting_lengths"):
            return [("content-length", str(length + 1)), ("content-length", str(length + 2))]
        case Fault(kind="length_and_chunked"):
            return [("content-length", str(length + 1))]
        case Fault(kind="oversize_headers"):
            return [("x-sim-filler", "x" * fault.bytes)]
    return []


async def _pieces(
    body: bytes | AsyncGenerator[bytes, None], fault: Fault | None
) -> AsyncGenerator[bytes, None]:
    """The body in the pieces it is written in: fewer or smaller ones where a fault says so."""
    limit_bytes: int | None = None
    limit_pieces: int | None = None
    if fault and fault.kind in ("cut", "hang_after"):
        limit_bytes = fault.after_bytes
        if limit_bytes is None and isinstance(body, bytes):
            limit_bytes = len(body) // 2
        elif limit_bytes is None:
            limit_pieces = fault.after_events
    if 0 in (limit_bytes, limit_pieces):
        return
    sent_bytes = sent_pieces = 0
    async with aclosing(_whole(body)) as whole:
        async for piece in whole:
            if limit_bytes is not None:
                piece = piece[: limit_bytes - sent_bytes]
            if fault and fault.kind == "drip":
                step = fault.after_bytes or 1
                for start in range(0, len(piece), step):
                    yield piece[start : start + step]
                    await asyncio.sleep(0.01 if fault.seconds is None else fault.seconds)
            elif piece:
                yield piece
            sent_bytes += len(piece)
            sent_pieces += 1
            if sent_bytes == limit_bytes or sent_pieces == limit_pieces:
                return


async def _whole(body: bytes | AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    if isinstance(body, bytes):
        if body:
            yield body
        return
    async for piece in body:
        yield piece
