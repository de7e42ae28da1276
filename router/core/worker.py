"""A worker as the router sees it: who it is, and what this replica has in flight there."""

from __future__ import annotations

from typing import Final
from urllib.parse import SplitResult, urlsplit

DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class WorkerUrlError(ValueError):
    """A worker URL that cannot be used. The message says why."""


def normalise_worker_url(url: str) -> str:
    """`url` as it appears in traces: always with a port, otherwise as configured.

    Raises WorkerUrlError for another scheme than http or https, or without a host.
    """
    parts = _split(url)
    return url if parts.port is not None else f"{url.rstrip('/')}:{DEFAULT_PORTS[parts.scheme]}"


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise WorkerUrlError(f"worker URL {url!r}: {error}") from None
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        raise WorkerUrlError(f"worker URL {url!r}: expected http://HOST:PORT or https://HOST:PORT")
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username:
        raise WorkerUrlError(f"worker URL {url!r}: only scheme, host and port are allowed")
    if port == 0:
        raise WorkerUrlError(f"worker URL {url!r}: port 0")
    return parts


class Worker:
    """One worker. `in_flight` and `processed` count this replica's requests."""

    __slots__ = (
        "api_key",
        "healthy",
        "host",
        "in_flight",
        "model_id",
        "node_id",
        "port",
        "processed",
        "tls",
        "url",
    )

    def __init__(self, url: str, node_id: str, *, api_key: str | None = None) -> None:
        parts = _split(url)
        self.url = normalise_worker_url(url)
        self.node_id = node_id
        self.tls = parts.scheme == "https"
        self.host = parts.hostname or ""
        self.port = parts.port or DEFAULT_PORTS[parts.scheme]
        self.api_key = api_key
        self.model_id: str | None = None
        self.healthy = True
        self.in_flight = 0
        self.processed = 0

    def start(self) -> None:
        """A request is on its way to this worker."""
        self.in_flight += 1

    def release(self) -> None:
        """The request that `start` counted has ended, however it ended."""
        self.in_flight -= 1
        self.processed += 1

    def __repr__(self) -> str:
        health = "healthy" if self.healthy else "unhealthy"
        return f"<Worker {self.node_id} {self.url} {health} {self.in_flight} in flight>"
