"""Time limits of all running exchanges, looked at together a few times a second.

One timer for all instead of several per request: arming and re-arming a timer on every read of
every stream would cost more than the relaying itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from router.api.relay import Exchange
from router.errors import RouterError

PERIOD_SECONDS = 0.1  # how late a limit may be noticed


class Watch:
    """Checks the limits of the exchanges it is told of."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._exchanges: set[Exchange] = set()
        self.add = self._exchanges.add  # without a call of ours in between
        self.discard = self._exchanges.discard

    def __len__(self) -> int:
        return len(self._exchanges)

    def check(self) -> None:
        now = self._now()
        for exchange in tuple(self._exchanges):
            exchange.check_limits(now)

    def end_all(self, error: RouterError) -> None:
        """End every exchange that still runs."""
        for exchange in tuple(self._exchanges):
            exchange.end(error)

    async def run(self) -> None:
        """Check for ever; ends by cancellation."""
        while True:
            await asyncio.sleep(PERIOD_SECONDS)
            self.check()
