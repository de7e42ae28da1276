"""A read that is one chunk of a chunked body and no more: known by its bytes, without a parser.

Engines send each event of a stream as a chunk of its own, and mostly a read brings just one. Its length
can be written in one way only, as almost all write it, so that how long the whole is tells its head.
"""

from __future__ import annotations

from typing import Final

LONGEST: Final = 4096  # bytes of a chunk that is known so: most events are shorter by far
CHUNK_HEADS: Final = tuple(b"%x\r\n" % size for size in range(LONGEST))  # by what they announce
CHUNK_END: Final = b"\r\n"
EVENT_END: Final = b"\n\n"

_BY_WHOLE: Final = {len(h) + n + len(CHUNK_END): h for n, h in enumerate(CHUNK_HEADS) if n}
WHOLE_HEADS: Final = tuple(_BY_WHOLE.get(size) for size in range(LONGEST))  # by all of a chunk


def only_chunk(data: bytes) -> bytes | None:
    """What is in the chunk that `data` is, to its last byte. None where it is not one, and where a parser
    has to say: an empty one, a long one, one whose length is written otherwise."""
    if len(data) >= LONGEST:
        return None
    head = WHOLE_HEADS[len(data)]
    # Slices, since `startswith` and `endswith` take three times as long.
    if head is None or data[: len(head)] != head or data[-len(CHUNK_END) :] != CHUNK_END:
        return None
    return data[len(head) : -len(CHUNK_END)]


def ends_chunk(data: bytes, payload: bytes) -> bool:
    """Does the next chunk begin behind `data`, in which a parser found `payload`?

    Told of chunks that end with an event: before the line end that ends `data` stands an empty line, which
    no head of a chunk and no trailer has in it; and `payload` ends there, without that line end.
    """
    return data[-4:] == EVENT_END + CHUNK_END and payload[-2:] == EVENT_END
