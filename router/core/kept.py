"""Keeping what was worked out of bytes that clients and workers send, in bounded memory."""

from __future__ import annotations

from typing import Final, TypeVar

K = TypeVar("K")
V = TypeVar("V")

MOST_KEPT: Final = 1024
MOST_BYTES: Final = 512


def keep(kept: dict[K, V], of: K, value: V, size: int) -> None:
    """Keep `value` of what has `size` bytes, unless that is large.

    Where there are many already, all are forgotten: those that are needed come again.
    """
    if size <= MOST_BYTES:
        if len(kept) >= MOST_KEPT:
            kept.clear()
        kept[of] = value
