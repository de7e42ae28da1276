"""The only place that reads a clock.

Deciding code is told the time as an argument. Durations are monotonic seconds; wall time is
microseconds since the epoch on the fleet's clock (Redis TIME): monotonic + offset, so that a step
of this machine's wall clock can neither reorder traces nor make a duration negative.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import formatdate


class Clock:
    """`now()` in monotonic seconds, and fleet wall time derived from them."""

    def __init__(self) -> None:
        # No method of ours: it is asked a dozen times for each request.
        self.now: Callable[[], float] = time.monotonic
        self._offset_s = time.time() - time.monotonic()

    def unix_us(self, now: float | None = None) -> int:
        """Fleet time in microseconds since the epoch, of `now` (monotonic seconds)."""
        return int(((time.monotonic() if now is None else now) + self._offset_s) * 1e6)

    def synchronise(self, unix_us: int, sent: float, received: float) -> None:
        """The store's clock said `unix_us` at some time between two monotonic seconds.

        What that leaves open is left as it was: a slow answer says little, and moves nothing that it
        does not contradict.
        """
        latest, earliest = unix_us / 1e6 - sent, unix_us / 1e6 - received
        self._offset_s = min(max(self._offset_s, earliest), latest)


def http_date() -> bytes:
    """Now, as the header `Date` has it (RFC 9110, 5.6.7)."""
    return formatdate(usegmt=True).encode()
