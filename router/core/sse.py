"""The end of an event stream, without taking it apart while it flows.

`EventTail` is shown every piece of a stream of server-sent events after it was relayed. Pieces are
kept as they came, and put together when they are many; no event is parsed, but the first. It keeps
a window at the end of the stream: at least `TAIL_BYTES` and at least the last `TAIL_LINES` data
lines (an engine may repeat the whole answer in each event), but never more than `LARGEST_BYTES`.
What it answers depends on the bytes alone, never on how they were cut.

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
NEWLINE_BYTE: Final = NEWLINE[0]
DONE: Final = b"[DONE]"
SHORT_BYTES: Final = 1024
MOST_PIECES: Final = 64  # each is an object: many small ones would take more than what is in them
EDGE: Final = len(DATA) - 1  # of two pieces: what begins in one and ends in the other


class EventTail:
    """See the module. `events` have begun so far."""

    __slots__ = ("_edge", "_first", "_first_wanted", "_pieces", "_size", "_trim_at", "events")

    def __init__(self) -> None:
        # With an end of line before it, the first line is found like any other.
        self._edge = NEWLINE  # the end of what came, as far as an event may begin there
        self._pieces = [self._edge]
        self._size = 1
        self._trim_at = 2 * TAIL_BYTES
        self._first: bytes | None = None
        self._first_wanted = True
        self.events = 0

    def feed(self, payload: bytes) -> int:
        """Take the next piece; returns how many events began in it."""
        if not payload:
            return 0
        events = 0
        # Mostly it is one event and no more, which a slice shows at a third of a search's cost.
        if len(payload) > SHORT_BYTES or NEWLINE_BYTE in payload[:-EDGE]:
            events = payload.count(DATA)
        if self._edge == NEWLINE:
            events += payload[:EDGE] == EVENT
        else:
            events += (self._edge + payload[:EDGE]).count(DATA)
        self._edge = NEWLINE if payload[-1] == NEWLINE_BYTE else (self._edge + payload)[-EDGE:]
        self.events += events
        self._pieces.append(payload)
        self._size += len(payload)
        if self._size > self._trim_at:
            self._trim()
        elif len(self._pieces) > MOST_PIECES:
            self._whole()
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
        """All that is kept, from now on in one piece."""
        if len(self._pieces) > 1:
            self._pieces = [b"".join(self._pieces)]
        return self._pieces[0]

    def _trim(self) -> None:
        whole = self._whole()
        if self._first_wanted and self.events:
            self._find_first(whole)
        kept = whole[_window_start(whole) :]
        self._pieces = [kept]
        self._size = len(kept)
        self._trim_at = max(2 * TAIL_BYTES, 2 * len(kept))

    def _find_first(self, whole: bytes) -> None:
        start = whole.find(DATA) + len(DATA)
        end = whole.find(NEWLINE, start, start + FIRST_EVENT_BYTES)
        if end >= 0:
            self._first = whole[start:end].strip()
        self._first_wanted = end < 0 and len(whole) - start < FIRST_EVENT_BYTES


def _window_start(whole: bytes) -> int:
    size = start = len(whole)
    for _ in range(TAIL_LINES):
        start = max(0, whole.rfind(DATA, 0, start))
    return max(0, size - LARGEST_BYTES, min(start, size - TAIL_BYTES))
