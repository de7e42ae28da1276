"""The live tail: what happens to all requests of the fleet, as server-sent events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aiohttp import web

from router.api.about import About, Plain, asked
from router.api.routing import Route
from router.api.streaming import Streaming, Write
from router.api.traces import told
from router.errors import BadRequest, StoreDown, TracingOff
from tracking.feed import FeedEvent, Place, parse_place
from tracking.query import FILTERS, PARAMETERS, Matcher, parse_query
from tracking.tail import Dropped, Interrupted, Listener, Tail, Told
from tracking.values import pattern

HEARTBEAT_SECONDS: Final = 15.0
RESUME: Final = "last_event_id"
# A time range is for what has been.
ALLOWED: Final = tuple(name for name in FILTERS if not PARAMETERS[name].range)
ABOUT: Final = About(
    summary="What happens now, at all replicas, as server-sent events without end",
    answers={200: Plain("text/event-stream")},
    errors=(TracingOff, StoreDown),
    query={name: PARAMETERS[name] for name in ALLOWED}
    | {
        RESUME: asked(
            "the id of the last event that was seen, as in the header Last-Event-ID",
            pattern("[0-9]{1,16}-[0-9]{1,16}"),
        )
    },
)
HEADERS: Final = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would hold events back
}


class TailApi:
    """Listens to a Tail; None where tracing is off. `unix_us` tells the fleet's time."""

    def __init__(
        self,
        tail: Tail | None,
        unix_us: Callable[[], int],
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        self._tail = tail
        self._unix_us = unix_us
        self._heartbeat_seconds = heartbeat_seconds

    def routes(self) -> list[Route]:
        return [Route("GET", "/v1/traces/stream", told(self.stream), "key", ABOUT)]

    async def stream(self, request: web.BaseRequest, params: dict[str, str]) -> web.StreamResponse:
        if self._tail is None:
            raise TracingOff("Request tracking is not enabled")
        asked = list(request.query.items())
        last = resume_at(request, asked)
        filters = [(name, value) for name, value in asked if name != RESUME]
        wanted = Matcher(parse_query(filters, self._unix_us(), allowed=ALLOWED))
        listener = await self._tail.listen(
            last, lambda event: wanted.passes_all or wanted.passes(event.facts)
        )

        async def produce(write: Write) -> None:
            async with listener:
                await write(b"retry: 1000\n" + mark(listener))
                while (news := await listener.next(self._heartbeat_seconds)) is not None:
                    await write(b"".join(map(frame, news)) if news else mark(listener))

        return Streaming(produce, HEADERS)


def resume_at(request: web.BaseRequest, asked: list[tuple[str, str]]) -> Place | None:
    """The place that a client who was here before names. Raises BadRequest."""
    given = [value for name, value in asked if name == RESUME]
    given.append(request.headers.get("Last-Event-ID", ""))
    if not given[0]:
        return None
    try:
        return parse_place(given[0])
    except ValueError:
        raise BadRequest(
            f"parameter {RESUME!r}, or the header Last-Event-ID, must be the id of an event",
            param=RESUME,
        ) from None


def frame(told: Told) -> bytes:
    if isinstance(told, FeedEvent):
        return told.frame
    if isinstance(told, Dropped):
        count = b"null" if told.count is None else b"%d" % told.count
        return b'event: dropped\ndata: {"count":%b}\n\n' % count
    if isinstance(told, Interrupted):
        return b'event: interrupted\ndata: {"message":"the trace store cannot be reached"}\n\n'
    return b"event: resumed\ndata: {}\n\n"


def mark(listener: Listener) -> bytes:
    """A sign of life. It also moves the client's last id on, past what its filters held back."""
    return b": listening\nid: %b\n\n" % str(listener.place).encode()
