"""When the prefixes of prompts were last used, in few words.

Time is counted in blocks used: a cache that drops what was used longest ago keeps a prefix until so
much else was used. Of every eighth block, taken by its hash, so that all replicas take the same ones
wherever in a prompt they are told of it, the last use is remembered: a *mark*.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

BLOCKS_PER_MARK: Final = 8
TICK: Final = 2  # an odd time says that this replica used it itself


class Marks:
    """The places of a prompt's marks, rising, their blocks, and when each was last used."""

    __slots__ = ("blocks", "places", "used")

    def __init__(self, places: list[int], blocks: list[int], used: list[int]) -> None:
        self.places = places
        self.blocks = blocks
        self.used = used

    def within(self, depth: int) -> int:
        """How many marks the first `depth` blocks have."""
        places = self.places
        if places and places[-1] < depth:  # mostly all of a prompt is meant
            return len(places)
        return bisect_left(places, depth)

    def since(self, time: float, depth: int) -> int:
        """How many of the first `depth` blocks were used since then.

        Who uses a block uses all before it, even where we are told of the end alone.
        """
        used = self.used
        last = older = self.within(depth)
        while older and used[older - 1] < time:
            older -= 1
        return depth if older == last else self.places[older]


class Ages:
    """Hard bound: the marks of so many blocks. When half of that is new, what was not used since is
    forgotten."""

    def __init__(self, blocks: int) -> None:
        self.now = 0
        self._generation = blocks // BLOCKS_PER_MARK // 2
        self._young: dict[int, int] = {}
        self._old: dict[int, int] = {}

    def marks(self, blocks: Sequence[int]) -> Marks:
        """What never was used, or too long ago to be remembered, was used at 0."""
        places, marked, used = [], [], []
        young, old = self._young, self._old
        for place in range(len(blocks)):
            # Its last three bits tell every eighth. They are written out: compiled, a name for them
            # costs ten times as much.
            if blocks[place] & 7 == 0:
                block = blocks[place]
                places.append(place)
                marked.append(block)
                used.append(young.get(block) or old.get(block, 0))
        return Marks(places, marked, used)

    def used(self, block: int) -> int:
        return self._young.get(block) or self._old.get(block, 0)

    def use(self, count: int, marked: Sequence[int], own: bool) -> int:
        """So many blocks, with these marks, are used now, by this replica itself or by another.
        Returns the time."""
        self.now += TICK * count
        time = self.now + 1 if own else self.now
        if len(self._young) + len(marked) > self._generation:
            self._old, self._young = self._young, {}
            marked = marked[: self._generation]
        young = self._young
        for block in marked:
            young[block] = time
        return time
