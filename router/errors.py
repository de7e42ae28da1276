"""Every way a request can end badly, with its consequences as data.

One class per cause. `status` and `code` are what the client sees (OpenAI error shape); `outcome`
is the `error.type` in the trace; `blames_worker` feeds health; `retry_safe` says that nothing was
sent to the worker or nothing came of it, so another worker may be tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import msgspec

from tracking.trace import ErrorType

# Others are "invalid_request_error" below 500, and "server_error".
ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
}


class RouterError(Exception):
    """Base of all errors that reach a client as an answer."""

    status: int = 500
    code: str = "internal_error"
    outcome: ErrorType | None = None
    blames_worker: ClassVar[bool] = False
    retry_safe: ClassVar[bool] = False

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_seconds: float | None = None


class BadRequest(RouterError):
    status, code, outcome = 400, "bad_request", "bad_request"


class ExpectationFailed(RouterError):
    status, code, outcome = 417, "expectation_failed", "bad_request"


class InternalError(RouterError):
    """A bug of ours. The trace says so in the only way its error types allow."""

    outcome = "router_lost"


class InvalidKey(RouterError):
    status, code = 401, "invalid_api_key"


class Forbidden(RouterError):
    status, code = 403, "forbidden"


class NotFound(RouterError):
    status, code = 404, "not_found"


class MethodNotAllowed(RouterError):
    status, code = 405, "method_not_allowed"


class TooLarge(RouterError):
    status, code, outcome = 413, "request_too_large", "too_large"


class TracingOff(RouterError):
    status, code = 501, "tracing_disabled"


class StoreDown(RouterError):
    status, code = 503, "trace_store_unavailable"


class NoWorker(RouterError):
    status, code, outcome = 503, "no_available_workers", "no_worker"


class ModelNotFound(RouterError):
    status, code, outcome = 404, "model_not_found", "bad_request"

    def __init__(self, message: str) -> None:
        super().__init__(message, param="model")


class UploadStalled(RouterError):
    """The client began to send a body, and then nothing came."""

    status, code, outcome = 408, "upload_timeout", "bad_request"


class QueueFull(RouterError):
    status, code, outcome = 429, "queue_full", "queue_full"


class QueueTimeout(RouterError):
    status, code, outcome = 408, "queue_timeout", "queue_timeout"


class RequestTimeout(RouterError):
    """--request-timeout-secs was over before a worker was chosen: in the upload, or in line."""

    status, code, outcome = 408, "request_timeout", "total_timeout"


class UpstreamError(RouterError):
    """The worker's side failed. 500 is what sglang-router 0.3.2 clients rely on."""

    status, code, blames_worker = 500, "worker_unreachable", True


class ConnectFailed(UpstreamError):
    """No connection: nothing was sent."""

    code, outcome, retry_safe = "worker_connect_failed", "connect", True


class StaleConnection(UpstreamError):
    """A pooled connection was closed by the worker before any byte of an answer."""

    code, outcome, retry_safe, blames_worker = "worker_closed", "worker_cut", True, False


class WorkerCut(UpstreamError):
    """The worker closed or broke the protocol before its answer was whole."""

    code, outcome, retry_safe = "worker_cut", "worker_cut", True


class FirstByteTimeout(UpstreamError):
    status, code, outcome = 504, "worker_timeout", "first_byte_timeout"


class IdleTimeout(UpstreamError):
    status, code, outcome = 504, "worker_stalled", "idle_timeout"


class TotalTimeout(UpstreamError):
    """The same with a worker at work."""

    status, code, outcome, blames_worker = 504, "request_timeout", "total_timeout", False


class NotSplit(RouterError):
    """No pair of workers can serve this path."""

    status, code, outcome = 501, "pd_unsupported", "bad_request"


class PrefillAborted(UpstreamError):
    """The prefill worker gave up politely."""

    code, outcome, retry_safe = "prefill_aborted", "worker_abort", True


class TransferFailed(UpstreamError):
    """The cache did not get from one worker to the other, as one of them says: either may be why."""

    code, outcome, retry_safe, blames_worker = "kv_transfer_failed", "worker_abort", True, False


class PairTimeout(UpstreamError):
    """Two workers waited for each other, and neither went on: who is to blame nobody can tell."""

    status, code, outcome, blames_worker = 504, "worker_timeout", "first_byte_timeout", False


class OtherLegFailed(RouterError):
    """Of a pair, this worker was stopped because the other one failed. Not its fault."""

    def __init__(self, cause: str, outcome: ErrorType | None) -> None:
        super().__init__(f"stopped: {cause}")
        self.outcome = outcome


class PrefillRefused(UpstreamError):
    """The prefill worker answered with an error, so there is nothing to decode.

    `answer` is what it said: reason, content type and body, the last empty where it was too much.
    Codes are those of sglang-router: `prefill_bad_request`, `prefill_internal_error`, ...
    """

    code, outcome = "prefill_error", "worker_status"
    CODES: ClassVar[dict[int, str]] = {
        400: "prefill_bad_request",
        404: "prefill_not_found",
        500: "prefill_internal_error",
        502: "prefill_bad_gateway",
        503: "prefill_unavailable",
    }

    def __init__(self, status: int, answer: tuple[bytes, bytes, bytes], said: str) -> None:
        super().__init__(f"Prefill server error ({status}): {said}")
        self.status = status
        self.answer = answer
        self.code = self.CODES.get(status, "prefill_error")


class ClientGone(RouterError):
    """The client left before its answer was whole. Nobody reads the status."""

    status, code, outcome = 499, "client_gone", "client_gone"


class RouterStopped(RouterError):
    """We were told to stop, and the request outlived the grace period."""

    status, code, outcome = 503, "router_stopped", "router_lost"


def kinds(kind: type[RouterError] = RouterError) -> Iterator[type[RouterError]]:
    """All that were declared so far, by whatever module."""
    yield kind
    for narrower in kind.__subclasses__():
        yield from kinds(narrower)


class ErrorObject(msgspec.Struct):
    """`code` is for programs, `param` the parameter or field that is wrong."""

    message: str
    type: str
    code: str
    param: str | None


class ErrorBody(msgspec.Struct):
    """An error in OpenAI's shape."""

    error: ErrorObject


def error_body(
    status: int, code: str, message: str, *, type: str | None = None, param: str | None = None
) -> bytes:
    """The OpenAI error object as JSON bytes."""
    others = "invalid_request_error" if status < 500 else "server_error"
    named = type or ERROR_TYPES.get(status, others)
    return msgspec.json.encode(ErrorBody(ErrorObject(message, named, code, param)))
