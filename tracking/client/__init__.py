"""Ask any router of a fleet about its requests, from Python.

    from tracking.client import SyncTraceClient

    client = SyncTraceClient("http://localhost:30009", "http://localhost:30010")
    print(client.get("test-manual-123").node_id)
    slow = pandas.DataFrame(client.rows(since="1h", min_duration_seconds=5))

`SyncTraceClient` is for scripts and notebooks, `TraceClient` has the same methods for asyncio. Every
replica answers for all of them, so any of the URLs will do; one that fails is passed over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracking.client.asking import ClientError, NotFound, Refused, Unreachable
from tracking.client.blocking import SyncTraceClient
from tracking.client.events import Notice
from tracking.client.results import FullTrace, PartialAnswer, Stats, TracePage

if TYPE_CHECKING:
    from tracking.client.aio import TraceClient

__all__ = [
    "ClientError",
    "FullTrace",
    "NotFound",
    "Notice",
    "PartialAnswer",
    "Refused",
    "Stats",
    "SyncTraceClient",
    "TraceClient",
    "TracePage",
    "Unreachable",
]


def __getattr__(name: str) -> object:
    """TraceClient when it is asked for: aiohttp takes longer to import than a command to run."""
    if name != "TraceClient":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tracking.client.aio import TraceClient

    return TraceClient
