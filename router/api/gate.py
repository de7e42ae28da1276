"""Admission for coroutines: `core.admission` decides, futures wait, one timer rings.

    ticket = await gate.enter()
    try: ...
    finally: gate.leave(ticket)

No context manager and no wrapping task: a request that need not wait pays for one call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from router.clock import Clock
from router.core.admission import Admission, AdmissionSettings, least
from router.errors import QueueFull, QueueTimeout

MIN_DELAY_SECONDS: Final = 0.001  # timers have a millisecond's resolution; do not spin below it


class Ticket:
    """A place inside. It is given back once; giving it back again does nothing."""

    __slots__ = ("_inside",)

    def __init__(self, inside: bool) -> None:
        self._inside = inside


class Gate:
    """Lets requests in. With no limit set it keeps no count and costs next to nothing."""

    def __init__(
        self,
        settings: AdmissionSettings,
        clock: Clock,
        room: Callable[[], int | None] | None = None,
    ) -> None:
        """`room()` says how many requests may be inside now for the workers' sake (None: any)."""
        self._settings = settings
        self._clock = clock
        self._room = room
        self._core: Admission[asyncio.Future[None]] = Admission(settings, clock.now())
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = 0.0
        self._open_ticket = Ticket(False) if self._core.off and room is None else None

    def try_enter(self, now: float) -> Ticket | None:
        """A ticket if there is room at once. `now` in monotonic seconds."""
        if self._open_ticket is not None:
            return self._open_ticket
        self._measure()
        return Ticket(True) if self._core.enter(now) else None

    async def enter(self) -> Ticket:
        """A ticket, after waiting in line if need be.

        Raises QueueFull (429) where the line is full and QueueTimeout (408) at the deadline. A
        caller that is cancelled while it waits, or just as its turn comes, leaves no trace.
        """
        if self._open_ticket is not None:
            return self._open_ticket
        now = self._clock.now()
        ticket = self.try_enter(now)
        if ticket is not None:
            return ticket
        turn = asyncio.get_running_loop().create_future()
        if not self._core.join(turn, now):
            raise self._turned_away(now)
        self._set_timer(now)
        try:
            await turn
        except asyncio.CancelledError:
            self._walked_away(turn)
            raise
        return Ticket(True)

    def leave(self, ticket: Ticket) -> None:
        """Give the place back; whoever is next comes in. Never waits, may stand in a `finally`."""
        if ticket._inside:
            ticket._inside = False
            if self._core.leave():
                self._move_up()

    def look(self) -> None:
        """See who may come in by now. To be called now and then: workers change by themselves."""
        if self._core.waiting:
            self._move_up()

    def _measure(self) -> None:
        if self._room is not None:
            self._core.resize(least(self._settings.limit, self._room()))

    @property
    def counts(self) -> Admission[asyncio.Future[None]]:
        """To read: `active`, `waiting`, and the counters for metrics."""
        return self._core

    def _walked_away(self, turn: asyncio.Future[None]) -> None:
        if self._core.abandon(turn):
            if not self._core.waiting:
                self._set_timer(self._clock.now())  # it has nobody left to ring for
            return
        # Not in line any more: the turn came, or the deadline, in the same pass of the loop.
        if not turn.cancelled() and turn.exception() is None:
            self.leave(Ticket(True))

    def _move_up(self) -> None:
        now = self._clock.now()
        for turn in self._core.expire(now):
            if not turn.done():
                turn.set_exception(self._timed_out(now))
        self._measure()
        while admitted := self._core.admit(now):
            for turn in admitted:
                if turn.done():  # cancelled, but not yet told so: its place is free again
                    self._core.leave()
                else:
                    turn.set_result(None)
        self._set_timer(now)

    def _set_timer(self, now: float) -> None:
        at = self._core.next_event(now)
        if self._timer is not None:
            if at is not None and at >= self._rings_at:
                return  # it rings earlier and will set itself again
            self._timer.cancel()
            self._timer = None
        if at is not None:
            self._rings_at = at
            delay = max(MIN_DELAY_SECONDS, at - now)
            self._timer = asyncio.get_running_loop().call_later(delay, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._move_up()

    def _turned_away(self, now: float) -> QueueFull:
        error = QueueFull(
            f"too many requests: {self._core.active} running and {self._core.waiting} waiting"
        )
        error.retry_after_seconds = self._core.retry_after_seconds(now)
        return error

    def _timed_out(self, now: float) -> QueueTimeout:
        error = QueueTimeout(
            f"no place became free within {self._settings.queue_timeout_seconds:g} s"
        )
        error.retry_after_seconds = self._core.retry_after_seconds(now)
        return error

    def __repr__(self) -> str:
        return f"<Gate {'open' if self._open_ticket is not None else repr(self._core)}>"
