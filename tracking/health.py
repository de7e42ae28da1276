"""Whether the store answers: one state, one log line per change."""

from __future__ import annotations

import logging
from typing import Literal

log = logging.getLogger("tracking.store")

Call = Literal["heartbeat", "write"]


class StoreHealth:
    """The breaker in front of the store.

    It is up once the store was reached and neither kind of call fails. They are told apart because a
    server may refuse the one and not the other: out of memory, or read-only.
    """

    def __init__(self) -> None:
        self._reached = False
        self._failing: set[Call] = set()

    @property
    def up(self) -> bool:
        return self._reached and not self._failing

    def succeeded(self, call: Call) -> None:
        self._reached = True
        if self._failing:
            self._failing.discard(call)
            if not self._failing:
                log.info("trace store: reachable again")

    def failed(self, call: Call, error: Exception) -> None:
        if not self._failing:
            # As text: whoever keeps log records would keep the error's frames, and connections.
            log.warning("trace store: unreachable (%s); traces are buffered here", str(error))
        self._failing.add(call)
