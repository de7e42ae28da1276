"""Identities of a request: the client's id, our key, the W3C trace id, the label.

An id goes into Redis keys, headers, logs and URLs, so it is checked before it is used anywhere.
What fails is replaced, never cleaned up: a changed id would be found by nobody. A label is only
shown and compared, so one that is too long is cut instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

REQUEST_ID: Final = re.compile(r"""[!"$&-.0->@-~]{1,128}""")  # visible ASCII without / ? # %
# Endpoints beside the ids, and path segments that mean another directory: nobody could ask for
# /v1/traces/.. and get this trace.
RESERVED: Final = frozenset(("stats", "batch", "stream", "export", ".", ".."))
WHITESPACE: Final = " \t"  # around the value of a header, and no part of it (RFC 9110, 5.5)
TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
LABEL_CHARACTERS: Final = 64
ID_CHARACTERS: Final = 128
_BELOW_MS: Final = ["-7%03x" % (us * 4096 // 1000) for us in range(1000)]  # with the version, 7


def acceptable(request_id: str) -> bool:
    """1 to 128 visible ASCII characters without `/ ? # %`, and neither an endpoint nor dots."""
    return REQUEST_ID.fullmatch(request_id) is not None and request_id not in RESERVED


def request_identity(
    headers: Mapping[str, str], names: Sequence[str], minted: str
) -> tuple[str, str | None]:
    """The id of a request, and the one that was given where that cannot be taken.

    It is that of the first header of `names` there is. `headers` is asked for lower-case names. An empty
    header is none. `minted` is used where no id is given, or one that is not acceptable.
    """
    for name in names:
        if name in headers and (given := headers[name]):
            if acceptable(given) or acceptable(given := given.strip(WHITESPACE)):
                return given, None
            return minted, given
    return minted, None


def uuid7(unix_us: int, random_bits: Callable[[int], int]) -> str:
    """A UUIDv7 (RFC 9562): the time, then 62 random bits. Sorts by time.

    `unix_us` is microseconds since the epoch; what is below a millisecond takes the first 12 of
    the random bits' places (the RFC's method 3), so that ids of one millisecond sort as well.
    """
    time = hex(1 << 48 | unix_us // 1000)  # with a bit above, so that no zero in front is left out
    low = hex(0x2 << 62 | random_bits(62))
    return f"{time[3:11]}-{time[11:]}{_BELOW_MS[unix_us % 1000]}-{low[2:6]}-{low[6:]}"


def w3c_trace_id(traceparent: str | None) -> str | None:
    """The trace id of a valid `traceparent` header, else None."""
    match = TRACEPARENT.fullmatch(traceparent.strip()) if traceparent else None
    if match is None:
        return None
    version, trace, parent, more = match.groups()
    # Version 00 ends after the flags, later ones may go on (W3C Trace Context, 3.2).
    if version == "ff" or (version == "00" and more is not None):
        return None
    return trace if int(trace, 16) and int(parent, 16) else None


def label(value: str | None) -> str | None:
    """`X-Trace-Label`, cut to 64 characters; None where it is absent, empty or unprintable."""
    if value is None or not (value := value.strip()) or not value.isprintable():
        return None
    return value[:LABEL_CHARACTERS]


def printable(value: object, longest: int) -> str | None:
    """`value` if it is text of at most so many characters, all of which can be shown: no control
    characters, and no lone surrogates, which no encoder of ours takes."""
    if isinstance(value, str) and 0 < len(value) <= longest and value.isprintable():
        return value
    return None


def identifier(value: object) -> str | None:
    """`value` if it can be an id: ASCII, visible, of at most 128 characters."""
    name = printable(value, ID_CHARACTERS)
    return name if name is not None and name.isascii() and " " not in name else None
