"""Heads that are the same, letter for letter, but for the digits of the length that they tell.

Who has a parser's word for what one of them is, knows the others by their bytes: where the head is as it
was but for these digits, and the message as long as they say, a parser has nothing else to go by.
"""

from __future__ import annotations

from typing import Final

LENGTH: Final = b"content-length"
LENGTH_LINE: Final = b"\r\n%b: " % LENGTH
MOST_DIGITS: Final = 15
MOST_BYTES: Final = 4096  # of a head that is kept


class ButForLength:
    """Such a head: `before`, the `digits` of its length, and `after`."""

    __slots__ = ("_head", "_size", "after", "before", "digits")

    def __init__(self, before: bytes, digits: bytes, after: bytes) -> None:
        self.before = before
        self.digits = digits
        self.after = after
        self._head = before + digits + after
        self._size = len(self._head) + int(digits)

    def digits_in(self, data: bytes) -> bytes | None:
        """Those of the one message that `data` is, to its last byte; None where it is not one like that."""
        if data[: len(self._head)] == self._head:
            return self.digits if len(data) == self._size else None
        start, after = len(self.before), self.after
        if data[:start] != self.before:
            return None
        stop = data.find(b"\r", start, start + MOST_DIGITS + 1)
        digits, end = data[start:stop], stop + len(after)
        if (
            stop > start
            and data[stop:end] == after
            and digits.isdigit()
            and end + int(digits) == len(data)
        ):
            return digits
        return None


def but_for_length(
    data: bytes, digits: bytes, size: int, limit: int = MOST_BYTES
) -> ButForLength | None:
    """The head of the message that a parser found at the beginning of `data`: its length was told by
    `digits`, and its body has `size` bytes.

    None where it is not all of `data`, not one that could come again so, or has more than `limit` bytes.
    """
    end = data.find(b"\r\n\r\n", 0, min(limit, MOST_BYTES)) + 4
    at = data[:end].lower().find(LENGTH_LINE) + len(LENGTH_LINE)
    if (
        digits.isdigit()
        and len(digits) <= MOST_DIGITS
        and end + size == len(data)
        and at >= len(LENGTH_LINE)
        and data.startswith(digits + b"\r\n", at)
    ):
        return ButForLength(data[:at], digits, data[at + len(digits) : end])
    return None
