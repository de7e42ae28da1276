"""A head that comes again on its connection is known by its bytes, and not parsed again.

Clients repeat themselves, but for the length of the body. So what llhttp made of a request that came
whole, in one read, is kept; and where all of its head but the digits of that length comes again, between
two requests, llhttp would make the same of it, for it has nothing else to go by. Nothing is understood
here that it did not understand before.
"""

from __future__ import annotations

from typing import Final

from router.api.request import Header, Request, Writer
from router.core.headers import SECRET
from router.core.kept import keep

LENGTH: Final = b"content-length"
LENGTH_NAME: Final = LENGTH.decode()
LENGTH_LINE: Final = b"\r\n%b: " % LENGTH
MOST_DIGITS: Final = 15
MOST_BYTES: Final = 4096  # of a head that is kept: each connection has its own

_shared: dict[Header, Header] = {}


class KnownHead:
    """The head of `seen` is `before`, the `digits` of its length, and `after`."""

    __slots__ = (
        "_after",
        "_before",
        "_digits",
        "_headers",
        "_http11",
        "_length_at",
        "_method",
        "_raw_headers",
        "_size",
        "_target",
    )

    def __init__(self, seen: Request, before: bytes, digits: bytes, after: bytes) -> None:
        self._method = seen.method
        self._target = seen.target
        self._raw_headers = [shared(header) for header in seen.raw_headers]
        self._length_at = [name.lower() for name, _ in seen.raw_headers].index(LENGTH)
        self._headers = seen.headers
        self._http11 = seen.http11
        self._before = before
        self._digits = digits
        self._after = after
        self._size = int(digits)

    def again(self, client: Writer, data: bytes) -> Request | None:
        """The one request that `data` is, to its last byte; None where it is not one like that."""
        start, after = len(self._before), self._after
        if data[:start] != self._before:
            return None
        stop = start + len(self._digits)
        if data[stop : stop + len(after)] != after:
            stop = data.find(b"\r", start, start + MOST_DIGITS + 1)  # it has more digits, or fewer
            if stop < 0 or data[stop : stop + len(after)] != after:
                return None
        digits, body = data[start:stop], data[stop + len(after) :]
        raw_headers, headers, size = self._raw_headers, self._headers, self._size
        if digits != self._digits:
            if not digits.isdigit():
                return None
            size = int(digits)
            at, raw_headers = self._length_at, raw_headers.copy()
            raw_headers[at] = raw_headers[at][0], digits
            headers = {**headers, LENGTH_NAME: digits.decode()}
        if len(body) != size:
            return None
        request = Request(
            client, self._method, self._target, raw_headers, headers, self._http11, True
        )
        if body:
            request.feed(body)
        request.end()
        return request


def shared(header: Header) -> Header:
    """The same one for all connections: whose clients say the same has it once in memory."""
    known = _shared.get(header)
    if known is None:
        known = header
        name, value = header
        if name.lower() not in SECRET:
            keep(_shared, header, header, len(name) + len(value))
    return known


def known_head(seen: Request, data: bytes, limit: int) -> KnownHead | None:
    """To know the head of `seen` by: the first request that the parser, between two, found in `data`.

    None where it is not all of `data`, not one that could come again so, or has more than `limit` bytes.
    """
    digits = seen.headers.get(LENGTH_NAME, "").encode()
    end = data.find(b"\r\n\r\n", 0, min(limit, MOST_BYTES)) + 4
    at = data[:end].lower().find(LENGTH_LINE) + len(LENGTH_LINE)
    if (
        seen.whole
        and seen.keep_alive
        and digits.isdigit()
        and len(digits) <= MOST_DIGITS
        and end + seen.size == len(data)
        and at >= len(LENGTH_LINE)
        and data.startswith(digits + b"\r\n", at)
    ):
        return KnownHead(seen, data[:at], digits, data[at + len(digits) : end])
    return None
