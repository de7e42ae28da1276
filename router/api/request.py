"""One request as it arrives: its head, and its body as far as it has come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from router.core.asked import Asked
from router.core.kept import keep
from router.errors import ExpectationFailed, RouterError, TooLarge

Header = tuple[bytes, bytes]
RawHeaders = Sequence[Header]

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_names: dict[bytes, str] = {}


class Writer(Protocol):
    """Takes bytes for the client."""

    def write(self, data: bytes) -> None: ...


class Request:
    """Head and body. `headers` holds the first of each header, by its name in lower case; `asked` is
    what they ask.

    `whole` says that the body has come to its end. It is kept until somebody asks for it: with
    `body`, all at once, or with `pour`, as it comes. `written` is for `HeaderRules.request_head`; requests
    whose heads are known to be alike share it, and what they ask.
    """

    __slots__ = (
        "_dropped",
        "_pieces",
        "_sink",
        "_waiter",
        "asked",
        "broken",
        "chunked",
        "client",
        "headers",
        "http11",
        "keep_alive",
        "method",
        "raw_headers",
        "size",
        "target",
        "whole",
        "written",
    )

    def __init__(
        self,
        client: Writer,
        method: str,
        target: bytes,
        raw_headers: RawHeaders,
        headers: Mapping[str, str],
        http11: bool,
        keep_alive: bool,
        written: dict[bool, bytes] | None = None,
        asked: Asked | None = None,
    ) -> None:
        self.client = client
        self.method = method
        self.target = target
        self.raw_headers = raw_headers
        self.headers = headers
        self.http11 = http11
        self.keep_alive = keep_alive
        self.written = {} if written is None else written
        self.asked = asked or Asked(headers)
        self.chunked = "transfer-encoding" in headers
        self.whole = False
        self.broken: RouterError | None = None  # why the rest of the body cannot be read
        self.size = 0  # of the body so far
        self._pieces: list[bytes] = []
        self._sink: Callable[[bytes], None] | None = None
        self._dropped = False
        self._waiter: asyncio.Future[None] | None = None

    @property
    def content_length(self) -> int | None:
        """As announced; the parser has made sure that it is a number."""
        given = self.headers.get("content-length")
        return None if given is None else int(given)

    @property
    def has_body(self) -> bool:
        """Also where it is empty."""
        return self.chunked or "content-length" in self.headers

    # -- the connection's side -------------------------------------------------------------

    def feed(self, piece: bytes) -> None:
        """The next piece of the body."""
        if self._dropped:
            return
        self.size += len(piece)
        if self._sink is not None:
            self._sink(self._framed(piece))
        else:
            self._pieces.append(piece)

    def end(self) -> None:
        """The body is whole."""
        self.whole = True
        if self._sink is not None and self.chunked:
            self._sink(b"0\r\n\r\n")

    def give_up(self, why: RouterError) -> None:
        """The body will not come further. Nothing may follow it on its connection."""
        self.broken = why
        self.keep_alive = False
        self.wake()

    def wake(self) -> None:
        """Let `body` see what one read of the socket has brought."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # -- the reader's side -----------------------------------------------------------------

    async def body(self, limit: int) -> bytes:
        """The whole body, at most `limit` bytes; asks for it where the client waits to be asked.

        Raises TooLarge (before reading, where the length is announced), ExpectationFailed, and
        BadRequest for broken framing, and UploadStalled.
        """
        if not self.whole:
            length = self.content_length
            if length is not None and length > limit:
                raise too_large(limit)
            expect = self.headers.get("expect")
            if expect is not None:
                check_expectation(expect)
                if self.http11 and not self.size:
                    self.client.write(CONTINUE)
        while not self.whole and self.broken is None and self.size <= limit:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self.take(limit)

    def take(self, limit: int) -> bytes:
        """The same of a body that is there, or will not come further."""
        if "expect" in self.headers:
            check_expectation(self.headers["expect"])
        if self.size > limit:
            raise too_large(limit)
        if self.broken is not None:
            raise self.broken
        pieces, self._pieces = self._pieces, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def pour(self, sink: Callable[[bytes], None]) -> None:
        """Give the whole request to `sink`, as it came but for its chunks' sizes."""
        sink(self.raw_head())
        pieces, self._pieces = self._pieces, []
        for piece in pieces:
            sink(self._framed(piece))
        self._sink = sink
        if self.whole:
            self.end()

    def drop(self) -> None:
        """Nobody wants the rest of the body."""
        self._dropped = True
        self._sink = None
        self._pieces.clear()

    def raw_head(self, without: bytes = b"") -> bytes:
        """The head as bytes, without the header `without` (a name in lower case)."""
        version = b"1.1" if self.http11 else b"1.0"
        lines = [b"%b %b HTTP/%b" % (self.method.encode(), self.target, version)]
        lines += [n + b": " + v for n, v in self.raw_headers if n.lower() != without]
        return b"\r\n".join((*lines, b"", b""))

    def _framed(self, piece: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(piece), piece) if self.chunked else piece


def by_name(raw_headers: RawHeaders) -> dict[str, str]:
    """The first of each header, by its name in lower case."""
    found: dict[str, str] = {}
    for name, value in raw_headers:
        known = _names.get(name) or _lowered(name)
        if known not in found:
            found[known] = value.decode("utf-8", "surrogateescape")
    return found


def _lowered(name: bytes) -> str:
    lowered = name.lower().decode("latin-1")
    keep(_names, name, lowered, len(name))
    return lowered


def check_expectation(expect: str) -> None:
    """Raises ExpectationFailed for anything but `100-continue`."""
    if expect.strip().lower() != "100-continue":
        raise ExpectationFailed(f"cannot meet the expectation {expect[:64]!r}")


def too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is larger than {limit} bytes (--max-payload-size)")
