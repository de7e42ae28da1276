"""A head that comes again on its connection is known by its bytes, and not parsed again.

Clients repeat themselves, but for the length of the body. So what llhttp made of a request that came
whole, in one read, is kept; and where all of its head but the digits of that length comes again, between
two requests, llhttp would make the same of it, for it has nothing else to go by. Nothing is understood
here that it did not understand before.
"""

from __future__ import annotations

from typing import Final

from router.api.request import Header, Request, Writer
from router.core.asked import Asked
from router.core.headers import SECRET
from router.core.kept import keep
from router.core.known_length import LENGTH, ButForLength, but_for_length

LENGTH_NAME: Final = LENGTH.decode()

_shared: dict[Header, Header] = {}


class KnownHead:
    """That of `seen`, and of all like it."""

    __slots__ = (
        "_asked",
        "_headers",
        "_http11",
        "_length_at",
        "_like",
        "_method",
        "_raw_headers",
        "_target",
        "_written",
    )

    def __init__(self, seen: Request, like: ButForLength) -> None:
        self._like = like
        self._method = seen.method
        self._target = seen.target
        self._raw_headers = [shared(header) for header in seen.raw_headers]
        self._length_at = [name.lower() for name, _ in seen.raw_headers].index(LENGTH)
        self._headers = seen.headers
        self._http11 = seen.http11
        self._written = seen.written
        self._asked: Asked = seen.asked

    def again(self, client: Writer, data: bytes) -> Request | None:
        """The one request that `data` is, to its last byte; None where it is not one like that."""
        like = self._like
        digits = like.digits_in(data)
        if digits is None:
            return None
        raw_headers, headers = self._raw_headers, self._headers
        if digits != like.digits:
            at, raw_headers = self._length_at, raw_headers.copy()
            raw_headers[at] = raw_headers[at][0], digits
            headers = {**headers, LENGTH_NAME: digits.decode()}
        request = Request(
            client,
            self._method,
            self._target,
            raw_headers,
            headers,
            self._http11,
            True,
            self._written,
            self._asked,
        )
        body = data[len(like.before) + len(digits) + len(like.after) :]
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
    if not (seen.whole and seen.keep_alive):
        return None
    like = but_for_length(data, digits, seen.size, limit)
    return None if like is None else KnownHead(seen, like)
