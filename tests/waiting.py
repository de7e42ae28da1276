"""How a test waits for what must happen: for the event, never for a time in which it usually does."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable

PATIENCE_SECONDS = 60.0
"""Only what never happens takes so long, also where other work keeps the machine busy."""
POLL_SECONDS = 0.02


async def until(
    condition: Callable[[], object | Awaitable[object]], seconds: float = PATIENCE_SECONDS
) -> None:
    """Ask until the answer, awaited where it must be, is true. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while True:
            answer = condition()
            if inspect.isawaitable(answer):
                answer = await answer
            if answer:
                return
            await asyncio.sleep(POLL_SECONDS)
