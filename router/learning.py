"""What a policy learns of requests that ended at other replicas, and of those before its start.

A policy that learns is told of this replica's own requests as they end. Here it is told of the
others': once of the newest traces that are held, then of what the fleet's feed tells. When the
store is away it goes on with its own; what it missed meanwhile it never hears of.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from router.policies.base import Policy
from tracking.feed import FeedEvent
from tracking.query import TraceQuery
from tracking.trace import Trace
from tracking.tracker import Tracker
from tracking.view import StoreUnavailable

log = logging.getLogger("router.learning")

RECALLED: Final = 1000  # traces, at the start
RETRY_SECONDS: Final = 1.0
PATIENCE_SECONDS: Final = 60.0

_decode: Final = msgspec.json.Decoder(Trace).decode
# Rows are written by replicas of ours, with no space after a colon; a quote inside a value is escaped.
_COMPLETED: Final = b'"status":"completed"'


class Learning:
    """`run` tells the policies that learn of the whole fleet's completed requests but those of
    `router_id`."""

    def __init__(self, policies: Sequence[Policy], tracker: Tracker, router_id: str) -> None:
        self._policies = policies
        self._tracker = tracker
        self._own = b'"router_id":' + msgspec.json.encode(router_id)
        self._recalled: set[str] = set()

    async def run(self) -> None:
        """Until the feed is closed."""
        tail = self._tracker.tail
        while not tail.closed:
            try:
                async with await tail.listen(None, self._wanted) as listener:
                    await self._recall()
                    while (told := await listener.next(PATIENCE_SECONDS)) is not None:
                        for event in told:
                            if isinstance(event, FeedEvent):
                                self._learn(event.row)
            except StoreUnavailable:
                await asyncio.sleep(RETRY_SECONDS)

    async def _recall(self) -> None:
        if self._recalled:
            return
        page = await self._tracker.list(TraceQuery(status="completed", limit=RECALLED))
        for row in reversed(page.rows):
            if self._own not in row:
                self._recalled.add(self._learn(row))
        if self._recalled:
            log.info("The policy has learned of %d earlier requests", len(self._recalled))

    def _wanted(self, event: FeedEvent) -> bool:
        return _COMPLETED in event.row and self._own not in event.row

    def _learn(self, row: bytes) -> str:
        """Tell of one completed request, unless it was told already; its key."""
        trace = _decode(row)
        if trace.completion_time is not None and trace.key not in self._recalled:
            finished_at = datetime.fromisoformat(trace.completion_time).timestamp()
            for policy in self._policies:
                if policy.learns:
                    policy.finished(trace, finished_at)
        return trace.key
