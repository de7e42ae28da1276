"""An `Outbox` for tests that have no event loop, or look at every write."""

from __future__ import annotations

from router.outbox import Outbox


def at_once() -> Outbox:
    """Holds nothing back."""
    return Outbox(lambda flush: flush())
