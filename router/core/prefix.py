"""Prefixes of prompts as chained hashes, and which workers hold them.

A text is cut at the same offsets in every request, at every replica (`BOUNDARIES`), and each
block's hash is seeded with the hash before it. So an equal hash means an equal text from the start
(two different prefixes collide with a chance of 2^-64), one number stands for a whole prefix, and
no text is kept. The chain starts from the model, so models never share a prefix. The last block of
a text may be short; its hash then stands for the whole text.

Blocks grow with the distance from the start, from 64 bytes to 1 KiB: never more than an eighth of
what came before, so that short prompts are told apart well and long ones stay cheap.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final

from xxhash import xxh3_64_intdigest

SMALLEST_BLOCK_BYTES: Final = 64
LARGEST_BLOCK_BYTES: Final = 1024
HASHED_BYTES: Final = 4 * 1024 * 1024  # about a million tokens; text behind it is not looked at
LANDMARK_BYTES: Final = 2048  # about 512 tokens, the block of published traces


def _boundaries() -> tuple[int, ...]:
    ends = [0]
    while ends[-1] < HASHED_BYTES:
        # The largest power of two below, divided by 8: full blocks end at every power of two.
        step = (1 << ends[-1].bit_length() >> 1) // 8
        ends.append(ends[-1] + min(LARGEST_BLOCK_BYTES, max(SMALLEST_BLOCK_BYTES, step)))
    return tuple(ends)


BOUNDARIES: Final = _boundaries()
_BLOCKS: Final = tuple(map(slice, BOUNDARIES, BOUNDARIES[1:]))
_LANDMARKS: Final = tuple(
    i for i, end in enumerate(BOUNDARIES) if end and end % LANDMARK_BYTES == 0
)


def block_hashes(text: bytes, model: str | None = None) -> list[int]:
    """The hashes of `text`'s prefixes, shortest first; none for an empty text.

    Equal in every process and on every machine. `model` is None or a string without lone
    surrogates; like other routers we take "unknown" and "" for none.
    """
    name = "default" if not model or model == "unknown" else model
    previous = xxh3_64_intdigest(name.encode())
    hashes = []
    for block in _BLOCKS[: bisect_left(BOUNDARIES, len(text))]:
        previous = xxh3_64_intdigest(text[block], previous)
        hashes.append(previous)
    return hashes


def matched_bytes(depth: int, text_bytes: int) -> int:
    """How many bytes of a text of `text_bytes` its first `depth` blocks are."""
    return min(BOUNDARIES[depth], text_bytes)


def landmarks(blocks: Sequence[int], limit: int) -> list[int]:
    """The hashes at every 2 KiB and at the end, at most `limit`: a prefix in few words."""
    ends = _LANDMARKS[: bisect_left(_LANDMARKS, len(blocks))]
    return [blocks[end - 1] for end in (*ends, len(blocks))][:limit] if blocks else []


# What one entry costs in CPython, measured from 200,000 to 400,000 entries: 155-185 bytes of
# table, list node, key and holders, and the allocator rounds up.
ENTRY_BYTES: Final = 224
# Each 30 nodes more need one digit more in every entry's bit set.
NODES_PER_DIGIT: Final = 30
DIGIT_BYTES: Final = 4
# Bits of forgotten nodes are cleared from all entries together, which walks the whole index.
SWEEP_AFTER_FORGOTTEN: Final = 32
NAMES_MEMO: Final = 256


class PrefixIndex:
    """Which nodes hold which prefix: block hash -> set of nodes, least recently used first out.

    Hard bound: at most `max_bytes`, by `ENTRY_BYTES` and the number of nodes. A node is any name
    that all replicas agree on. Nodes are bits of an integer, so matching costs a look-up and an
    AND per block, however many nodes hold it.

    An entry does not age per node: a node that once held a prefix counts as a holder for as long
    as anybody uses that prefix, or until `forget`.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._holders: OrderedDict[int, int] = OrderedDict()
        self._bits: dict[str, int] = {}
        self._next_bit = 1
        self._alive = 0
        self._forgotten: list[int] = []
        self._free: list[int] = []
        self._names: dict[int, tuple[str, ...]] = {}
        self._entry_bytes = ENTRY_BYTES
        self._max_entries = max_bytes // ENTRY_BYTES

    def __len__(self) -> int:
        return len(self._holders)

    @property
    def bytes_used(self) -> int:
        """Estimated bytes, never above `max_bytes`."""
        return len(self._holders) * self._entry_bytes

    @property
    def nodes(self) -> frozenset[str]:
        return frozenset(self._bits)

    def insert(self, blocks: Sequence[int], node: str) -> None:
        """`node` holds this prefix from now on; it is the most recently used one."""
        bit = self._bits.get(node) or self._add(node)
        holders = self._holders
        get, refresh = holders.get, holders.move_to_end
        # Deepest first: a prefix must not be evicted before what continues it.
        for block in reversed(blocks[: self._max_entries]):
            holding = get(block)
            if holding is None:
                holders[block] = bit
                continue
            if not holding & bit:
                holders[block] = holding | bit
            refresh(block)
        self._evict()

    def match(self, blocks: Sequence[int]) -> dict[str, int]:
        """How many blocks from the start each node holds; nodes that hold none are absent."""
        get = self._holders.get
        mask = self._alive
        depth = 0
        ends: list[tuple[int, int]] = []
        for block in blocks:
            holding = get(block, 0) & mask
            if holding != mask:
                if depth:
                    ends.append((depth, mask))
                mask = holding
            if not mask:
                break
            depth += 1
        if mask and depth:
            ends.append((depth, mask))
        depths: dict[str, int] = {}
        for depth, mask in ends:  # each mask is part of the one before it
            depths.update(dict.fromkeys(self._named(mask), depth))
        return depths

    def forget(self, node: str) -> None:
        """`node` holds nothing any more: it was removed, restarted or flushed."""
        bit = self._bits.pop(node, 0)
        if bit:
            self._alive ^= bit
            self._forgotten.append(bit)
            self._names.clear()
            if len(self._forgotten) >= SWEEP_AFTER_FORGOTTEN:
                self._sweep()

    def rename(self, names: Mapping[str, str]) -> None:
        """Nodes get other names, all at the same time: old name -> new name."""
        bits = {name: self._bits.pop(node, 0) for node, name in names.items()}
        for name, bit in bits.items():
            self.forget(name)
            if bit:
                self._bits[name] = bit
        self._names.clear()

    def _add(self, node: str) -> int:
        if self._free:
            bit = self._free.pop()
        else:
            bit = self._next_bit
            self._next_bit <<= 1
        self._bits[node] = bit
        self._alive |= bit
        self._names.clear()
        digits = bit.bit_length() // NODES_PER_DIGIT
        self._entry_bytes = max(self._entry_bytes, ENTRY_BYTES + DIGIT_BYTES * digits)
        self._max_entries = self.max_bytes // self._entry_bytes
        self._evict()
        return bit

    def _evict(self) -> None:
        while len(self._holders) > self._max_entries:
            self._holders.popitem(last=False)

    def _sweep(self) -> None:
        self._free += self._forgotten
        self._forgotten.clear()
        alive = self._alive
        self._holders = OrderedDict(
            (block, holding & alive) for block, holding in self._holders.items() if holding & alive
        )

    def _named(self, mask: int) -> tuple[str, ...]:
        names = self._names.get(mask)
        if names is None:
            if len(self._names) >= NAMES_MEMO:
                self._names.clear()
            names = tuple(node for node, bit in self._bits.items() if bit & mask)
            self._names[mask] = names
        return names

    def __repr__(self) -> str:
        return (
            f"<PrefixIndex {len(self)} prefixes of {len(self._bits)} nodes: "
            f"{self.bytes_used} of {self.max_bytes} bytes>"
        )
