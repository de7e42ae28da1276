"""The feed: what happens to requests, as it happens, in the order in which the store took it.

A place in it is `<epoch>-<number>`. Numbers count on by one within an epoch, so whoever finds a larger
one than the next has missed exactly the events between. Another epoch is another feed: what lies
between is unknown.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

from tracking.filters import Facts, decode_facts
from tracking.trace import join_parts

_MAX_DIGITS = 16  # of microseconds since the epoch


class Place(NamedTuple):
    """Where in the feed: an event, or just behind it."""

    epoch: int
    number: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.number}"


def parse_place(text: str) -> Place:
    """The inverse of `str(place)`. Raises ValueError."""
    parts = text.split("-")
    if len(parts) != 2 or not all(
        part.isascii() and part.isdecimal() and len(part) <= _MAX_DIGITS for part in parts
    ):
        raise ValueError("not a place in the feed")
    return Place(int(parts[0]), int(parts[1]))


class FeedEvent:
    """One change of status. `row` is the trace as in lists; empty where something was deleted.
    `reason` is that of its decision, as JSON has it.

    Everybody here who tails shares the object: it is parsed and encoded once, or never.
    """

    def __init__(self, place: Place, row: bytes, reason: bytes = b"") -> None:
        self.place = place
        self.row = row
        self._reason = reason

    @cached_property
    def facts(self) -> Facts:
        """What filters look at."""
        if not self._reason:
            return decode_facts(self.row)
        return decode_facts(join_parts(self.row, b'{"decision":{"reason":"%b"}}' % self._reason))

    @cached_property
    def frame(self) -> bytes:
        """As a server-sent event. JSON has no raw line feed."""
        return b"event: trace\nid: %d-%d\ndata: %b\n\n" % (*self.place, self.row)


class FeedPage(NamedTuple):
    """Some events, oldest first, and the last place there is."""

    tip: Place
    events: list[FeedEvent]


def missed(seen: Place, event: Place) -> int:
    """How many events of one epoch lie between the last one seen and this one."""
    return max(0, event.number - seen.number - 1)
