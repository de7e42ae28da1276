"""The end of an event stream, without taking it apart while it flows.

`EventTail` is shown every piece of a stream of server-sent events after it was relayed. Pieces are
kept as they came, and put together when they are many; no event is parsed, but the first. It keeps
a window at the end of the stream: at least `TAIL_BYTES` and at least the last `TAIL_LINES` data
lines (an engine may repeat the whole answer in each event), but never more than `LARGEST_BYTES`.
What it answers depends on the bytes alone, never on how they were cut.

Pieces are kept in two generations: when the younger has all of the window, the elder is dropped, and
the younger becomes the elder. So nothing is searched for where the window begins until that is asked.

Events are counted as data lines: no inference engine writes an event in several. Lines end with
`\\n` or `\\r\\n`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

TAIL_BYTES: Final = 8 * 1024
TAIL_LINES: Final = 3  # the last event with text, the one with usage, [DONE]
LARGEST_BYTES: Final = 1024 * 1024
FIRST_EVENT_BYTES: Final = 64 * 1024
DATA: Final = b"\ndata:"
EVENT: Final = b"data:"
NEWLINE: Final = b"\n"
NEWLINE_BYTE: Final = 0x0A
DONE: Final = b"[DONE]"
SHORT_BYTES: Final = 1024
MOST_PIECES: Final = 64  # each is an object: many small ones would take more than what is in them
EDGE: Final = 5  # of two pieces: DATA that begins in one and ends in the other, one byte less


class EventTail:
    """See the module. `events` have begun so far."""

    __slots__ = (
        "_edge",
        "_elder",
        "_elder_events",
        "_first",
        "_first_wanted",
        "_pieces",
        "_settle_at",
        "_size",
        "events",
    )

    def __init__(self) -> None:
        # With an end of line before it, the first line is found like any other.
        self._edge = NEWLINE  # of what came
        self._elder = self._edge
        self._elder_events = 0  # events that had begun when the elder generation ended
        self._pieces: list[bytes] = []  # the younger generation
        self._size = 0
        self._settle_at = TAIL_BYTES
        self._first: bytes | None = None
        self._first_wanted = True
        self.events = 0

    def feed(self, payload: bytes) -> int:
        """Take the next piece; returns how many events began in it."""
        if not payload:
            return 0
        events = _begun(self._edge, payload)
        self._edge = _next_edge(self._edge, payload)
        self.events += events
        self._pieces.append(payload)
        self._size += len(payload)
        if self._size > self._settle_at or len(self._pieces) > MOST_PIECES:
            self._settle()
        return events

    @property
    def first(self) -> bytes | None:
        """The data of the first event, once it is whole and if it is not longer than
        `FIRST_EVENT_BYTES`."""
        if self._first_wanted and self.events:
            self._find_first(self._whole())
        return self._first

    def window(self) -> bytes:
        """The end of the stream as it came."""
        whole = self._whole()
        return whole[_window_start(whole) :]

    @property
    def whole(self) -> bool:
        """Does the window hold all events?"""
        return self.window().count(DATA) == self.events

    def newest_first(self) -> Iterator[bytes]:
        """The data of the events in the window; the newest one may not be whole."""
        whole = self._whole()
        start, end = _window_start(whole), len(whole)
        while (at := whole.rfind(DATA, start, end)) >= 0:
            begin = at + len(DATA)
            line_end = whole.find(NEWLINE, begin, end)
            yield whole[begin : end if line_end < 0 else line_end].strip()
            end = at

    def _whole(self) -> bytes:
        """All that is kept."""
        return self._elder + b"".join(self._pieces)

    def _settle(self) -> None:
        """Begin a new generation, or put together what there is of this one."""
        younger = b"".join(self._pieces)
        # One event more than in the window: the line end before the first may be the elder's last byte.
        enough = self._size > TAIL_BYTES and self.events - self._elder_events > TAIL_LINES
        if enough or self._size > LARGEST_BYTES:
            if self._first_wanted and self.events:
                self._find_first(self._elder + younger)
            large = self._size > 2 * TAIL_BYTES
            self._elder = younger[_window_start(younger) :] if large else younger
            self._elder_events = self.events
            self._pieces, self._size, self._settle_at = [], 0, TAIL_BYTES
        else:
            self._pieces = [younger]
            self._settle_at = max(TAIL_BYTES, 2 * self._size)

    def _find_first(self, whole: bytes) -> None:
        start = whole.find(DATA) + len(DATA)
        end = whole.find(NEWLINE, start, start + FIRST_EVENT_BYTES)
        if end >= 0:
            self._first = whole[start:end].strip()
        self._first_wanted = end < 0 and len(whole) - start < FIRST_EVENT_BYTES


def _begun(edge: bytes, payload: bytes) -> int:
    """How many events begin in `payload`, which came behind `edge`."""
    # Mostly it is one and no more, which slices show at a third of a search's cost.
    if (
        edge == NEWLINE
        and len(payload) <= SHORT_BYTES
        and payload[:EDGE] == EVENT
        and NEWLINE_BYTE not in payload[:-EDGE]
    ):
        return 1
    return payload.count(DATA) + (edge + payload[:EDGE]).count(DATA)


def _next_edge(edge: bytes, payload: bytes) -> bytes:
    """The end of both, as far as an event may begin there."""
    return NEWLINE if payload[-1] == NEWLINE_BYTE else (edge + payload)[-EDGE:]


def _window_start(whole: bytes) -> int:
    size = start = len(whole)
    for _ in range(TAIL_LINES):
        start = max(0, whole.rfind(DATA, 0, start))
    return max(0, size - LARGEST_BYTES, min(start, size - TAIL_BYTES))
