"""The statuses of a request and the only code that changes them.

    queued ──► routed ──► processing ──► completed | failed | cancelled
      │          │ ▲└──────────────────► failed | cancelled
      │          └─┘ (retry on another worker)
      └──► rejected | failed | cancelled

`lost` is written by the store alone, for a request whose router died; it is provisional, so the
owner's own later record replaces it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from tracking.trace import Decision, Status, Trace, TraceDetail

NEXT: Final[dict[Status, frozenset[Status]]] = {
    "queued": frozenset({"routed", "rejected", "failed", "cancelled"}),
    "routed": frozenset({"routed", "processing", "failed", "cancelled"}),
    "processing": frozenset({"completed", "failed", "cancelled"}),
    "completed": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
    "rejected": frozenset(),
    "lost": frozenset(),
}
TERMINAL: Final[frozenset[Status]] = frozenset(s for s, after in NEXT.items() if not after)


class IllegalTransition(Exception):
    """A status was asked for that the table does not allow. Always a bug of ours."""


class LiveTrace:
    """A trace while its request runs, owned by the one replica that received the request.

    `arrived_us` is the arrival in microseconds since the epoch on the fleet's clock; it is the
    score of the record in every index. `key` is the router's own unique key of the trace. `revision`
    counts the changes, so that a store can refuse what is older than what it holds.

    The others are kept by whoever writes it: `receipt`, a decision with its JSON; `sent_revision`, the
    last that was encoded for the store (0: none); `wait`, the number of the wait in which it was put.
    """

    __slots__ = (
        "arrived_us", "detail", "key", "receipt", "revision", "sent_revision", "terminal", "trace",
        "wait",
    )  # fmt: skip

    def __init__(self, trace: Trace, arrived_us: int) -> None:
        self.trace = trace
        self.detail = TraceDetail()
        self.key = trace.key or trace.request_id
        self.arrived_us = arrived_us
        self.revision = 1
        self.terminal = trace.status in TERMINAL
        self.receipt: tuple[Decision, msgspec.Raw] | None = None
        self.sent_revision = 0
        self.wait = 0

    def move(self, status: Status) -> None:
        """Take the trace to `status`; raises IllegalTransition where the table says no."""
        trace = self.trace
        if status not in NEXT[trace.status]:
            raise IllegalTransition(f"{trace.status} -> {status} ({trace.request_id})")
        trace.status = status
        self.terminal = status in TERMINAL
        self.revision += 1

    def __repr__(self) -> str:
        return f"<LiveTrace {self.trace.request_id} {self.trace.status} r{self.revision}>"
