"""The stats object.

Counts of the records held come from the indexes, counts and distributions of a window from the sums
of finished requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tracking.store import StoreStats
from tracking.sums import Sums
from tracking.tallies import Window
from tracking.trace import rfc3339
from tracking.view import StoreState

OPEN_STATUSES: Final = ("queued", "routed", "processing")


def stats_object(
    stats: StoreStats, store: StoreState, replicas: Sequence[str], window: Window | None = None
) -> dict[str, object]:
    """The stats of the contract; `window` only where it was asked for. `replicas` that live."""
    shown: dict[str, object] = {
        "total_requests": stats.total,
        "active_traces": stats.active,
        "requests_per_node": stats.per_node,
        "requests_per_status": stats.per_status,
        "requests_per_route": stats.per_route,
        "requests_per_policy": stats.per_policy,
        "requests_per_model": stats.per_model,
        "in_flight": sum(stats.per_status.get(status, 0) for status in OPEN_STATUSES),
        "oldest_trace": None if stats.oldest_us is None else rfc3339(stats.oldest_us),
        "newest_trace": None if stats.newest_us is None else rfc3339(stats.newest_us),
        "total_traces": stats.active,
        "node_distribution": stats.per_node,
        "status_distribution": stats.per_status,
        "route_distribution": stats.per_route,
        "config": {
            "enabled": True,
            "max_entries": stats.retention.max_entries,
            "ttl_seconds": stats.retention.ttl_seconds,
        },
        "store": store,
        "replicas": replicas,
    }
    if window is not None:
        shown["window"] = _window_object(window)
    return shown


def _window_object(window: Window) -> dict[str, object]:
    seconds = (window.until_us - window.since_us) / 1e6

    def named(sums: dict[str, Sums]) -> dict[str, object]:
        most_first = sorted(sums.items(), key=lambda item: (-item[1].requests, item[0]))
        return {name: one.summary(seconds) for name, one in most_first}

    shown: dict[str, object] = {
        "since": rfc3339(window.since_us),
        "until": rfc3339(window.until_us),
        "total": window.total.summary(seconds),
        "by": {kind: named(sums) for kind, sums in window.by.items()},
    }
    if window.steps is not None:
        shown["series"] = [
            {
                "since": rfc3339(since_us),
                "total": step.total.brief(),
                "by": {
                    kind: {name: one.brief() for name, one in sums.items()}
                    for kind, sums in step.by.items()
                },
            }
            for since_us, step in window.steps.items()
        ]
    return shown
