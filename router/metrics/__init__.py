"""What Prometheus is told. Counting is plain integers; everything else happens at a scrape."""

from router.metrics.exposition import Exposition
from router.metrics.record import (
    IndexState,
    Metrics,
    SharedState,
    Sources,
    SourceState,
    WorkerSeries,
)
from router.metrics.siblings import Siblings

__all__ = [
    "Exposition",
    "IndexState",
    "Metrics",
    "SharedState",
    "Siblings",
    "SourceState",
    "Sources",
    "WorkerSeries",
]
