"""Connections held for script calls, past the layers of redis-py's client.

A call through the client takes 190 µs of this process (on a busy machine): pool, retries, limits of time
on each half and a packer in Python are more than half of it. Here the connections that its pool makes
(login, TLS, Sentinel) are used directly, with a packer that copies once: hiredis, in C, copies an argument
three times. Whoever calls bounds the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final, TypeAlias, cast

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError

Reply: TypeAlias = "bytes | int | None | list[Reply]"
Argument: TypeAlias = bytes | str | int

_LENGTHS: Final = [b"\r\n$%d\r\n" % length for length in range(256)]


def packed(command: Sequence[Argument]) -> bytes:
    """A command as RESP has it: how many arguments, and each behind its length in bytes."""
    parts = [b"*%d" % len(command)]
    for argument in command:
        data = argument if isinstance(argument, bytes) else str(argument).encode()
        length = len(data)
        parts.append(_LENGTHS[length] if length < 256 else b"\r\n$%d\r\n" % length)
        parts.append(data)
    parts.append(b"\r\n")
    return b"".join(parts)


class Lines:
    """As many connections as there were calls at once; the one used last is used next."""

    def __init__(self, client: Redis) -> None:
        self._pool = client.connection_pool
        self._free: list[AbstractConnection] = []

    async def ask(self, *command: Argument) -> Reply:
        """The answer to one command. Raises what redis-py raises."""
        data = packed(command)
        line = self._free.pop() if self._free else await self._another()
        try:
            if line.is_connected:
                # It may have died with the server of before: that is worth one more try.
                with suppress(RedisConnectionError):
                    return await _ask(line, data)
            await line.connect()  # type: ignore[no-untyped-call]
            return await _ask(line, data)
        finally:
            self._free.append(line)

    async def _another(self) -> AbstractConnection:
        line: AbstractConnection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
        line.socket_timeout = None
        return line

    async def disconnect(self) -> None:
        """Connect anew before the next calls: the server's name may lead elsewhere by now."""
        for line in self._free[:]:
            await line.disconnect()


async def _ask(line: AbstractConnection, data: bytes) -> Reply:
    await line.send_packed_command(data, check_health=False)
    return cast(Reply, await line.read_response())
