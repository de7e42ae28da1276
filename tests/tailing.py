"""Clients of the live tail for tests: one that reads, and one that may stop reading.

async with tailing(router.url, "status=completed") as tail:
    event = await tail.next("trace")
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import NamedTuple, Self

import aiohttp
import msgspec

from tests.raw_tcp import RawConnection
from tests.waiting import PATIENCE_SECONDS

Json = dict[str, object]


class Event(NamedTuple):
    name: str
    id: str
    data: Json


def parse_frame(text: str) -> Event | None:
    """One frame; None for a comment or a mark."""
    fields: dict[str, str] = {}
    for line in text.split("\n"):
        name, _, value = line.partition(": ")
        if name:
            fields[name] = value
    if "data" not in fields:
        return None
    data = msgspec.json.decode(fields["data"], type=Json)
    return Event(fields["event"], fields.get("id", ""), data)


class Tailing:
    """What a tail has told so far."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.events: list[Event] = []
        self.last_id = ""

    async def read(self) -> Event | None:
        """The next event. None at a clean end; aiohttp.ClientPayloadError when it is cut."""
        while True:
            text = ""
            while line := (await self.response.content.readline()).decode():
                if line == "\n":
                    break
                text += line
                if line.startswith("id: "):
                    self.last_id = line[4:-1]
            if not text:
                return None
            if (event := parse_frame(text)) is not None:
                self.events.append(event)
                return event

    async def next(self, *names: str, seconds: float = PATIENCE_SECONDS) -> Event:
        """The next event that has one of these names (all: any). Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while True:
                event = await self.read()
                assert event is not None, "the tail has ended"
                if not names or event.name in names:
                    return event

    async def until(self, request_id: str, status: str) -> Event:
        """The event of a request that comes to this status."""
        while True:
            event = await self.next("trace")
            if (event.data["request_id"], event.data["status"]) == (request_id, status):
                return event


@asynccontextmanager
async def tailing(
    url: str, query: str = "", headers: Mapping[str, str] | None = None
) -> AsyncIterator[Tailing]:
    """A tail that has begun. Raises aiohttp.ClientResponseError."""
    timeout = aiohttp.ClientTimeout(total=None, sock_read=PATIENCE_SECONDS)
    async with (
        aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
        session.get(f"{url}/v1/traces/stream?{query}", raise_for_status=True) as response,
    ):
        tail = Tailing(response)
        await response.content.readuntil(b"\n\n")  # the first mark
        yield tail


class Stalled:
    """A tail whose client reads nothing until it is told to `catch_up`."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Self:
        self._connection = await RawConnection.connect(self._port, receive_buffer=4096)
        # HTTP/1.0: the body comes without frames of its own.
        await self._connection.send(b"GET /v1/traces/stream HTTP/1.0\r\nHost: test\r\n\r\n")
        await self._connection.read_until(b"\n\n")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()

    async def catch_up(self, last_request_id: str) -> list[Event]:
        """All events up to the one of this request."""
        events: list[Event] = []
        while True:
            frame = (await self._connection.read_until(b"\n\n")).decode()
            if (event := parse_frame(frame)) is None:
                continue
            events.append(event)
            if event.data.get("request_id") == last_request_id:
                return events
