"""The body of a request: asked for, read whole, and bounded.

It is kept as it came, because another worker may have to get it again.
"""

from __future__ import annotations

from aiohttp import HttpVersion11, web

from router.errors import BadRequest, ExpectationFailed, TooLarge


async def read_body(request: web.BaseRequest, limit: int) -> bytes:
    """The whole body, at most `limit` bytes.

    Raises TooLarge (before reading, where the length is announced), ExpectationFailed, BadRequest
    for broken framing, and ConnectionError when the client leaves meanwhile.
    """
    length = request.content_length
    if length is not None and length > limit:
        raise too_large(limit)
    expect = request.headers.get("Expect")
    if expect is not None:
        if expect.strip().lower() != "100-continue":
            raise ExpectationFailed(f"cannot meet the expectation {expect[:64]!r}")
        if request.version >= HttpVersion11 and not request.content.is_eof():
            transport = request.transport
            if transport is not None:
                transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    content = request.content
    try:
        body = await content.readany()
        if content.at_eof():  # as most do: it came with the head
            return checked(body, limit)
        pieces, size = [body], len(body)
        while piece := await content.readany():
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise too_large(limit)
    except web.RequestPayloadError as error:
        raise BadRequest(f"the body is broken: {error}") from None
    return checked(b"".join(pieces), limit)


def checked(body: bytes, limit: int) -> bytes:
    if len(body) > limit:
        raise too_large(limit)
    return body


def too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is larger than {limit} bytes (--max-payload-size)")
