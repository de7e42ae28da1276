"""What is written within one turn of the event loop, sent in one go at its end.

To send to a process that sleeps is to wake it, and on one machine, as with a sidecar or a worker next to
the router, that takes longer than all else about a write. A reader that is still busy with the write before
need not be woken. So the reads of a turn come first, and its writes go one after the other when all of them
have been looked at. What that gives is in docs/performance.md. Work that no read and no write is to wait for
comes behind both.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

# Turns are longest when there is most to do. No write waits for more than so many others.
MOST_HELD: Final = 64

log = logging.getLogger("router.outbox")


class Outbox:
    """Holds writes, and steps to take behind them, until `soon` calls back, which is asked to at the first of
    each turn.

    What else is done to a transport, like closing it or writing to it directly, overtakes what is held
    for it: `flush` first.
    """

    __slots__ = ("_asked", "_held", "_soon", "_steps")

    def __init__(self, soon: Callable[[Callable[[], None]], object]) -> None:
        self._soon = soon
        self._asked = False
        self._held: list[tuple[asyncio.Transport, bytes]] = []
        self._steps: list[Callable[[], None]] = []

    def write(self, transport: asyncio.Transport, data: bytes) -> None:
        """As `transport.write(data)`, by the end of the turn. Dropped if the transport closes before."""
        self._held.append((transport, data))
        if not self._asked:
            self._ask()
        elif len(self._held) >= MOST_HELD:
            self.flush()

    def afterwards(self, step: Callable[[], None]) -> None:
        """Call `step` at the end of the turn, when its writes are sent. What it writes goes with the rest of
        what such steps write."""
        self._steps.append(step)
        if not self._asked:
            self._ask()

    def flush(self) -> None:
        """Send what is held now."""
        held, self._held = self._held, []
        for transport, data in held:
            if not transport.is_closing():
                transport.write(data)

    def _ask(self) -> None:
        self._asked = True
        self._soon(self._turn_ended)

    def _turn_ended(self) -> None:
        self._asked = False
        self.flush()
        if self._steps:
            self._take_steps()

    def _take_steps(self) -> None:
        steps, self._steps = self._steps, []
        self._asked = True  # what they write is sent below
        for step in steps:
            try:
                step()
            except Exception:  # the others are not to be lost with it
                log.exception("%r crashed", step)
        self._asked = False
        self.flush()
        if self._steps:
            self._ask()


def end_of_turn(flush: Callable[[], None]) -> None:
    """For an `Outbox`: the loop calls what is asked of it within a turn when that turn's reads are done."""
    asyncio.get_running_loop().call_soon(flush)
