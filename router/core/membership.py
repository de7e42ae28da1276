"""Which workers exist, worked out from what all replicas were told.

* One that was added by API exists until it is deleted.
* One that a replica was started with, or has discovered, exists while at least one live replica
  lists it.
* A deletion takes it away whoever lists it, until it is added again, or a replica is started
  later with it: who starts a router means what its command line says. Discovered ones come back when
  they are discovered anew.

The answer does not depend on who asks, nor on the order in which lists are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, get_args

from router.core.worker import Role, WorkerUrlError, normalise_worker_url
from tracking.workers import FoundWorker, StaticList, WorkerEntry


class Listed(NamedTuple):
    """A worker as a configuration lists it."""

    url: str
    role: Role = "regular"
    bootstrap_port: int | None = None

    def text(self) -> str:
        """As replicas tell each other: the URL, for other roles behind `prefill=`, `decode=`, or
        `prefill:8998=`. Routers that know no roles take such a text for no URL, and leave it."""
        if self.role == "regular":
            return self.url
        port = "" if self.bootstrap_port is None else f":{self.bootstrap_port}"
        return f"{self.role}{port}={self.url}"


def read_listed(text: str) -> Listed:
    """The inverse of `Listed.text`; what it cannot read it takes for a URL."""
    kind, equals, url = text.partition("=")
    name, _, port = kind.partition(":")
    for role in get_args(Role):
        if equals and name == role and (not port or port.isdecimal()):
            return Listed(url, role, int(port) if port else None)
    return Listed(text)


def identity(url: str) -> str:
    """The one spelling of a worker's URL. Raises WorkerUrlError."""
    return normalise_worker_url(url).rstrip("/")


def members(entries: Mapping[str, WorkerEntry], statics: Iterable[StaticList]) -> dict[str, str]:
    """Identity -> the URL as it was given, or the text of a `Listed`, of every worker there is."""
    found: dict[str, str] = {}
    for static in statics:
        for text, since_us in entries_of(static):
            try:
                key = identity(read_listed(text).url)
            except WorkerUrlError:
                continue  # a newer version's kind of worker
            entry = entries.get(key)
            deleted = None if entry is None else entry.deleted_us
            if deleted is None or since_us > deleted:
                found[key] = min(text, found.get(key, text))
    for key, entry in entries.items():
        if entry.added_us is not None and entry.deleted_us is None:
            found.setdefault(key, key)
    return found


def entries_of(static: StaticList) -> Iterator[tuple[str, int]]:
    """The text of each worker that a replica lists, and since when (µs)."""
    for url in static.urls:
        yield url, static.started_us
    for worker in static.found:
        yield worker.url, worker.since_us


def discovered(statics: Iterable[StaticList]) -> dict[str, FoundWorker]:
    """Identity -> what was said of each worker that was discovered; the first list's word counts."""
    found: dict[str, FoundWorker] = {}
    for static in statics:
        for worker in static.found:
            try:
                found.setdefault(identity(worker.url), worker)
            except WorkerUrlError:
                continue
    return found
