"""What an attempt holds at the worker that was chosen for it, until it gives it back."""

from __future__ import annotations

from router.api.relay import Exchange
from router.core.breaker import Permit, Verdict, verdict
from router.core.outcome import attempt_trouble
from router.core.rounding import rounded
from router.core.worker import Worker
from router.errors import ClientGone, ConnectFailed, OtherLegFailed, RouterError, RouterStopped
from router.metrics.record import WorkerSeries
from router.policies.base import Choice
from tracking.trace import Attempt, Decision, TraceError


class Leg:
    """A worker's permit, a place among its requests, and the prefill that waits there.

    `queue_size`: requests in flight there before. `attempt` is its place in the trace, and `began`
    the monotonic second it has there, from `RequestRecord.routed` on. `over`: nothing is held any more.
    """

    __slots__ = (
        "_permit",
        "_queued_tokens",
        "_told",
        "attempt",
        "began",
        "choice",
        "decision",
        "over",
        "queue_size",
        "series",
        "worker",
    )

    def __init__(
        self,
        choice: Choice,
        permit: Permit,
        series: WorkerSeries,
        decision: Decision,
        queue_size: int,
    ) -> None:
        self.choice = choice
        self.worker: Worker = choice.worker
        self.series = series
        self.decision = decision
        self.queue_size = queue_size
        self.attempt: Attempt | None = None
        self.began = 0.0
        self.over = False
        self._permit = permit
        self._queued_tokens = 0
        self._told = False

    def queue(self, input_tokens: int) -> None:
        """The worker is to do the prefill of so many tokens, as far as it has them not cached."""
        self._queued_tokens = input_tokens - (self.choice.predicted_cached_tokens or 0)
        self.worker.queue(self._queued_tokens)

    def prefilled(self) -> None:
        """The worker has gone through the input. Harmless when it had before."""
        if self._queued_tokens:
            self.worker.prefilled(self._queued_tokens)
            self._queued_tokens = 0

    def answered(self, http_status: int) -> None:
        """The head of an answer came."""
        self.worker.answered(self._permit, verdict(http_status))

    def drop(self, now: float) -> None:
        """It is not to be used after all."""
        self.over = True
        self.worker.end(self._permit, None, now)

    def end(self, exchange: Exchange | None, error: RouterError | None, now: float) -> None:
        """Give everything back, with what this end says of the worker. Harmless when that was done."""
        if self.over:
            return
        self.over = True
        self.prefilled()
        worker = self.worker
        status = None if exchange is None else exchange.http_status()
        said: Verdict | None = None
        if error is None:
            if status is not None:
                said = verdict(status)
        elif not isinstance(error, ClientGone | RouterStopped):
            said = verdict(status, error)
        worker.end(self._permit, said, now)
        blameless = False
        if error is not None:
            blameless = isinstance(error, OtherLegFailed)
            if isinstance(error, ConnectFailed):
                worker.health.connect_failed(error.message)
        self.tell(status, attempt_trouble(error, status), now, blameless)

    def tell(
        self,
        http_status: int | None,
        trouble: TraceError | None,
        now: float,
        blameless: bool = False,
    ) -> None:
        """Write down how it went: in the trace, and in the worker's metrics. Harmless when that was
        done."""
        if self._told:
            return
        self._told = True
        duration_seconds = rounded(now - self.began)
        attempt = self.attempt
        if attempt is not None:
            attempt.duration_seconds = duration_seconds
            attempt.http_status = http_status
            if trouble is not None:
                attempt.error = trouble
        kind = None if trouble is None or blameless else trouble.type
        self.series.attempt_ended(http_status, kind, duration_seconds)
