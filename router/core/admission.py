"""Who may come in, who waits, who is turned away.

Two limits, either or both: requests inside at once (a true concurrency limit: a place is taken at
the door and given back at the end, and time alone frees none), and requests let in per second (a
token bucket). Who finds no room waits in a bounded line, first come first served, until a
deadline; whom the line does not hold is turned away at once.

Pure: it is told the time, and holds those who wait as opaque handles. Its caller wakes the handles
that it returns, and asks again at `next_event`. A handle that is returned by `admit` is inside
already: its place cannot be taken by anyone between the decision and the waking.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

import msgspec

ONE: Final = 1 - 1e-9  # a token: sums of fractions may miss 1 by a rounding error
WaiterT = TypeVar("WaiterT", bound=Hashable)


class AdmissionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`--max-concurrent-requests` and its kin. Limits below 1 and a rate of None mean no limit.

    The bucket holds as many tokens as requests may be inside at once, or those of one second.
    """

    max_concurrent: int = -1
    queue_size: int = 100
    queue_timeout_seconds: float = 60.0
    rate_per_second: float | None = None

    @property
    def limit(self) -> int | None:
        """How many may be inside at once; None is no limit."""
        return self.max_concurrent if self.max_concurrent > 0 else None


def least(one: int | None, other: int | None) -> int | None:
    """The stricter of two limits, of which None is none."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


class Admission(Generic[WaiterT]):
    """The door. Counters only grow: `admitted`, `turned_away`, `timed_out`, `abandoned`."""

    __slots__ = (
        "_burst",
        "_filled_at",
        "_limit",
        "_rate",
        "_settings",
        "_tokens",
        "_waiting",
        "abandoned",
        "active",
        "admitted",
        "timed_out",
        "turned_away",
    )

    def __init__(self, settings: AdmissionSettings, now: float) -> None:
        self._settings = settings
        self._limit = settings.limit
        self._rate = settings.rate_per_second
        self._burst = max(1.0, float(self._limit or settings.rate_per_second or 1))
        self._tokens = self._burst
        self._filled_at = now
        self._waiting: OrderedDict[WaiterT, float] = OrderedDict()
        self.active = 0
        self.admitted = 0
        self.turned_away = 0
        self.timed_out = 0
        self.abandoned = 0

    @property
    def off(self) -> bool:
        """No limit is set: nobody is ever kept waiting."""
        return self._limit is None and self._rate is None

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def enter(self, now: float) -> bool:
        """Come in at once if there is room and nobody waits for it."""
        if self._waiting or not self._room(now):
            return False
        self._take()
        return True

    def join(self, waiter: WaiterT, now: float) -> bool:
        """Wait in line; False when the line is full, and then nobody waits."""
        if len(self._waiting) >= self._settings.queue_size:
            self.turned_away += 1
            return False
        self._waiting[waiter] = now + self._settings.queue_timeout_seconds
        return True

    def leave(self) -> bool:
        """Someone inside has gone. Whether anyone waits: ask `admit` then."""
        self.active -= 1
        return bool(self._waiting)

    def abandon(self, waiter: WaiterT) -> bool:
        """Someone has gone who stood in line; False if not in line any more."""
        if self._waiting.pop(waiter, None) is None:
            return False
        self.abandoned += 1
        return True

    def admit(self, now: float) -> list[WaiterT]:
        """Let in those whose turn it is; they are inside when this returns."""
        admitted = []
        while self._waiting and self._room(now):
            waiter, _ = self._waiting.popitem(last=False)
            self._take()
            admitted.append(waiter)
        return admitted

    def expire(self, now: float) -> list[WaiterT]:
        """Send away those whose deadline has come."""
        expired = []
        while self._waiting:
            waiter, deadline = next(iter(self._waiting.items()))
            if deadline > now:
                break
            del self._waiting[waiter]
            expired.append(waiter)
        self.timed_out += len(expired)
        return expired

    def resize(self, limit: int | None) -> None:
        """Change how many may be inside (None: no limit). Nobody is put out. Ask `admit` next."""
        self._limit = limit

    def next_event(self, now: float) -> float | None:
        """When `expire` or `admit` will have something to say if nobody moves before; or None."""
        if not self._waiting:
            return None
        deadline = next(iter(self._waiting.values()))
        if self._rate is None or self._full():
            return deadline
        return min(deadline, now + self._until_token(now))

    def retry_after_seconds(self, now: float) -> float:
        """A fair answer to "when shall I come again?" for one who is sent away."""
        rate = self._rate
        if rate is None:
            return 1.0
        self._fill(now)
        owed = len(self._waiting) + 1 - self._tokens
        return min(max(1.0, owed / rate), max(1.0, self._settings.queue_timeout_seconds))

    def _full(self) -> bool:
        return self._limit is not None and self.active >= self._limit

    def _room(self, now: float) -> bool:
        if self._full():
            return False
        if self._rate is None:
            return True
        self._fill(now)
        return self._tokens >= ONE

    def _take(self) -> None:
        self.active += 1
        self.admitted += 1
        if self._rate is not None:
            self._tokens -= 1

    def _fill(self, now: float) -> None:
        rate = self._rate
        assert rate is not None
        if now > self._filled_at:
            self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * rate)
            self._filled_at = now

    def _until_token(self, now: float) -> float:
        rate = self._rate
        assert rate is not None
        self._fill(now)
        return max(0.0, (1 - self._tokens) / rate)

    def __repr__(self) -> str:
        limit = "no limit" if self._limit is None else f"of {self._limit}"
        queue = self._settings.queue_size
        return f"<Admission {self.active} inside {limit}, {self.waiting} of {queue} waiting>"
