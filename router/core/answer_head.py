"""The head of a worker's answer, and how its body goes on."""

from __future__ import annotations

RawHeaders = list[tuple[bytes, bytes]]


class AnswerHead:
    """Status line and header fields of an answer, as they came.

    `content_length` is None where the length is not given up front (chunked, or until close).
    `content_type` and `content_encoding` are in lower case, empty where not said. `passed` is what of
    this goes on to a client, once `HeaderRules` has written it.
    """

    __slots__ = (
        "content_encoding",
        "content_length",
        "content_type",
        "headers",
        "passed",
        "reason",
        "status",
    )

    def __init__(
        self,
        status: int,
        reason: bytes,
        headers: RawHeaders,
        content_length: int | None,
        content_type: bytes = b"",
        content_encoding: bytes = b"",
    ) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.content_length = content_length
        self.content_type = content_type
        self.content_encoding = content_encoding
        self.passed: tuple[bytes, bytes] | None = None

    def first(self, name: bytes) -> bytes | None:
        """The value of the first field of this name, which is in lower case."""
        for given, value in self.headers:
            if given.lower() == name:
                return value
        return None


class Framing:
    """How the body reaches the client, decided from both heads: in chunks, until close, or neither
    (a length, no body)."""

    __slots__ = ("chunked", "has_body", "until_close")

    def __init__(self, chunked: bool, until_close: bool, has_body: bool) -> None:
        self.chunked = chunked
        self.until_close = until_close
        self.has_body = has_body
