"""How a request, or one attempt of it, ended: its status, and the error that the trace shows."""

from __future__ import annotations

from typing import Final

from router.core.answers import AnswerFacts
from router.errors import ClientGone, ConnectFailed, RouterError, StaleConnection, WorkerCut
from tracking.trace import Status, TraceError

# What can be wrong before a worker was chosen and is the request's or the fleet's state, not a
# failure on the way.
REJECTIONS: Final = frozenset(
    {"no_worker", "queue_full", "queue_timeout", "total_timeout", "bad_request", "too_large"}
)


def trace_error(error: RouterError) -> TraceError:
    return TraceError(message=error.message, type=error.outcome or "worker_cut")


def not_computed(error: RouterError | None, status: int | None) -> bool:
    """Is it known of an attempt that ended so that the worker did not get to its prefill?"""
    if status is not None:
        return status >= 400
    return isinstance(error, ConnectFailed | StaleConnection | WorkerCut)


def attempt_trouble(error: RouterError | None, status: int | None) -> TraceError | None:
    """What was wrong with an attempt that ended with `error`, or with the worker's `status`."""
    if error is not None:
        return trace_error(error)
    if status is not None and status >= 400:
        return TraceError(message=f"the worker answered {status}", type="worker_status")
    return None


def answer_trouble(answer: AnswerFacts, http_status: int) -> TraceError | None:
    """Why an answer that was delivered whole is no success all the same."""
    if http_status >= 400:
        said = answer.error or f"the worker answered {http_status}"
        return TraceError(message=said, type="worker_status")
    aborted = answer.abort_message(http_status)
    return None if aborted is None else TraceError(message=aborted, type="worker_abort")


def terminal_status(error: RouterError | None, trouble: TraceError | None, tried: bool) -> Status:
    """`trouble` is what the trace shows; `tried`: a worker had been chosen."""
    if error is not None and isinstance(error, ClientGone):
        return "cancelled"
    if trouble is None:
        return "completed"
    return "rejected" if not tried and trouble.type in REJECTIONS else "failed"
