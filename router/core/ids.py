"""Identities of a request: the client's id, our key, the W3C trace id, the label.

An id goes into Redis keys, headers, logs and URLs, so it is checked before it is used anywhere.
What fails is replaced, never cleaned up: a changed id would be found by nobody.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple
from uuid import UUID

REQUEST_ID: Final = re.compile(r"[!-~]{1,128}")
NOT_IN_IDS: Final = re.compile(r"[/?#%]")
RESERVED: Final = frozenset(("stats", "batch", "stream", "export"))  # paths beside the ids
TRACEPARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?"
)
LABEL_CHARACTERS: Final = 64


class RequestIdentity(NamedTuple):
    """`replaced` holds the id that was not taken, None where none was given or it was good."""

    request_id: str
    replaced: str | None


def acceptable(request_id: str) -> bool:
    """1 to 128 visible ASCII characters without `/ ? # %`, and no name of an endpoint."""
    return (
        REQUEST_ID.fullmatch(request_id) is not None
        and NOT_IN_IDS.search(request_id) is None
        and request_id not in RESERVED
    )


def request_identity(
    headers: Mapping[str, str], names: Sequence[str], minted: str
) -> RequestIdentity:
    """The id of a request: that of `X-Request-Id`, else of the first header of `names` there is.

    `minted` is used where none is given or the one given is not acceptable.
    """
    given = headers.get("X-Request-Id")
    if given is None:
        given = next((headers[name] for name in names if name in headers), None)
    if not given:
        return RequestIdentity(minted, None)
    if acceptable(given):
        return RequestIdentity(given, None)
    return RequestIdentity(minted, given)


def uuid7(unix_ms: int, random_bits: Callable[[int], int]) -> str:
    """A UUIDv7 (RFC 9562): milliseconds since the epoch, then 74 random bits. Sorts by time."""
    value = (unix_ms & 0xFFFF_FFFF_FFFF) << 80 | random_bits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(UUID(int=value))


def w3c_trace_id(traceparent: str | None) -> str | None:
    """The trace id of a valid `traceparent` header, else None."""
    match = TRACEPARENT.fullmatch(traceparent.strip()) if traceparent else None
    if match is None or not int(match[1], 16) or not int(match[2], 16):
        return None
    return match[1]


def label(value: str | None) -> str | None:
    """`X-Trace-Label`, cut to 64 characters; None where it is absent, empty or unprintable."""
    if value is None or not (value := value.strip()) or not value.isprintable():
        return None
    return value[:LABEL_CHARACTERS]
