"""Ask any router of a fleet about its requests, from Python.

    from tracking.client import SyncTraceClient

    client = SyncTraceClient("http://localhost:30009", "http://localhost:30010")
    print(client.get("test-manual-123").node_id)
    slow = pandas.DataFrame(client.rows(since="1h", min_duration_seconds=5))

`SyncTraceClient` is for scripts and notebooks, `TraceClient` has the same methods for asyncio. Every
replica answers for all of them, so any of the URLs will do; one that fails is passed over.
"""

from tracking.client.aio import TraceClient
from tracking.client.asking import ClientError, NotFound, Refused, Unreachable
from tracking.client.blocking import SyncTraceClient
from tracking.client.events import Notice
from tracking.client.results import FullTrace, PartialAnswer, Stats, TracePage

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
