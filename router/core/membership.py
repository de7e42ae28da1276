"""Which workers exist, worked out from what all replicas were told.

* One that was added by API exists until it is deleted.
* One that a replica was started with exists while at least one live replica was.
* A deletion takes it away whoever lists it, until it is added again, or a replica is started
  later with it: who starts a router means what its command line says.

The answer does not depend on who asks, nor on the order in which lists are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from router.core.worker import WorkerUrlError, normalise_worker_url
from tracking.workers import StaticList, WorkerEntry


def identity(url: str) -> str:
    """The one spelling of a worker's URL. Raises WorkerUrlError."""
    return normalise_worker_url(url).rstrip("/")


def members(entries: Mapping[str, WorkerEntry], statics: Iterable[StaticList]) -> dict[str, str]:
    """Identity -> URL as it was given, of every worker that exists."""
    found: dict[str, str] = {}
    for static in statics:
        for url in static.urls:
            try:
                key = identity(url)
            except WorkerUrlError:
                continue  # a newer version's kind of worker
            entry = entries.get(key)
            deleted = None if entry is None else entry.deleted_us
            if deleted is None or static.started_us > deleted:
                found[key] = min(url, found.get(key, url))
    for key, entry in entries.items():
        if entry.added_us is not None and entry.deleted_us is None:
            found.setdefault(key, key)
    return found
