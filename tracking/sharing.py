"""What replicas tell each other: requests in flight, and which worker holds which prefix.

One script call, some twenty times a second: "this is what I have, what do you have?" Names are
digests of URLs and prefixes are hashes: no text and no URL travels here. What is told is told
whole, and belongs to the replica's lease; a replica that dies takes it along.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, cast

import msgspec

from tracking.lines import Argument
from tracking.store import TraceStore

STREAM_BYTES: Final = 1 << 20  # of prefixes, for those that come later: 130,000 of them
READ_ENTRIES: Final = 64
LARGEST: Final = 0xFFFFFFFF

Requests = Mapping[int, tuple[int, int]]
"""Digest of a worker's URL -> requests in flight, uncached input tokens queued."""

_FORMAT: Final = b"\x01"  # of both messages; others are from a newer version and are skipped
_REQUESTS: Final = struct.Struct("<QII")
_RUN: Final = struct.Struct("<QH")
RUN_LIMIT: Final = 0xFFFF


class Told(msgspec.Struct, frozen=True):
    """What a replica says. `requests` None: as before. `since_us`, `position`: from what it heard
    last; a `position` of -1 leaves the prefixes of the others out."""

    requests: bytes | None
    prefixes: bytes
    since_us: int
    position: int


class OtherReplica(msgspec.Struct, frozen=True):
    """`age_us`: so long ago its requests were true. `requests` None: as before."""

    name: str
    age_us: int
    requests: bytes | None


class Heard(msgspec.Struct, frozen=True):
    """What a replica learns. `known` False: its lease had run out and nothing was told."""

    now_us: int
    known: bool
    workers_version: int
    total: int
    position: int
    more: bool
    others: list[OtherReplica]
    prefixes: list[bytes]


async def share(store: TraceStore, owner: str, told: Told) -> Heard:
    """One exchange. Raises StoreUnavailable."""
    arguments: list[Argument] = [
        owner,
        b"" if told.requests is None else b"=" + told.requests,
        str(told.since_us),
        str(told.position),
        READ_ENTRIES,
        STREAM_BYTES,
        told.prefixes,
    ]
    reply = cast(list[bytes | int], await store.call("share", *arguments))
    now, known, version, total, position, more, count = cast(
        tuple[bytes, int, int, int, int, int, int], reply[:7]
    )
    others = cast(list[bytes], reply[7 : 7 + 3 * count])
    return Heard(
        now_us=int(now),
        known=bool(known),
        workers_version=version,
        total=total,
        position=position,
        more=bool(more),
        others=[
            OtherReplica(name.decode(), int(age), requests[1:] if requests else None)
            for name, age, requests in zip(others[::3], others[1::3], others[2::3], strict=True)
        ],
        prefixes=cast(list[bytes], reply[7 + 3 * count :]),
    )


def encode_requests(requests: Requests) -> bytes:
    """Workers without requests are left out."""
    packed = [
        _REQUESTS.pack(digest, min(in_flight, LARGEST), min(max(tokens, 0), LARGEST))
        for digest, (in_flight, tokens) in requests.items()
        if in_flight > 0
    ]
    return _FORMAT + b"".join(packed)


def decode_requests(message: bytes) -> dict[int, tuple[int, int]]:
    """Nothing for a message that is not understood."""
    if message[:1] != _FORMAT or (len(message) - 1) % _REQUESTS.size:
        return {}
    return {
        digest: (in_flight, tokens)
        for digest, in_flight, tokens in _REQUESTS.iter_unpack(memoryview(message)[1:])
    }


def encode_run(digest: int, blocks: Sequence[int]) -> bytes:
    """The worker holds these blocks of a prefix; without blocks: it holds nothing any more."""
    blocks = blocks[:RUN_LIMIT]
    return _RUN.pack(digest, len(blocks)) + struct.pack(f"<{len(blocks)}Q", *blocks)


def encode_prefixes(runs: Sequence[bytes]) -> bytes:
    return _FORMAT + b"".join(runs) if runs else b""


def decode_prefixes(message: bytes) -> Iterator[tuple[int, Sequence[int]]]:
    """The runs, in their order; ends before what is not understood."""
    if message[:1] != _FORMAT:
        return
    at, end = 1, len(message)
    while at + _RUN.size <= end:
        digest, count = _RUN.unpack_from(message, at)
        at += _RUN.size
        if at + 8 * count > end:
            return
        yield digest, struct.unpack_from(f"<{count}Q", message, at)
        at += 8 * count
