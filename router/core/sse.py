"""The end of an event stream, without taking it apart while it flows.

`EventTail` is shown every piece of a stream of server-sent events after it was relayed. Per piece
it does a copy into a small buffer and one count in C; no event is parsed, but the first. It keeps
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
DONE: Final = b"[DONE]"


class EventTail:
    """See the module. `first` is the data of the first event, once it is whole and if it is not
    longer than `FIRST_EVENT_BYTES`."""

    __slots__ = ("_buffer", "_first_wanted", "_trim_at", "events", "first")

    def __init__(self) -> None:
        # With an end of line before it, the first line is found like any other.
        self._buffer = bytearray(b"\n")
        self._trim_at = 2 * TAIL_BYTES
        self._first_wanted = True
        self.events = 0
        self.first: bytes | None = None

    def feed(self, payload: bytes) -> int:
        """Take the next piece; returns how many events began in it."""
        buffer = self._buffer
        seam = max(0, len(buffer) - len(DATA) + 1)
        buffer += payload
        events = buffer.count(DATA, seam)
        self.events += events
        if self._first_wanted and self.events:
            self._find_first()
        if len(buffer) > self._trim_at:
            del buffer[: self._window_start()]
            self._trim_at = max(2 * TAIL_BYTES, 2 * len(buffer))
        return events

    def window(self) -> bytes:
        """The end of the stream as it came."""
        return bytes(self._buffer[self._window_start() :])

    @property
    def whole(self) -> bool:
        """Does the window hold all events?"""
        return self._buffer.count(DATA, self._window_start()) == self.events

    def newest_first(self) -> Iterator[bytes]:
        """The data of the events in the window; the newest one may not be whole."""
        buffer, start = self._buffer, self._window_start()
        end = len(buffer)
        while (at := buffer.rfind(DATA, start, end)) >= 0:
            begin = at + len(DATA)
            line_end = buffer.find(b"\n", begin, end)
            yield bytes(buffer[begin : end if line_end < 0 else line_end]).strip()
            end = at

    def _find_first(self) -> None:
        start = self._buffer.find(DATA) + len(DATA)
        end = self._buffer.find(b"\n", start, start + FIRST_EVENT_BYTES)
        if end >= 0:
            self.first = bytes(self._buffer[start:end]).strip()
        self._first_wanted = end < 0 and len(self._buffer) - start < FIRST_EVENT_BYTES

    def _window_start(self) -> int:
        size = start = len(self._buffer)
        for _ in range(TAIL_LINES):
            start = max(0, self._buffer.rfind(DATA, 0, start))
        return max(0, size - LARGEST_BYTES, min(start, size - TAIL_BYTES))
