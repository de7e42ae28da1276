"""Heads of answers that come again are known by their bytes, and not parsed again.

A worker's answers of one second mostly have the same head, `date` included, but for the length. So what
llhttp made of an answer that came whole, in one read, is kept for all connections to that worker; where
the same comes again between two answers, llhttp would make the same of it.
"""

from __future__ import annotations

from typing import Final

from router.core.answer_head import AnswerHead
from router.core.known_length import LENGTH, ButForLength, but_for_length

# Answers, after a head that did not come again: of some workers none ever does.
LEFT_OUT: Final = 16


class KnownAnswers:
    """What the answers of one worker are known by."""

    __slots__ = ("_length_at", "_like", "_seen", "_to_leave_out")

    def __init__(self) -> None:
        self._seen: AnswerHead | None = None
        self._like: ButForLength | None = None
        self._length_at = 0
        self._to_leave_out = 0

    def again(self, data: bytes) -> AnswerHead | None:
        """The head of the one answer that `data` is, to its last byte; None where it is not known."""
        like, seen = self._like, self._seen
        if like is None or seen is None:
            return None
        digits = like.digits_in(data)
        if digits is None:
            return None
        self._to_leave_out = 0
        if digits == like.digits:
            return seen
        at, headers = self._length_at, seen.headers.copy()
        headers[at] = headers[at][0], digits
        head = AnswerHead(
            seen.status,
            seen.reason,
            headers,
            int(digits),
            seen.content_type,
            seen.content_encoding,
        )
        head.passed = seen.passed
        return head

    def learn(self, head: AnswerHead, data: bytes, size: int) -> None:
        """`data`, between two answers, was one with this head and a body of `size` bytes, after which
        its connection could be used again."""
        if self._to_leave_out:
            self._to_leave_out -= 1
            return
        names = [name.lower() for name, _ in head.headers]
        if LENGTH not in names:
            return
        at = names.index(LENGTH)
        like = but_for_length(data, head.headers[at][1], size)
        if like is not None:
            self._like, self._seen, self._length_at = like, head, at
            self._to_leave_out = LEFT_OUT
