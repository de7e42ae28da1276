"""The body of a request to one of our own endpoints: asked for, read whole, and bounded."""

from __future__ import annotations

from aiohttp import HttpVersion11, web

from router.api.request import CONTINUE, check_expectation
from router.errors import BadRequest, TooLarge


async def read_body(request: web.BaseRequest, limit: int) -> bytes:
    """The whole body, at most `limit` bytes.

    Raises TooLarge (before reading, where the length is announced), ExpectationFailed, BadRequest
    for broken framing, and ConnectionError when the client leaves meanwhile.
    """
    length = request.content_length
    if length is not None and length > limit:
        raise too_large(limit)
    content = request.content
    expect = request.headers.get("Expect")
    if expect is not None:
        check_expectation(expect)
        if request.version >= HttpVersion11 and not content.is_eof():
            transport = request.transport
            if transport is not None:
                transport.write(CONTINUE)
    pieces, size = [], 0
    try:
        while piece := await content.readany():
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise too_large(limit)
    except web.RequestPayloadError as error:
        raise BadRequest(f"the body is broken: {error}") from None
    return b"".join(pieces)


def too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is larger than {limit} bytes, which is the most that is read here")
