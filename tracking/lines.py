"""Connections held for script calls, past the layers of redis-py's client.

redis-py opens them (login, TLS, Sentinel) and closes them; in between their transports are ours, because a
call through its streams, its limits of time and its packer is three times the instructions: each reply is
parsed where it arrives, and wakes its caller once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, TypeAlias, cast

from hiredis import PushNotification, Reader
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ReadOnlyError

Reply: TypeAlias = "bytes | int | None | list[Reply]"
Argument: TypeAlias = bytes | str | int

# A server that is gone, or is not the one to talk to any more: another may be reached instead.
_GONE: Final = (RedisConnectionError, ReadOnlyError)
_MORE: Final = object()
_SHORT: Final = 4096  # most records are shorter
_LENGTHS: Final = [b"\r\n$%d\r\n" % length for length in range(_SHORT)]


class Start:
    """The arguments that many commands begin with, packed once."""

    __slots__ = ("arguments", "data")

    def __init__(self, *arguments: Argument) -> None:
        self.arguments = arguments
        self.data = b"".join(_parts(arguments))


def packed(start: Start, arguments: Sequence[Argument]) -> bytes:
    """A command as RESP has it: how many arguments, and each behind its length in bytes."""
    count = len(start.arguments) + len(arguments)
    return b"".join([b"*%d" % count, start.data, *_parts(arguments), b"\r\n"])


def _parts(arguments: Sequence[Argument]) -> list[bytes]:
    parts = []
    for argument in arguments:
        data = argument if isinstance(argument, bytes) else str(argument).encode()
        length = len(data)
        parts.append(_LENGTHS[length] if length < _SHORT else b"\r\n$%d\r\n" % length)
        parts.append(data)
    return parts


class Line(asyncio.Protocol):
    """The transport of a connection that redis-py has opened. Carries one command at a time, and
    is closed by whatever leaves a reply without its caller."""

    __slots__ = (
        "_answer", "_before", "_deadline", "_loop", "_reader", "_timer", "_transport", "connection",
    )  # fmt: skip

    def __init__(self, connection: AbstractConnection) -> None:
        streams, writer = connection._reader, connection._writer  # it has no other way to them
        assert streams is not None and writer is not None
        self.connection = connection
        self._answer: asyncio.Future[Reply] | None = None
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._reader = Reader(
            protocolError=InvalidResponse,
            replyError=DefaultParser.parse_error,
            notEnoughData=_MORE,
        )
        # uvloop's transports are none by their class.
        self._transport = cast(asyncio.Transport, writer.transport)
        self._before = self._transport.get_protocol()
        self._transport.set_protocol(self)
        if streams.at_eof():  # which is told once
            self._transport.abort()

    async def ask(self, command: bytes, deadline: float) -> Reply:
        """The answer to a packed command. Raises what redis-py raises, and TimeoutError when the loop's
        time is `deadline`."""
        if self._transport.is_closing():
            raise RedisConnectionError("Connection closed by server.")
        answer: asyncio.Future[Reply] = self._loop.create_future()
        self._answer = answer
        self._deadline = deadline
        if self._timer is None or self._timer.when() > deadline:
            self._set_timer()
        self._transport.write(command)
        try:
            return await answer
        finally:
            if self._answer is answer:  # cancelled: the next caller must not get this reply
                self._answer = None
                self._transport.abort()

    def _set_timer(self) -> None:
        """It is left to run out when a call ends, since one for each call costs more than the reply."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._time_is_over)

    def _time_is_over(self) -> None:
        """At least for a call of before."""
        self._timer = None
        if self._answer is not None:
            if self._loop.time() >= self._deadline:
                self._end(TimeoutError())
            else:
                self._set_timer()

    def _end(self, error: Exception) -> None:
        """Close at once; `error` is for whoever waits."""
        self._transport.abort()
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(error)

    # -- asyncio ---------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not _MORE:
                if not isinstance(reply, PushNotification):
                    self._answered(reply)
        except InvalidResponse as error:
            self._end(error)

    def _answered(self, reply: Reply | Exception) -> None:
        answer, self._answer = self._answer, None
        if answer is None:  # to what nobody asked
            self._transport.abort()
        elif isinstance(reply, Exception):
            if isinstance(reply, _GONE):
                self._transport.abort()
            if not answer.done():
                answer.set_exception(reply)
        elif not answer.done():  # else just cancelled: its reply has come all the same
            answer.set_result(reply)

    def eof_received(self) -> None:
        """The transport closes itself."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(RedisConnectionError(str(exc or "Connection closed by server.")))
        self._before.connection_lost(exc)  # redis-py waits for it when it closes

    def pause_writing(self) -> None:
        """Nothing follows a command before its reply."""

    def resume_writing(self) -> None: ...


class Lines:
    """At most `most` connections, of which as many are open as there were calls at once; the one
    used last is used next. Further calls wait for their turn."""

    def __init__(self, client: Redis, most: int) -> None:
        self._pool = client.connection_pool
        self._free: list[Line | None] = [None] * most  # None: not opened yet
        self._returned = asyncio.Event()

    async def ask(self, deadline: float, start: Start, arguments: Sequence[Argument]) -> Reply:
        """The answer to one command. Raises what redis-py raises, and TimeoutError when the loop's
        time is `deadline`."""
        command = packed(start, arguments)
        if not self._free:
            await self._turn(deadline)
        line = self._free.pop()
        try:
            if line is not None:
                try:
                    return await line.ask(command, deadline)
                except _GONE:
                    pass  # perhaps with the server of before: that is worth one more try
            line = await self._open(line, deadline)
            return await line.ask(command, deadline)
        finally:
            self._free.append(line)
            self._returned.set()

    async def _turn(self, deadline: float) -> None:
        async with asyncio.timeout_at(deadline):
            while not self._free:
                self._returned.clear()
                await self._returned.wait()

    async def _open(self, line: Line | None, deadline: float) -> Line:
        """In the place of one that is gone."""
        async with asyncio.timeout_at(deadline):
            if line is None:
                return Line(await self._pool.get_connection())  # type: ignore[no-untyped-call]
            connection = line.connection
            await connection.disconnect(nowait=True)  # it was not told that its server is gone
            await connection.connect()  # type: ignore[no-untyped-call]
            return Line(connection)
