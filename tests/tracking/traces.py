"""Traces for tests, with the few facts a test cares about."""

from __future__ import annotations

import itertools
import time

from tracking.lifecycle import LiveTrace
from tracking.record import Record
from tracking.trace import Attempt, Status, rfc3339

_numbers = itertools.count()
SECOND = 1_000_000


def now_us() -> int:
    return time.time_ns() // 1000


def live(
    key: str | None = None,
    *,
    status: Status = "completed",
    age_seconds: float = 0.0,
    at_us: int | None = None,
    revision: int = 1,
    request_id: str | None = None,
    node: str = "worker-0",
    session: str | None = None,
    engine: str | None = None,
    route: str | None = "/generate",
    model: str | None = "m",
    policy: str = "cache_aware",
) -> LiveTrace:
    key = key or f"key-{next(_numbers):06}"
    arrived = (now_us() if at_us is None else at_us) - int(age_seconds * SECOND)
    one = LiveTrace(key, request_id or key, policy, arrived, status)
    one.revision = revision
    one.node_id = node
    one.worker_url = "http://localhost:30005"
    one.route = route
    one.model = model
    one.session_id = session
    one.engine_request_id = engine
    one.attempts = [Attempt(node, one.worker_url, rfc3339(arrived))]
    return one


def record(key: str | None = None, *, owner: str = "a/1", **facts) -> Record:
    return Record(live(key, **facts), owner)
