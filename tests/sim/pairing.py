"""A worker of a pair: the prefill or the decode half of an engine, as SGLang and vLLM have them.

SGLang: both halves are asked at once and meet in rooms. The prefill worker waits for the decode worker
to come to the room, computes, and hands over; the decode worker has nothing to say before that. Each
waits for ever for one that does not come. The rooms are at the prefill worker's bootstrap port, which
is its control port here (`POST /_sim/rooms/N`).

vLLM: the prefill worker is asked first, for one token, and says where the cache lies; the decode
worker takes only what it was told.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

from tests.sim.shapes import Json

if TYPE_CHECKING:
    from tests.sim.call import Call

Part = Literal["prefill", "decode", "vllm-prefill", "vllm-decode"]
FIELDS = ("bootstrap_host", "bootstrap_port", "bootstrap_room")
# Faults of a worker that still does its work; with others it dies before, or in the middle of it.
WORKS = ("drip", "interim", "trailers", "http10", "connection_close", "close_silently")
ANSWERS = (*WORKS, "cut", "hang_after", "polite_abort", "error_frame")


class Refused(Exception):
    """The request does not fit the part."""


class TransferFailed(Exception):
    """The other half cannot be reached, or is gone."""


class Room:
    """Where a prefill worker hands its cache over."""

    def __init__(self) -> None:
        self.arrived = asyncio.Event()
        self.done = asyncio.Event()


class Rooms:
    """All rooms of a prefill worker."""

    def __init__(self) -> None:
        self._rooms: dict[int, Room] = {}

    def of(self, number: int) -> Room:
        return self._rooms.setdefault(number, Room())


def check(call: Call) -> None:
    """Raises Refused where the request is none for this half."""
    params = call.body.get("kv_transfer_params")
    match call.worker.config.part:
        case "prefill" | "decode":
            rooms_of(call.body)
        case "vllm-prefill":
            asked = isinstance(params, dict) and params.get("do_remote_decode") is True
            if not asked or call.body.get("max_tokens") != 1 or call.body.get("stream") is True:
                raise Refused("a prefill is for one token, and says do_remote_decode")
        case "vllm-decode":
            if not isinstance(params, dict) or params.get("do_remote_prefill") is not True:
                raise Refused("a decode says do_remote_prefill")
            if not params.get("remote_block_ids") or not params.get("remote_engine_id"):
                raise Refused("a decode says where its cache is")


def rooms_of(body: Json) -> list[tuple[str, int, int]]:
    """Host, port and number of each. Raises Refused."""
    if any(name not in body for name in FIELDS):
        raise Refused("Disaggregated request received without bootstrap room id")
    hosts, ports, numbers = (
        value if isinstance(value := body[name], list) else [value] for name in FIELDS
    )
    if not len(hosts) == len(ports) == len(numbers):
        raise Refused("bootstrap lists of different lengths")
    found = []
    for host, port, number in zip(hosts, ports, numbers, strict=True):
        if not (isinstance(host, str) and isinstance(number, int) and 0 <= number < 1 << 63):
            raise Refused("bootstrap_host must be text and bootstrap_room a 63-bit number")
        found.append((host, port if isinstance(port, int) else 8998, number))
    return found


async def begin(call: Call) -> None:
    """Until this half can do its work. Raises TransferFailed."""
    part, fault = call.worker.config.part, call.fault.kind if call.fault else None
    if part == "prefill" and fault in (None, *WORKS):
        for _, _, number in rooms_of(call.body):
            await call.worker.rooms.of(number).arrived.wait()
    elif part == "decode" and fault in (None, *ANSWERS):
        await asyncio.gather(*(visit(*room) for room in rooms_of(call.body)))


def hand_over(call: Call) -> None:
    """The prefill is done."""
    fault = call.fault.kind if call.fault else None
    if call.worker.config.part == "prefill" and fault in (None, *WORKS):
        for _, _, number in rooms_of(call.body):
            call.worker.rooms.of(number).done.set()


async def visit(host: str, port: int, number: int) -> None:
    """Wait in a room of a prefill worker until it has handed over. Raises TransferFailed."""
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError as error:
        raise TransferFailed(f"no prefill at {host}:{port}: {error}") from None
    try:
        writer.write(b"POST /_sim/rooms/%d HTTP/1.1\r\nhost: x\r\n\r\n" % number)
        if b" 200 " not in await reader.readline():
            raise TransferFailed("the prefill worker is gone")
    finally:
        writer.close()


def transfer_params(call: Call) -> Json:
    """Where the cache lies, as vLLM's prefill worker says it."""
    return {
        "do_remote_prefill": True,
        "do_remote_decode": False,
        "remote_engine_id": f"engine-{call.worker.config.model}",
        "remote_block_ids": [job.index for job in call.jobs] + [1],
        "remote_host": "127.0.0.1",
        "remote_port": 5600,
    }


def input_logprobs(call: Call, tokens: tuple[int, ...]) -> list[object]:
    """SGLang's: of the whole input at the prefill worker, of its last token at the decode worker."""
    own = tokens[-1:] if call.worker.config.part == "decode" else tokens
    value = -0.5 if call.worker.config.part == "decode" else -0.25
    return [[value, token, None] for token in own]
