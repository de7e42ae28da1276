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
from itertools import accumulate
from math import inf, log2
from typing import Final

STEPS: Final = 64  # of age, two to the doubling; the last is of everything older
WEIGHTY_BLOCKS: Final = 4096  # when so many were reported, all lose half their weight
ENOUGH: Final = 32  # reports from which a worker has a limit of its own
EVERY: Final = 8  # reports after which a limit is worked out anew


def step_of(age: int) -> int:
    return min(STEPS - 1, int(2 * log2(age + 1)))


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

    def reported(self, node: str, ages: Sequence[int], missed: int) -> None:
        """Of blocks so old when the prompt was sent, the first `missed` were not there any more and
        the others were."""
        reports = self._reports.get(node)
        if reports is None:
            reports = self._reports[node] = Reports()
        reports.add(ages, missed)
        self._all.add(ages, missed)
        if self._all.count % EVERY == 0:
            self.fleet = self._all.limit()
            self._compare()
        if reports.count % EVERY == 0 and reports.count >= ENOUGH:
            self.limits[node] = reports.limit()
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
        self._found = [0.0] * STEPS
        self._missed = [0.0] * STEPS
        self._weight = 0.0

    def add(self, ages: Sequence[int], missed: int) -> None:
        self.count += 1
        for number, age in enumerate(ages):
            (self._missed if number < missed else self._found)[step_of(age)] += 1
        self._weight += len(ages)
        if self._weight > WEIGHTY_BLOCKS:
            self._weight /= 2
            self._found = [blocks / 2 for blocks in self._found]
            self._missed = [blocks / 2 for blocks in self._missed]

    def limit(self) -> float:
        """The age at which the fewest blocks contradict; of several equal ones the highest."""
        older = sum(self._found)
        wrong = [
            missed + older - found
            for missed, found in zip(
                accumulate(self._missed, initial=0.0),
                accumulate(self._found, initial=0.0),
                strict=True,
            )
        ]
        step = max(range(STEPS + 1), key=lambda step: (-wrong[step], step))
        return inf if step == STEPS else 2 ** (step / 2) - 1
