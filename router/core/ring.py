"""Consistent hashing: names on a circle, each at many points, and a key belongs to the next point.

A name that is missing is passed over, so only its own keys move, each to the next name on the
circle; a name that is added takes an even share from all others (Karger et al., 1997). The points
of a name depend on nothing but the name: all replicas have the same circle.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator
from itertools import chain
from typing import Final

from xxhash import xxh3_64_intdigest

POINTS: Final = 150  # of each name, as sglang-router has; shares are even within some 10 %
SLOT_BITS: Final = 16  # the low bits of a point say whose it is
SLOTS: Final = (1 << SLOT_BITS) - 1
SPARE: Final = 32  # names kept beyond those asked for, for when they come back


class Ring:
    """The circle of all names it was asked to cover, and of some that were there before."""

    def __init__(self) -> None:
        self._points: list[int] = []
        self._names: list[str] = []
        self._known: set[str] = set()

    def cover(self, names: Collection[str]) -> None:
        """Have all of `names`, which are distinct, on the circle."""
        if len(self._known) > len(names) + SPARE:
            self._points, self._names, self._known = [], [], set()
        new = [name for name in names if name not in self._known]
        if new:
            first = len(self._names)
            self._names += new
            self._known.update(new)
            self._points += [
                xxh3_64_intdigest(f"{name}#{point}".encode()) & ~SLOTS | slot
                for slot, name in enumerate(new, first)
                for point in range(POINTS)
            ]
            self._points.sort()

    def walk(self, key: int) -> Iterator[str]:
        """Every name once, in the order in which a key (64 bits) meets them."""
        points = self._points
        start = bisect_left(points, key)
        met = set()
        for at in chain(range(start, len(points)), range(start)):
            slot = points[at] & SLOTS
            if slot not in met:
                met.add(slot)
                yield self._names[slot]


def key_hash(key: str) -> int:
    """Where a key is on the circle."""
    return xxh3_64_intdigest(key.encode("utf-8", "surrogatepass"))
