"""What a source of workers is, and what it says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from router.member import Details


class Found(msgspec.Struct, frozen=True):
    """One worker that exists. `origin` tells people where it was found; `generation` is another one
    for another worker at the same URL (a pod that got the address of one before it)."""

    url: str
    origin: str
    generation: str = ""
    details: Details = msgspec.field(default_factory=Details)


class Report(Protocol):
    """Where a source says what it sees."""

    def found(self, workers: Sequence[Found]) -> None:
        """These are there now, and no others."""

    def failed(self, reason: str) -> None:
        """It could not look: what was found last still counts."""


class Source(Protocol):
    """`name` is its label in metrics and its name in the log."""

    @property
    def name(self) -> str: ...

    async def run(self, report: Report) -> None:
        """Look, for ever. Says something as soon as it has looked once."""
