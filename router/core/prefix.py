"""Which workers hold the prefixes of prompts, which are chained hashes (`router/core/blocks.py`)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from math import inf
from typing import Final

from router.core.ages import TICK, Ages, Marks
from router.core.blocks import BOUNDARIES, LARGEST_BLOCK_BYTES
from router.core.evictions import Evictions
from router.core.facts import RequestFacts

# What one entry costs in CPython, measured up to 400,000 entries: 70 to 146 bytes of table, key and
# set of nodes, and the allocator rounds up; 14 bytes more are every eighth one's age.
ENTRY_BYTES: Final = 160
# Each 30 nodes more need one digit more in every entry's bit set.
NODES_PER_DIGIT: Final = 30
DIGIT_BYTES: Final = 4
# Bits of forgotten nodes are cleared from all entries together, which walks the whole index.
SWEEP_AFTER_FORGOTTEN: Final = 32
PLACES_MEMO: Final = 256
INEXACT: Final = 1.05  # engines count tokens, of a text in their template; we count bytes


class PrefixIndex:
    """Which nodes hold which prefix: block hash -> set of nodes, least recently used first out.

    Hard bound: at most `max_bytes`, by `ENTRY_BYTES` and the number of nodes. A node is any name
    that all replicas agree on; nodes are bits of an integer.

    There are two generations. A prompt that is sent to a node is noted in the young one, with all
    its blocks; when that is full it becomes the old one, and what was the old one is forgotten. So
    a prefix is known for a node until as much else was noted as one generation holds, and nothing
    has to be kept in the order of its use.

    As a prompt is noted whole, no node holds a block without those before it: along a prompt the
    set of nodes only shrinks. Where two blocks have the same holders those between need no look.

    Whether a node has still what it was sent is another question (`kept`), answered by the age of a
    prefix, one for all nodes, and by what `evictions` has learned of each.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.ages = Ages(max_bytes // ENTRY_BYTES)
        self.evictions = Evictions()
        self._young: dict[int, int] = {}
        self._old: dict[int, int] = {}
        self._bits: dict[str, int] = {}
        self._next_bit = 1
        self._alive = 0
        self._forgotten: list[int] = []
        self._free: list[int] = []
        self._entry_bytes = ENTRY_BYTES
        self._generation = self.max_bytes // ENTRY_BYTES // 2
        # Of the nodes that were asked about last: the names, their bits, and which of a set they are.
        self._asked: list[str] | None = None
        self._asked_bits: list[int] = []
        self._places: dict[int, list[int]] = {}

    def __len__(self) -> int:
        """Entries of both generations; a prefix may have one in each."""
        return len(self._young) + len(self._old)

    @property
    def bytes_used(self) -> int:
        """Estimated bytes, never above `max_bytes`."""
        return len(self) * self._entry_bytes

    @property
    def nodes(self) -> frozenset[str]:
        return frozenset(self._bits)

    def insert(self, blocks: Sequence[int], node: str, marks: Marks | None = None) -> int:
        """`node` holds these blocks from now on, and holds those before them, where this is only
        the end of a prefix. What is larger than a generation is cut off there.

        `marks` are given where this replica sent them there. Returns the time of it, as in `ages`.
        """
        own = marks is not None
        if marks is None:
            marks = self.ages.marks(blocks)
        if self.evictions.most < inf:
            self._drop_gone(blocks, marks)
        time = self.ages.use(len(blocks), marks.blocks, own)
        bit = self._bits.get(node) or self._add(node)
        if len(blocks) > self._generation:
            blocks = blocks[: self._generation]
        young = self._young
        if not blocks or young.get(blocks[-1], 0) & bit:
            return time
        if len(young) + len(blocks) > self._generation:
            self._old = young
            self._young = young = {}
        get = young.get
        for block in blocks:
            holding = get(block, 0)
            if not holding & bit:
                young[block] = holding | bit
        return time

    def send(self, request: RequestFacts, node: str, sent: int, marks: Marks) -> Sent:
        """`insert` a prompt of which `node` was sent the first `sent` blocks before."""
        return Sent(self, request, node, sent, marks, self.insert(request.blocks, node, marks))

    def take_back(self, blocks: Sequence[int], node: str) -> None:
        """`node` does not hold these blocks, the end of a prefix, after all."""
        bit = self._bits.get(node, 0)
        for holders in (self._young, self._old):
            for block in blocks:
                holding = holders.get(block, 0)
                if holding & bit:
                    holders[block] = holding ^ bit

    def _drop_gone(self, blocks: Sequence[int], marks: Marks) -> None:
        """What was not used for so long that no node has it any more, all nodes were not sent."""
        gone = self.ages.now - TICK * self.evictions.most
        if gone <= 0:
            return
        first = marks.since(gone, len(blocks))
        for holders in (self._young, self._old):
            for block in blocks[first:]:
                holders.pop(block, None)

    def depths(self, blocks: Sequence[int], nodes: Sequence[str]) -> tuple[list[int], list[int]]:
        """How many blocks from the start each of `nodes` holds, and some numbers among which all of
        these are but 0, rising up to the largest of them.

        Cheapest where the same nodes are asked about again and again.
        """
        depths = [0] * len(nodes)
        different: list[int] = []
        if not blocks:
            return depths, different
        self._ask(nodes)
        young, old = self._young, self._old
        mask = (young.get(blocks[0], 0) | old.get(blocks[0], 0)) & self._alive
        if not mask:
            return depths, different
        last = young.get(blocks[-1], 0) | old.get(blocks[-1], 0)
        depth = 1
        while mask:  # the nodes that hold so many blocks: fewer at each step
            fewer = last & mask
            if fewer == mask:
                depth = len(blocks)
            else:
                high = len(blocks) - 1  # the first block that `fewer` hold is from `depth` to there
                while depth < high:
                    middle = (depth + high) // 2
                    block = blocks[middle]
                    holding = (young.get(block, 0) | old.get(block, 0)) & mask
                    if holding == mask:
                        depth = middle + 1
                    else:
                        high, fewer = middle, holding
            places = self._places_of(mask)
            if places:
                different.append(depth)
            if len(places) == len(nodes):
                depths = [depth] * len(nodes)
            else:
                for place in places:
                    depths[place] = depth
            if fewer == mask:
                break
            depth, mask = depth + 1, fewer
        return depths, different

    def kept(self, nodes: Sequence[str], sent: list[int], marks: Marks) -> list[int]:
        """How much of the `sent[i]` blocks that `nodes[i]` was sent before it is thought to have
        still: `sent` itself where all have all of it."""
        evictions, now = self.evictions, self.ages.now
        if evictions.least == inf:
            return sent
        limits, fleet = evictions.limits.get, evictions.fleet
        known: dict[tuple[int, float], int] = {}
        kept = []
        for node, depth in zip(nodes, sent, strict=True):
            limit = limits(node, fleet)
            left = known.get((depth, limit))
            if left is None:
                left = known[depth, limit] = marks.since(now - TICK * limit, depth)
            kept.append(left)
        return sent if kept == sent else kept

    def match(self, blocks: Sequence[int]) -> dict[str, int]:
        """How many blocks from the start each node holds; nodes that hold none are absent."""
        nodes = [*self._bits]
        held = zip(nodes, self.depths(blocks, nodes)[0], strict=True)
        return {node: depth for node, depth in held if depth}

    def forget(self, node: str) -> None:
        """`node` holds nothing any more: it was removed, restarted or flushed."""
        self.evictions.forget(node)
        bit = self._bits.pop(node, 0)
        if bit:
            self._alive ^= bit
            self._forgotten.append(bit)
            self._asked = None
            if len(self._forgotten) >= SWEEP_AFTER_FORGOTTEN:
                self._sweep()

    def rename(self, names: Mapping[str, str]) -> None:
        """Nodes get other names, all at the same time: old name -> new name."""
        bits = {name: self._bits.pop(node, 0) for node, name in names.items()}
        for node in names:
            self.evictions.forget(node)
        for name, bit in bits.items():
            self.forget(name)
            if bit:
                self._bits[name] = bit
        self._asked = None

    def _add(self, node: str) -> int:
        if self._free:
            bit = self._free.pop()
        else:
            bit = self._next_bit
            self._next_bit <<= 1
        self._bits[node] = bit
        self._alive |= bit
        self._asked = None
        digits = bit.bit_length() // NODES_PER_DIGIT
        self._entry_bytes = max(self._entry_bytes, ENTRY_BYTES + DIGIT_BYTES * digits)
        self._generation = self.max_bytes // self._entry_bytes // 2
        for holders in (self._young, self._old):
            while len(holders) > self._generation:
                holders.popitem()  # the last one in, which none of the others continues
        return bit

    def _sweep(self) -> None:
        self._free += self._forgotten
        self._forgotten.clear()
        self._young, self._old = map(self._of_living, (self._young, self._old))

    def _of_living(self, holders: dict[int, int]) -> dict[int, int]:
        alive = self._alive
        return {block: left for block, holding in holders.items() if (left := holding & alive)}

    def _ask(self, nodes: Sequence[str]) -> None:
        if nodes != self._asked:
            bits = self._bits
            self._asked = [*nodes]
            self._asked_bits = [bits.get(node, 0) for node in nodes]
            self._places = {}

    def _places_of(self, mask: int) -> list[int]:
        """Where among those asked about the nodes of a set are."""
        places = self._places.get(mask)
        if places is None:
            if len(self._places) >= len(self._asked_bits) + PLACES_MEMO:
                self._places.clear()
            self._places[mask] = places = self._find_places(mask)
        return places

    def _find_places(self, mask: int) -> list[int]:
        bits = self._asked_bits
        if mask.bit_count() == 1:
            return [bits.index(mask)] if mask in bits else []
        return [place for place, bit in enumerate(bits) if bit & mask]

    def __repr__(self) -> str:
        return (
            f"<PrefixIndex {len(self)} prefixes of {len(self._bits)} nodes: "
            f"{self.bytes_used} of {self.max_bytes} bytes>"
        )


class Sent:
    """A prompt on its way to a node that was sent a part of it before. It wants to be told how it
    went."""

    __slots__ = ("_before", "_index", "_marks", "_node", "_request", "_time")

    def __init__(
        self,
        index: PrefixIndex,
        request: RequestFacts,
        node: str,
        before: int,
        marks: Marks,
        time: int,
    ) -> None:
        self._index = index
        self._request = request
        self._node = node
        self._before = before
        self._marks = marks
        self._time = time

    def not_computed(self) -> Sequence[int]:
        """The node did not get to it. Returns the blocks that it does not hold then.

        They begin with the first mark that nobody used since: what others sent there stays.
        """
        blocks, ages = self._request.blocks, self._index.ages
        for place in self._marks.places[self._marks.within(self._before) :]:
            if ages.used(blocks[place]) == self._time:
                self._index.take_back(blocks[place:], self._node)
                return blocks[place:]
        return ()

    def found(self, share: float) -> None:
        """The engine found this share of the input, 0..1, in its cache."""
        marks = self._marks
        known = marks.within(self._before)
        if not known:
            return
        request = self._request
        reach = int(share * request.text_bytes * INEXACT) + LARGEST_BLOCK_BYTES
        missed = 0
        if reach < BOUNDARIES[self._before]:
            missed = known - marks.within(bisect_right(BOUNDARIES, reach) - 1)
        sent_at = self._time // TICK - len(request.blocks)
        ages = []
        used, first = marks.used, known
        while first:
            end, last_used = first, used[first - 1]
            while first and used[first - 1] <= last_used:  # who uses a block uses all before it
                first -= 1
            ages.append((sent_at - last_used // TICK, end - first))
        self._index.evictions.reported(self._node, ages, missed)
