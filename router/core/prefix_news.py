"""Which prefixes this replica still has to tell the others, each as seldom as possible.

A prompt of 16 KB is some twenty blocks; nearly all of them have been told before. So it is
remembered what was told, by us or to us, and only what goes beyond it is told: the end of a chain,
because who was told a block was told all blocks before it.

What is remembered is forgotten after every `EPOCH_BYTES` that the fleet told. Prefixes that are
still in use are then told once more, so that the last two epochs, which is what the store keeps,
hold everything in use from its very first block. A replica that starts late reads them and knows
what the others know.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

EPOCH_BYTES: Final = 1 << 19
BACKLOG_BLOCKS: Final = 1 << 17  # 1 MB, while the store is away
MASK: Final = (1 << 64) - 1
STIR: Final = 0x9E3779B97F4A7C15  # odd, so that a worker's salts do not repeat

Run = tuple[int, Sequence[int]]
"""Digest of a worker's URL, and blocks of a prefix it holds; without blocks: it lost them all."""


class PrefixNews:
    """Cheap enough for every request: a set look-up per block that is new, and one more."""

    def __init__(self) -> None:
        self._told: set[int] = set()
        self._salts: dict[int, int] = {}
        self._waiting: deque[Run] = deque()
        self._waiting_blocks = 0
        self._epoch = 0
        self.dropped = 0

    def __len__(self) -> int:
        """Blocks that wait to be told."""
        return self._waiting_blocks

    def routed(self, blocks: Sequence[int], digest: int) -> None:
        """A worker was sent this prompt: from now on it holds it."""
        told = self._told
        salt = self._salts.get(digest, digest)
        new = len(blocks)
        while new and (pair := blocks[new - 1] ^ salt) not in told:
            told.add(pair)
            new -= 1
        if new < len(blocks):
            self._add((digest, blocks[new:]))

    def take_back(self, blocks: Sequence[int], digest: int) -> None:
        """What was last said of this worker is not so from these blocks on, to the end of the prompt.

        Of what is not told yet they are left out; others that were told find out for themselves.
        """
        salt = self._salts.get(digest, digest)
        self._told.difference_update([block ^ salt for block in blocks])
        waiting = self._waiting
        for number in range(len(waiting) - 1, -1, -1):
            to, run = waiting[number]
            if to == digest and run and run[-1] == blocks[-1]:
                left = run[: max(0, len(run) - len(blocks))]
                self._waiting_blocks -= len(run) - len(left)
                if left:
                    waiting[number] = (digest, left)
                else:
                    del waiting[number]
                return

    def lost(self, digest: int) -> None:
        """We found that a worker holds nothing any more: to be told, too."""
        self.heard(digest, ())
        self._add((digest, ()))

    def heard(self, digest: int, blocks: Sequence[int]) -> None:
        """Another replica told this."""
        salt = self._salts.get(digest, digest)
        if blocks:
            self._told.update(block ^ salt for block in blocks)
        else:
            self._salts[digest] = (salt * STIR + 1) & MASK

    def total_told(self, total_bytes: int) -> None:
        """How much the fleet has told so far."""
        epoch = total_bytes // EPOCH_BYTES
        if epoch != self._epoch:
            self._epoch = epoch
            self.refresh()

    def refresh(self) -> None:
        """What is in use is to be told once more."""
        self._told = set()

    def take(self, most_blocks: int) -> list[Run]:
        """The oldest news, about as many blocks; they are told, unless they are put back."""
        runs: list[Run] = []
        taken = 0
        while self._waiting and taken < most_blocks:
            run = self._waiting.popleft()
            runs.append(run)
            taken += len(run[1])
        self._waiting_blocks -= taken
        return runs

    def put_back(self, runs: Iterable[Run]) -> None:
        """These could not be told."""
        for run in reversed([*runs]):
            self._waiting.appendleft(run)
            self._waiting_blocks += len(run[1])

    def _add(self, run: Run) -> None:
        self._waiting.append(run)
        self._waiting_blocks += len(run[1])
        while self._waiting_blocks > BACKLOG_BLOCKS:
            dropped = len(self._waiting.popleft()[1])
            self._waiting_blocks -= dropped
            self.dropped += dropped
