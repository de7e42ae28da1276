"""Server-sent events (WHATWG HTML, 9.2) and what those of the live tail mean. Pure."""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple

import msgspec

from tracking.client.asking import Ask, Value, query
from tracking.client.results import FullTrace, decode

LINE_END: Final = re.compile(rb"\r\n|\n|\r")
FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 10.0


class Notice(msgspec.Struct, frozen=True):
    """What a tail says beside traces.

    `dropped`: events are missing here, `count` of them, None where nobody knows. `interrupted` and
    `resumed`: the store is away, and back. `reconnecting`: the connection is gone, for the reason in
    `message`; another is made.
    """

    what: Literal["dropped", "interrupted", "resumed", "reconnecting"]
    count: int | None = None
    message: str = ""


class ServerEvent(NamedTuple):
    event: str
    data: str


class EventReader:
    """Events out of the bytes of one stream after the other.

    `last_id` survives from one to the next, and `retry_seconds` is the server's wish.
    """

    def __init__(self, last_id: str = "") -> None:
        self.last_id = last_id
        self.retry_seconds = FIRST_PAUSE_SECONDS
        self.restart()

    def restart(self) -> None:
        """A new stream begins; what was unfinished is forgotten."""
        self._rest = b""
        self._event = ""
        self._data: list[str] = []
        self._id = self.last_id

    def feed(self, piece: bytes) -> list[ServerEvent]:
        """The events that are whole now."""
        text = self._rest + piece
        # A CR at the end may be the first half of a CR LF.
        held = text.endswith(b"\r")
        *lines, self._rest = LINE_END.split(text[:-1] if held else text)
        if held:
            self._rest += b"\r"
        return [event for line in lines if (event := self._line(line)) is not None]

    def _line(self, line: bytes) -> ServerEvent | None:
        if not line:
            return self._dispatch()
        name, _, value = line.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdecimal():
            self.retry_seconds = int(value) / 1000
        return None

    def _dispatch(self) -> ServerEvent | None:
        self.last_id = self._id
        event, data = self._event or "message", self._data
        self._event, self._data = "", []
        return ServerEvent(event, "\n".join(data)) if data else None


class _Counted(msgspec.Struct):
    count: int | None = None
    message: str = ""


def told(event: ServerEvent) -> FullTrace | Notice | None:
    """What an event means; None for one that a newer router sends. Raises ClientError."""
    if event.event == "trace":
        return decode(event.data, FullTrace)
    if event.event in ("dropped", "interrupted", "resumed"):
        return msgspec.convert(
            {"what": event.event, **msgspec.to_builtins(decode(event.data, _Counted))}, Notice
        )
    return None


class Tailing:
    """One tail over as many connections as it takes."""

    def __init__(self, filters: dict[str, Value | None], last_event_id: str) -> None:
        self._filters = filters
        self._tries = 0
        self.events = EventReader(last_event_id)

    def ask(self) -> Ask:
        """The question for the next connection."""
        self.events.restart()
        asked = query("GET", "/stream", self._filters)
        headers = {"Accept": "text/event-stream"}
        if self.events.last_id:
            headers["Last-Event-ID"] = self.events.last_id
        return msgspec.structs.replace(asked, headers=headers)

    def feed(self, piece: bytes) -> list[FullTrace | Notice]:
        """What a piece of the stream tells. Raises ClientError."""
        self._tries = 0
        meanings = (told(event) for event in self.events.feed(piece))
        return [meaning for meaning in meanings if meaning is not None]

    def pause_seconds(self) -> float:
        """How long to wait before the next connection; longer each time that none brings a byte."""
        pause = self.events.retry_seconds * 2.0**self._tries
        self._tries = min(self._tries + 1, 10)
        return min(pause, LONGEST_PAUSE_SECONDS)
