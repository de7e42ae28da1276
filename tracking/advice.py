"""What the owner of a Redis should know about its settings, in lines for the log at start.

Reading them is I/O (`examine`); judging them is not (`advice`). docs/redis.md says what is recommended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, cast

import msgspec
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import ResponseError

from tracking.connect import FAILURES, Client
from tracking.view import StoreUnavailable

SECONDS: Final = 2.0
OLDEST_VERSION: Final = (7, 0)
BYTES_A_RECORD: Final = 3700  # with its place in the indexes; docs/redis.md has the measurement
LEAST_HZ: Final = 50
CONFIG: Final = ("save", "lazyfree-lazy-expire")


class Server(msgspec.Struct, frozen=True):
    """Settings of a server as it tells them. None: we may not ask.

    `config` holds those of `CONFIG` that it knows.
    """

    info: Mapping[str, object] | None
    config: Mapping[str, str] | None
    reached_as_cluster: bool


async def examine(client: Client, key: str) -> Server:
    """Ask the server that holds `key`. Raises StoreUnavailable."""
    try:
        async with asyncio.timeout(SECONDS):
            info = await _ask(client, key, "INFO")
            config = await _ask(client, key, "CONFIG GET", *CONFIG)
    except FAILURES as error:
        raise StoreUnavailable(str(error) or type(error).__name__) from error
    return Server(
        info=cast(Mapping[str, object] | None, info),
        config={str(_text(name)): str(_text(value)) for name, value in config.items()}
        if isinstance(config, dict)
        else None,
        reached_as_cluster=isinstance(client, RedisCluster),
    )


async def _ask(client: Client, key: str, *command: str) -> object | None:
    try:
        if isinstance(client, RedisCluster):
            if not client.get_nodes():
                _ = await client.initialize()
            node = client.get_node_from_key(key)
            reply: object = await client.execute_command(*command, target_nodes=node)
        else:
            reply = await client.execute_command(*command)  # type: ignore[no-untyped-call]
        return reply
    except ResponseError:  # no permission, or renamed away
        return None


def _text(value: object) -> object:
    return value.decode() if isinstance(value, bytes) else value


def advice(server: Server, max_entries: int) -> list[str]:
    """Warnings, each one line; none for a server that is as recommended."""
    info = server.info
    if info is None:
        return [
            "its settings were not checked, and a fail-over may go unnoticed: its user may not run"
            " INFO"
        ]
    lines = []
    version = str(info.get("redis_version", ""))
    if _numbers(version) < OLDEST_VERSION:
        lines.append(f"Redis {version} is too old: 7.0 or newer is needed")
    if info.get("cluster_enabled") and not server.reached_as_cluster:
        lines.append("it is a node of a cluster: its URL should begin with redis+cluster://")
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        lines.append(
            f"maxmemory-policy is {policy}: it may drop parts of the traces; noeviction is meant"
        )
    room = int(str(info.get("maxmemory", 0)))
    if 0 < room < max_entries * BYTES_A_RECORD:
        lines.append(
            f"maxmemory is {room >> 20} MB: room for some {room // BYTES_A_RECORD} traces, not for"
            f" --max-trace-entries {max_entries}"
        )
    hz = int(str(info.get("configured_hz", LEAST_HZ)))
    if hz < LEAST_HZ:
        lines.append(
            f"hz is {hz}: while many traces expire it pauses for up to {250 // hz} ms at a time;"
            f" 100 is meant, {LEAST_HZ} at least"
        )
    if server.config is not None and server.config.get("lazyfree-lazy-expire") == "no":
        lines.append(
            "lazyfree-lazy-expire is no: after a whole --trace-ttl without requests the indexes expire"
            " in one piece, and it stands still for half a second for each million traces; yes is meant"
        )
    if not info.get("aof_enabled"):
        if server.config is None:
            lines.append(
                "whether it keeps its data on disk was not checked: its user may not run CONFIG GET"
            )
        elif not server.config.get("save"):
            lines.append(
                "it keeps nothing on disk: when it restarts, all but the last seconds is gone"
            )
    return lines


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
