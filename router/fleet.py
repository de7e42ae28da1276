"""The workers this replica knows, and which of them a request may go to."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from router.core.worker import Worker


class Fleet:
    """The registered workers, in the order they were registered."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = list(workers)
        self.draining = False

    @property
    def workers(self) -> Sequence[Worker]:
        return self._workers

    def candidates(self, now: float, tried: Collection[Worker]) -> list[Worker]:
        """Workers that may take a request now; tried ones only when no other is left."""
        available = [worker for worker in self._workers if worker.available(now)]
        if not tried:
            return available
        fresh = [worker for worker in available if worker not in tried]
        return fresh or available

    def by_url(self, url: str) -> Worker | None:
        return next((worker for worker in self._workers if worker.url == url), None)

    def __repr__(self) -> str:
        healthy = sum(worker.healthy for worker in self._workers)
        running = sum(worker.in_flight for worker in self._workers)
        return f"<Fleet {len(self._workers)} workers: {healthy} healthy | {running} in flight>"
