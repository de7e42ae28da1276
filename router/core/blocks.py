"""A text as chained hashes of its prefixes.

It is cut at the same offsets in every request, at every replica (`BOUNDARIES`), and each
block's hash is seeded with the hash before it. So an equal hash means an equal text from the start
(two different prefixes collide with a chance of 2^-64), one number stands for a whole prefix, and
no text is kept. The chain starts from the model, so models never share a prefix. The last block of
a text may be short; its hash then stands for the whole text.

Blocks grow with the distance from the start, from 64 bytes to 1 KiB: never more than an eighth of
what came before, so that short prompts are told apart well and long ones stay cheap.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final

from xxhash import xxh3_64_intdigest

from router.core.kept import keep

SMALLEST_BLOCK_BYTES: Final = 64
LARGEST_BLOCK_BYTES: Final = 1024
HASHED_BYTES: Final = 4 * 1024 * 1024  # about a million tokens; text behind it is not looked at
LANDMARK_BYTES: Final = 2048  # about 512 tokens, the block of published traces
MOST_LANDMARKS: Final = 64


def _boundaries() -> tuple[int, ...]:
    ends = [0]
    while ends[-1] < HASHED_BYTES:
        # The largest power of two below, divided by 8: full blocks end at every power of two.
        step = (1 << ends[-1].bit_length() >> 1) // 8
        ends.append(ends[-1] + min(LARGEST_BLOCK_BYTES, max(SMALLEST_BLOCK_BYTES, step)))
    return tuple(ends)


BOUNDARIES: Final = _boundaries()
_BLOCKS: Final = tuple(map(slice, BOUNDARIES, BOUNDARIES[1:]))
# The smallest blocks, of which every prompt begins with as many as it is long, are cut at once: by so
# many of them.
_SMALLEST_BLOCKS: Final = 1024 // SMALLEST_BLOCK_BYTES
_CUT: Final = tuple(
    Struct(f"{SMALLEST_BLOCK_BYTES}s" * number).unpack_from
    for number in range(_SMALLEST_BLOCKS + 1)
)
_LANDMARKS: Final = tuple(
    i for i, end in enumerate(BOUNDARIES) if end and end % LANDMARK_BYTES == 0
)[:MOST_LANDMARKS]

_starts: dict[str | None, int] = {}


def block_hashes(text: bytes, model: str | None = None) -> list[int]:
    """The hashes of `text`'s prefixes, shortest first; none for an empty text.

    Equal in every process and on every machine. `model` is None or a string without lone
    surrogates; like other routers we take "unknown" and "" for none.
    """
    previous = _starts.get(model) or _start(model)
    hashes = []
    for part in _CUT[min(len(text) // SMALLEST_BLOCK_BYTES, _SMALLEST_BLOCKS)](text):
        previous = xxh3_64_intdigest(part, previous)
        hashes.append(previous)
    for number in range(len(hashes), len(_BLOCKS)):
        part = text[_BLOCKS[number]]
        if not part:
            break
        previous = xxh3_64_intdigest(part, previous)
        hashes.append(previous)
    return hashes


def _start(model: str | None) -> int:
    name = "default" if not model or model == "unknown" else model
    start = xxh3_64_intdigest(name.encode())
    keep(_starts, model, start, len(name))
    return start


def matched_bytes(depth: int, text_bytes: int) -> int:
    """How many bytes of a text of `text_bytes` its first `depth` blocks are."""
    return min(BOUNDARIES[depth], text_bytes)


def landmarks(blocks: Sequence[int]) -> list[int]:
    """The hashes at every 2 KiB and at the end, the first `MOST_LANDMARKS`: a prefix in few words."""
    if not blocks:
        return []
    marked = []
    for end in _LANDMARKS:
        if end >= len(blocks):
            marked.append(blocks[-1])
            break
        marked.append(blocks[end - 1])
    return marked
