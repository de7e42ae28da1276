"""Queries that wait until what was changed before them is committed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable


class _Waiter:
    """For the next `remaining` changes to be taken, and for all batches up to `last_batch`."""

    __slots__ = ("future", "last_batch", "remaining")

    def __init__(self, remaining: int, last_batch: int, future: asyncio.Future[bool]) -> None:
        self.remaining = remaining
        self.last_batch = last_batch
        self.future = future


class Waiters:
    """Changes are taken in order, in numbered batches; batches end in any order."""

    def __init__(self) -> None:
        self._waiters: list[_Waiter] = []

    def __bool__(self) -> bool:
        return bool(self._waiters)

    async def wait(self, changes: int, last_batch: int, timeout_seconds: float) -> bool:
        """Until the next `changes` are taken, and they and all up to `last_batch` are committed.

        False when a commit failed or it took too long.
        """
        waiter = _Waiter(changes, last_batch, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(timeout_seconds):
                return await waiter.future
        except TimeoutError:
            return False
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def taken(self, changes: int, batch: int) -> None:
        for waiter in self._waiters:
            if waiter.remaining > 0:
                waiter.remaining -= changes
                waiter.last_batch = batch

    def ended(self, still_running: Iterable[int]) -> None:
        """A batch was committed; those numbers are still under way."""
        if not self._waiters:
            return
        oldest = min(still_running, default=None)
        self._release(
            [
                waiter
                for waiter in self._waiters
                if waiter.remaining <= 0 and (oldest is None or waiter.last_batch < oldest)
            ],
            committed=True,
        )

    def failed(self) -> None:
        """The store takes nothing now: nobody waits for it."""
        self._release(self._waiters[:], committed=False)

    def _release(self, waiters: list[_Waiter], *, committed: bool) -> None:
        for waiter in waiters:
            self._waiters.remove(waiter)
            if not waiter.future.done():
                waiter.future.set_result(committed)
