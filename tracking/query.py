"""A question to the list of traces: filters, limit, cursor. Parsing and checking only, no I/O.

`PARAMETERS` declares each parameter once; parsing, messages and help follow from it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from typing import Final, get_args

import msgspec

from tracking.trace import Status

MAX_LIMIT = 1000
DEFAULT_LIMIT = 100
_MAX_VALUE = 256
_MAX_SCORE = 2**53  # above, a score of Redis is not exact


class QueryError(ValueError):
    """A query parameter is wrong. The message names it and what is allowed."""

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(message)
        self.parameter = parameter


class TraceQuery(msgspec.Struct, frozen=True, kw_only=True):
    """One page of traces, newest first."""

    limit: int = DEFAULT_LIMIT
    node_id: str | None = None
    status: str | None = None
    session_id: str | None = None
    cursor: tuple[int, str] | None = None
    detail: bool = False


Value = int | str | bool | tuple[int, str]


class Parameter(msgspec.Struct, frozen=True):
    """One parameter of the list. `parse` raises ValueError for what is not `allowed`."""

    parse: Callable[[str], Value]
    allowed: str
    help: str


def encode_cursor(arrived_us: int, key: str) -> str:
    """The opaque form of a place in the list."""
    return base64.urlsafe_b64encode(f"{arrived_us}:{key}".encode()).rstrip(b"=").decode()


def decode_cursor(text: str) -> tuple[int, str]:
    """The inverse of `encode_cursor`. Raises ValueError."""
    try:
        raw = base64.b64decode(
            text + "=" * (-len(text) % 4), altchars=b"-_", validate=True
        ).decode()
    except binascii.Error as error:
        raise ValueError(str(error)) from None
    score, _, key = raw.partition(":")
    if not (score.isascii() and score.isdecimal() and int(score) < _MAX_SCORE and key):
        raise ValueError("not a cursor of ours")
    return int(score), key


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 4):
        raise ValueError
    limit = int(text)
    if not 1 <= limit <= MAX_LIMIT:
        raise ValueError
    return limit


def _word(text: str) -> str:
    if not 1 <= len(text) <= _MAX_VALUE:
        raise ValueError
    return text


def _one_of(words: Sequence[str]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError
        return text

    return parse


def _flag(text: str) -> bool:
    return {"1": True, "true": True, "0": False, "false": False}[text]


STATUSES: Final[tuple[str, ...]] = get_args(Status)
_WORD = f"1 to {_MAX_VALUE} characters"
PARAMETERS: Final[Mapping[str, Parameter]] = {
    "limit": Parameter(
        _limit, f"an integer from 1 to {MAX_LIMIT}", f"traces in a page (default {DEFAULT_LIMIT})"
    ),
    "node_id": Parameter(_word, _WORD, "served by this worker"),
    "status": Parameter(_one_of(STATUSES), "one of " + ", ".join(STATUSES), "in this status"),
    "session_id": Parameter(_word, _WORD, "of this session"),
    "cursor": Parameter(decode_cursor, "a cursor from a Link header", "where the page begins"),
    "detail": Parameter(_flag, "0 or 1", "with attempts, decision and prefix_hashes"),
}


def parse_query(params: Sequence[tuple[str, str]]) -> TraceQuery:
    """The query of a URL's parameters (decoded). Raises QueryError."""
    values: dict[str, Value] = {}
    for name, text in params:
        parameter = PARAMETERS.get(name)
        if parameter is None:
            known = ", ".join(PARAMETERS)
            raise QueryError(name, f"unknown parameter {name!r}; known are {known}")
        if name in values:
            raise QueryError(name, f"parameter {name!r} is given more than once")
        try:
            values[name] = parameter.parse(text)
        except (ValueError, KeyError):
            raise QueryError(name, f"parameter {name!r} must be {parameter.allowed}") from None
    return msgspec.convert(values, TraceQuery)
