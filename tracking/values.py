"""How the texts of a question's parameters are read: for each kind of value what is allowed in words,
as a JSON Schema, and its parser. No I/O.

A parser takes the text and the time (µs) and raises ValueError for what it does not allow. The schema
is of the text; what it says and what the parser takes must be the same.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Final

import msgspec

_MAX_SCORE: Final = 2**53  # above, a score of Redis is not exact
_SECOND_US: Final = 1_000_000
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_AGE: Final = "[0-9]{1,9}[smhd]"
_SECONDS: Final = r"[0-9]{1,9}(\.[0-9]{1,9})?"
_HTTP_STATUS: Final = "[1-5]([0-9][0-9]|xx)"
_FLAGS: Final = {"1": True, "true": True, "0": False, "false": False}

Schema = dict[str, object]


class Value(msgspec.Struct, frozen=True):
    """One kind of value."""

    allowed: str
    parse: Callable[[str, int], object]
    schema: Schema


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


def parse_age(text: str) -> int:
    """`15m` in microseconds. Raises ValueError."""
    if not re.fullmatch(_AGE, text):
        raise ValueError("not an age")
    return int(text[:-1]) * _UNITS[text[-1]] * _SECOND_US


def _moment(text: str, now_us: int) -> int:
    if "T" not in text:
        # Whole milliseconds, so that a link to the next page can name the same moment.
        return max(0, (now_us - parse_age(text)) // 1000 * 1000)
    moment = msgspec.convert(text, datetime)
    if moment.tzinfo is None:
        raise ValueError("without a zone")
    return max(0, round(moment.timestamp() * _SECOND_US))


def whole(least: int, most: int) -> Value:
    def parse(text: str, _now_us: int) -> int:
        if not (re.fullmatch("[0-9]{1,9}", text) and least <= int(text) <= most):
            raise ValueError(text)
        return int(text)

    return Value(
        f"an integer from {least} to {most}",
        parse,
        {"type": "integer", "minimum": least, "maximum": most},
    )


def characters(most: int) -> Value:
    def parse(text: str, _now_us: int) -> str:
        if not 1 <= len(text) <= most:
            raise ValueError(text)
        return text

    return Value(
        f"1 to {most} characters", parse, {"type": "string", "minLength": 1, "maxLength": most}
    )


def one_of(words: Collection[str], allowed: str | None = None) -> Value:
    def parse(text: str, _now_us: int) -> str:
        if text not in words:
            raise ValueError(text)
        return text

    return Value(
        allowed or "one of " + ", ".join(words), parse, {"type": "string", "enum": list(words)}
    )


def names(words: Collection[str], allowed: str) -> Value:
    """Some of the words, separated by commas, as a tuple."""

    def parse(text: str, _now_us: int) -> tuple[str, ...]:
        given = tuple(text.split(","))
        if not set(given) <= set(words):
            raise ValueError(text)
        return given

    any_of = "|".join(words)
    return Value(allowed, parse, pattern(f"({any_of})(,({any_of}))*"))


def pattern(whole: str) -> Schema:
    """Of texts that match as a whole."""
    return {"type": "string", "pattern": f"^(?:{whole})$"}


def _seconds(text: str, _now_us: int) -> float:
    if not re.fullmatch(_SECONDS, text):
        raise ValueError(text)
    return float(text)


def _http_status(text: str, _now_us: int) -> str:
    if not re.fullmatch(_HTTP_STATUS, text):
        raise ValueError(text)
    return text


def _flag(text: str, _now_us: int) -> bool:
    if text not in _FLAGS:
        raise ValueError(text)
    return _FLAGS[text]


SECONDS: Final = Value("seconds, such as 0.25", _seconds, pattern(_SECONDS))
HTTP_STATUS: Final = Value("a code or a class such as 5xx", _http_status, pattern(_HTTP_STATUS))
FLAG: Final = Value("0 or 1", _flag, {"type": "string", "enum": list(_FLAGS)})
MOMENT: Final = Value(
    "an RFC 3339 time such as 2026-01-31T12:00:00Z, or an age such as 90s, 15m, 2h, 7d",
    _moment,
    {"anyOf": [pattern(_AGE), {"type": "string", "format": "date-time"}]},
)
CURSOR: Final = Value(
    "a cursor from a Link header",
    lambda text, _now_us: decode_cursor(text),
    {"type": "string", "format": "cursor"},
)
