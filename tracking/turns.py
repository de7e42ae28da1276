"""Long work on the event loop, done so that nobody waits long for it."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Final

SLICE_SECONDS: Final = 0.001


class Turns:
    """Gives all others a turn, where asked, once a slice of time has been taken.

    It reads a clock only to see how much work was done; nothing that is shown depends on it.
    """

    def __init__(self) -> None:
        self._began = 0.0

    async def pause(self) -> None:
        """To be called again and again, after work of at most half a slice."""
        if perf_counter() - self._began >= SLICE_SECONDS:
            await asyncio.sleep(0)
            self._began = perf_counter()
