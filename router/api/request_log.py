"""One line in the log for each request, at its end.

Requests that complete are logged at level debug: at thousands a second their lines would cost more
than the requests, and their traces say more. Others are logged as they deserve, up to a number of
lines a second; those above it are counted and said in one line, so that an outage does not fill the
log. When a level is off, a line costs one comparison.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from tracking.lifecycle import LiveTrace
from tracking.trace import Status

log = logging.getLogger("router.requests")

DEBUG: Final = logging.DEBUG
LINES_PER_SECOND: Final = 50
LEVELS: Final[dict[Status, int]] = {
    "completed": DEBUG,
    "cancelled": logging.INFO,
    "rejected": logging.INFO,
    "failed": logging.WARNING,
}


class RequestLog:
    """`now` returns monotonic seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        # Asked once, as the level of the log is set before the first request: most of them complete.
        self._debug = log.isEnabledFor(DEBUG)
        self._second = 0
        self._lines = 0
        self._left_out = 0

    def ended(self, trace: LiveTrace, attempts: int) -> None:
        """An inference request has ended; `trace` is terminal."""
        level = LEVELS[trace.status]
        if not self._wanted(level):
            return
        error = trace.error
        self._write(
            level,
            {
                "id": trace.request_id,
                "node": trace.node_id,
                "method": trace.method,
                "route": trace.route,
                "model": trace.model,
                "status": trace.status,
                "http_status": trace.http_status,
                "reason": None if error is None else error.type,
                "error": None if error is None else error.message,
                "attempts": attempts,
                "queue_seconds": trace.queue_seconds,
                "ttft_seconds": trace.ttft_seconds,
                "duration_seconds": trace.duration_seconds,
                "input_tokens": trace.input_tokens,
                "output_tokens": trace.output_tokens,
            },
        )

    def answered(
        self, request_id: str, method: str, route: str, status: int, code: str, seconds: float
    ) -> None:
        """The router has answered by itself: an endpoint of its own, or a refusal."""
        level = DEBUG
        if status >= 500 and code == "internal_error":
            level = logging.WARNING
        elif status in (401, 403):
            level = logging.INFO
        if not self._wanted(level):
            return
        self._write(
            level,
            {
                "id": request_id,
                "method": method,
                "route": route,
                "http_status": status,
                "reason": code or None,
                "duration_seconds": round(seconds, 6),
            },
        )

    def renamed(self, given: str, request_id: str) -> None:
        """A client's id could not be taken."""
        if self._wanted(logging.WARNING):
            log.warning("request id %r is not acceptable; it is now %s", given[:200], request_id)

    def _wanted(self, level: int) -> bool:
        if level == DEBUG:  # whoever asks for these wants them all
            return self._debug
        return log.isEnabledFor(level) and self._room()

    def _room(self) -> bool:
        second = int(self._now())
        if second != self._second:
            self._second, self._lines = second, 0
            if self._left_out:
                log.warning(
                    "%d further lines about requests were left out",
                    self._left_out,
                )
                self._left_out = 0
        self._lines += 1
        if self._lines > LINES_PER_SECOND:
            self._left_out += 1
            return False
        return True

    @staticmethod
    def _write(level: int, fields: dict[str, object]) -> None:
        known = {name: value for name, value in fields.items() if value is not None}
        log.log(level, "request", extra={"fields": known})
