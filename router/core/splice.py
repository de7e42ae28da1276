"""Setting a field of a JSON body without taking the body apart: all else stays byte for byte."""

from __future__ import annotations

import re
from typing import Final

WHITE_SPACE: Final = b" \t\r\n"
TOKEN: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]]', re.DOTALL)
SCALAR: Final = re.compile(rb"[^,}\]\s]+")
COLON: Final = re.compile(rb"\s*:\s*")
OPENING: Final = (b"{", b"[")


def in_front(body: bytes, name: bytes, value: bytes) -> bytes | None:
    """`body` with the field `"name": value` before all others; None where it is no JSON object."""
    start = len(body) - len(body.lstrip(WHITE_SPACE))
    if body[start : start + 1] != b"{":
        return None
    rest = body[start + 1 :]
    comma = b"" if rest.lstrip(WHITE_SPACE)[:1] == b"}" else b","
    return b'%b{"%b":%b%b%b' % (body[:start], name, value, comma, rest)


def with_field(body: bytes, name: bytes, value: bytes) -> bytes | None:
    """`body` with this value of a field, which is added where it is missing.

    None where it is no JSON object. `value` is JSON, and `name` needs no escaping. Two searches for
    the name, and one pass over what stands before its last appearance.
    """
    if b'"%b"' % name not in body:
        return in_front(body, name, value)
    spans = _values(body, b'"%b"' % name)
    if not spans:
        return in_front(body, name, value)
    parts = []
    end = 0
    for start, stop in spans:
        parts += [body[end:start], value]
        end = stop
    return b"".join((*parts, body[end:]))


def _values(body: bytes, key: bytes) -> list[tuple[int, int]]:
    """Where the values of this key of the outermost object are; more than one if it is repeated."""
    spans: list[tuple[int, int]] = []
    depth = 0
    begun: int | None = None  # the start of a value that is a list or an object
    position = 0
    left = body.count(key)  # mostly one, near the front: the rest need not be looked at
    while (left or begun is not None) and (token := TOKEN.search(body, position)) is not None:
        position = token.end()
        text = token[0]
        left -= text == key
        if text in OPENING:
            depth += 1
        elif text in (b"}", b"]"):
            depth -= 1
            if depth == 1 and begun is not None:
                spans.append((begun, position))
                begun = None
        elif depth == 1 and text == key and (colon := COLON.match(body, position)) is not None:
            position = colon.end()
            if body[position : position + 1] in OPENING:
                begun = position
                continue
            value = TOKEN.match(body, position) or SCALAR.match(body, position)
            if value is not None:
                spans.append(value.span())
                position = value.end()
    return spans
