"""How long each worker keeps a prefix that nobody uses: learned from what engines find in their caches.

A cache that drops what was used longest ago keeps a prefix until so much else was used. So of each
worker one number is sought: the age, in blocks used since, from which on what was there is gone. A
report tells of a prompt's blocks, as far as we knew of them there, that those of these ages were
found and those of those ages were missed. The limit is the age that contradicts the fewest: found
though older, or missed though younger. So a few odd reports move nothing, such as of prompts with
the same start that were computed side by side.

Old reports lose weight, so that a limit may change. A worker that misses nothing has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Final

STEPS: Final = 64  # of age, two to the doubling; the last is of everything older
WEIGHTY_BLOCKS: Final = 4096  # when so many were reported, all lose half their weight
ENOUGH: Final = 32  # reports from which a worker has a limit of its own
EVERY: Final = 8  # reports after which a limit is looked at again

Blocks = tuple[int, int, int]  # a step of age, how many had it and were found, and were missed


def step_of(age: int) -> int:
    return min(STEPS - 1, ((age + 1) * (age + 1)).bit_length() - 1)


class Evictions:
    """`of(node)` is the age from which on nothing is there any more. A worker of which little is
    known has the limit of the fleet."""

    def __init__(self) -> None:
        self.limits: dict[str, float] = {}
        self.fleet = inf
        self.least = inf
        self.most = inf
        self._all = Reports()
        self._reports: dict[str, Reports] = {}

    def reported(self, node: str, ages: Sequence[tuple[int, int]], missed: int) -> None:
        """`ages` are those of blocks when the prompt was sent, and how many were so old. The first
        `missed` of these blocks were not there any more and the others were."""
        blocks = []
        for age, count in ages:
            gone = min(count, missed)
            missed -= gone
            blocks.append((step_of(age), count - gone, gone))
        own: Reports | None = self._reports.get(node)
        if own is None:
            own = self._reports[node] = Reports()
        own.add(blocks)
        fleet = self._all
        fleet.add(blocks)
        if fleet.count % EVERY == 0:
            limit = fleet.limit()
            if limit != self.fleet:
                self.fleet = limit
                self._compare()
        if own.count % EVERY == 0 and own.count >= ENOUGH:
            limit = own.limit()
            if limit != self.limits.get(node):
                self.limits[node] = limit
                self._compare()

    def forget(self, node: str) -> None:
        """It was removed, or is another worker now."""
        self._reports.pop(node, None)
        if self.limits.pop(node, None) is not None:
            self._compare()

    def _compare(self) -> None:
        known = [self.fleet, *self.limits.values()]
        self.least, self.most = min(known), max(known)


class Reports:
    """Blocks found and missed at one worker, by the step of their age."""

    def __init__(self) -> None:
        self.count = 0
        self._weight = 0.0
        self._balance = [0.0] * STEPS  # missed less found
        self._limit = STEPS  # the step from which on nothing is there
        self._contradicted = False

    def add(self, blocks: Sequence[Blocks]) -> None:
        """What one prompt told."""
        self.count += 1
        balance, limit = self._balance, self._limit
        for step, found, missed in blocks:
            balance[step] += missed - found
            self._weight += missed + found
            if (found and step >= limit) or (missed and step < limit):
                self._contradicted = True
        if self._weight > WEIGHTY_BLOCKS:
            self._weight /= 2
            self._balance = [more / 2 for more in balance]

    def limit(self) -> float:
        """The age at which the fewest blocks contradict; of several equal ones the highest.

        What agrees with it makes the others worse, so that it is sought only after a contradiction.
        """
        if self._contradicted:
            self._contradicted = False
            self._limit = self._least_contradicted()
        return inf if self._limit == STEPS else 2 ** (self._limit / 2) - 1

    def _least_contradicted(self) -> int:
        found, wrong, fewest = 0, 0.0, 0.0  # how many more contradict than do the limit 0
        for step, more in enumerate(self._balance, 1):
            wrong += more
            if wrong <= fewest:
                found, fewest = step, wrong
        return found
