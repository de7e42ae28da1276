"""Circuit breaker of one worker: stop sending where requests fail, and find out when to resume.

    closed ──(failures in a row, all within the window)──► open
    open ──(timeout over, or the worker regained its health)──► half_open
    half_open ──(enough probes succeeded)──► closed          half_open ──(one failed)──► open

Failures in a row rather than a rate: a worker that still answers anything is alive, and `success`
includes every answer below 500, so only a worker that does nothing right trips. Half open admits
as many requests at a time as are needed to close again, not all traffic: a worker that comes back
must not be buried at once.

An outcome counts only in the state its request was started in. So a stream that was started
before the trip, and ends well ten minutes later, says nothing about the worker's recovery.

LLM answers are long. A probe therefore counts as a success when its response head is accepted
(`answered`), not at its end; breaking off later still counts as a failure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal

import msgspec

from router.errors import RouterError

BreakerState = Literal["closed", "open", "half_open"]
Verdict = Literal["success", "neutral", "failure"]
OnChange = Callable[[str, str, str], None]  # state before, state after, reason


def verdict(http_status: int | None, error: BaseException | None = None) -> Verdict:
    """What an attempt says of its worker.

    `error` outweighs the status: an answer of 200 that was cut is a failure. Errors that do not
    blame the worker are neutral, and so are 429 and 503: a busy worker is not a broken one, and
    ejecting it would only move its load to the next. 4xx are the client's doing.
    """
    if error is not None:
        blamed = isinstance(error, RouterError) and error.blames_worker
        return "failure" if blamed else "neutral"
    if http_status is None:
        raise ValueError("an attempt ends with a status or an error")
    if http_status in (429, 503):
        return "neutral"
    return "failure" if http_status >= 500 else "success"


class BreakerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`--cb-*`: thresholds are counts of requests, failures older than the window do not count."""

    failure_threshold: int = 10
    success_threshold: int = 3
    timeout_seconds: float = 60.0
    window_seconds: float = 120.0
    enabled: bool = True


class Permit:
    """Leave to send one request; given back by exactly one of `record` and `cancel`."""

    __slots__ = ("_done", "_epoch", "_probing")

    def __init__(self, epoch: int, probing: bool) -> None:
        self._epoch = epoch
        self._probing = probing
        self._done = False


class Breaker:
    """Told the time, tells whether a worker may be used. `on_change` hears each transition once."""

    __slots__ = (
        "_epoch",
        "_failures",
        "_last_probe_at",
        "_probing",
        "_retry_at",
        "_settings",
        "_successes",
        "on_change",
        "state",
    )

    def __init__(
        self, settings: BreakerSettings | None = None, *, on_change: OnChange | None = None
    ) -> None:
        self._settings = settings or BreakerSettings()
        self.on_change = on_change
        self.state: BreakerState = "closed"
        self._epoch = 0
        self._failures: deque[float] = deque()
        self._successes = 0
        self._probing = 0
        self._last_probe_at = 0.0
        self._retry_at = 0.0

    def allows(self, now: float) -> bool:
        """May a request be sent? Changes nothing; `acquire` is what takes a probe's place."""
        if self.state == "closed":
            return True
        if self.state == "open":
            return now >= self._retry_at
        # One more per timeout even when all places are taken: a probe that hangs, or whose permit
        # was lost, must not keep its worker out for good.
        return (
            self._probing < self._settings.success_threshold
            or now >= self._last_probe_at + self._settings.timeout_seconds
        )

    def acquire(self, now: float) -> Permit | None:
        """Leave to send a request, or None where `allows` is false."""
        if self.state == "closed":
            return Permit(self._epoch, False)
        if not self.allows(now):
            return None
        if self.state == "open":
            self._move("half_open", f"{self._settings.timeout_seconds:g} s are over")
        self._probing += 1
        self._last_probe_at = now
        return Permit(self._epoch, True)

    def answered(self, permit: Permit) -> None:
        """The head of a good answer arrived: a probe has succeeded, and its place is free."""
        if permit._probing and self._free(permit):
            self._succeeded()

    def record(self, permit: Permit, verdict: Verdict, now: float) -> None:
        """The request ended with `verdict`. A permit that was already given back is ignored."""
        if permit._done:
            return
        probing = permit._probing and self._free(permit)
        permit._done = True
        if permit._epoch != self._epoch:
            return
        if verdict == "success":
            if self.state == "closed":
                if self._failures:
                    self._failures.clear()
            elif probing:
                self._succeeded()
        elif verdict == "failure":
            self._failed(now)

    def cancel(self, permit: Permit) -> None:
        """Give the permit back without an outcome (the client left). Harmless after `record`."""
        self._free(permit)
        permit._done = True

    def try_again(self, reason: str) -> None:
        """Admit probes now instead of at the end of the timeout; no effect unless open."""
        if self.state == "open":
            self._move("half_open", reason)

    def _free(self, permit: Permit) -> bool:
        """Free the place of a probe of this state; True if it held one."""
        if not permit._probing or permit._epoch != self._epoch:
            return False
        permit._probing = False
        self._probing -= 1
        return True

    def _failed(self, now: float) -> None:
        settings = self._settings
        if not settings.enabled:
            return
        if self.state == "half_open":
            self._retry_at = now + settings.timeout_seconds
            self._move("open", "a probe failed")
            return
        failures = self._failures
        failures.append(now)
        while failures[0] < now - settings.window_seconds:
            failures.popleft()
        if len(failures) >= settings.failure_threshold:
            self._retry_at = now + settings.timeout_seconds
            self._move("open", f"{len(failures)} failures in a row")

    def _succeeded(self) -> None:
        self._successes += 1
        if self._successes >= self._settings.success_threshold:
            self._move("closed", f"{self._successes} probes succeeded")

    def _move(self, state: BreakerState, reason: str) -> None:
        before, self.state = self.state, state
        self._epoch += 1
        self._failures.clear()
        self._successes = 0
        self._probing = 0
        if self.on_change is not None:
            self.on_change(before, state, reason)

    def __repr__(self) -> str:
        settings = self._settings
        if not settings.enabled:
            return "<Breaker off>"
        if self.state == "closed":
            return f"<Breaker closed {len(self._failures)}/{settings.failure_threshold} failures>"
        if self.state == "open":
            return f"<Breaker open until {self._retry_at:.1f}>"
        return (
            f"<Breaker half_open {self._successes}/{settings.success_threshold} successes, "
            f"{self._probing} probing>"
        )
