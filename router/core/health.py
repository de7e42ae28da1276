"""Health of one worker, from active checks and from what traffic shows.

    unknown ──(one good check)──► healthy
    healthy ──(checks or connects fail in a row)──► unhealthy
    unhealthy ──(checks succeed in a row)──► healthy

`unknown` is a worker never seen healthy: still loading, or just registered. It gets no traffic,
and one good check is enough, because there is no flapping to damp yet.

Checks and connects are counted apart. An engine that shuts down fails its check while it still
answers requests; were answers to wipe out failed checks, it would never be taken out. Answers do
wipe out failed connects: three lost connections in an hour are not three in a row. Only checks
bring a worker back, since an unhealthy one has no traffic to be judged by.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

HealthState = Literal["unknown", "healthy", "unhealthy"]
OnChange = Callable[[str, str, str], None]  # state before, state after, reason


class HealthSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`--health-failure-threshold`, `--health-success-threshold`, `--disable-health-check`."""

    failure_threshold: int = 3
    success_threshold: int = 2
    enabled: bool = True


class Health:
    """Counts what it is told. With checks disabled it is healthy, whatever it is told."""

    __slots__ = (
        "_connect_failures",
        "_probe_failures",
        "_settings",
        "_successes",
        "on_change",
        "reason",
        "state",
    )

    def __init__(
        self, settings: HealthSettings | None = None, *, on_change: OnChange | None = None
    ) -> None:
        self._settings = settings or HealthSettings()
        self.on_change = on_change
        self.state: HealthState = "unknown" if self._settings.enabled else "healthy"
        self.reason = "not checked yet" if self._settings.enabled else "health checks are disabled"
        self._probe_failures = 0
        self._connect_failures = 0
        self._successes = 0

    @property
    def enabled(self) -> bool:
        """Are there active checks?"""
        return self._settings.enabled

    @property
    def healthy(self) -> bool:
        return self.state == "healthy"

    def probe_succeeded(self, reason: str = "check succeeded") -> None:
        """An active check was answered well."""
        if not self._settings.enabled:
            return
        self._probe_failures = self._connect_failures = 0
        if self.state == "healthy":
            return
        self._successes += 1
        if self.state == "unknown" or self._successes >= self._settings.success_threshold:
            self._move("healthy", reason)

    def probe_failed(self, reason: str) -> None:
        """An active check failed or ran out of time."""
        self._probe_failures += 1
        self._failed(self._probe_failures, reason)

    def connect_failed(self, reason: str) -> None:
        """A request could not be connected."""
        self._connect_failures += 1
        self._failed(self._connect_failures, reason)

    def answered(self) -> None:
        """A request was answered, with whatever status."""
        self._connect_failures = 0

    def decree(self, healthy: bool, reason: str) -> None:
        """Someone knows better than the counts, which start again from here."""
        if healthy != self.healthy:
            self._move("healthy" if healthy else "unhealthy", reason)

    def _failed(self, in_a_row: int, reason: str) -> None:
        if not self._settings.enabled:
            return
        self._successes = 0
        if self.state == "healthy" and in_a_row >= self._settings.failure_threshold:
            self._move("unhealthy", reason)
        elif self.state != "healthy":
            self.reason = reason

    def _move(self, state: HealthState, reason: str) -> None:
        before, self.state = self.state, state
        self.reason = reason
        self._probe_failures = self._connect_failures = self._successes = 0
        if self.on_change is not None:
            self.on_change(before, state, reason)

    def __repr__(self) -> str:
        return f"<Health {self.state}: {self.reason}>"
