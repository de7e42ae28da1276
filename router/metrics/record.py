"""What is counted while requests run. Nothing here formats, sums up or does I/O.

The dictionaries are read by `router.metrics.exposition` at a scrape. How a request ended is
counted once, under everything that describes its end (`Ending`); the metrics that show parts of it
are sums over these, made at the scrape.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar

import msgspec

from router.core.worker import Change, Role, Worker
from router.metrics.histogram import (
    AGE_BUCKETS,
    DURATION_BUCKETS,
    FLUSH_BUCKETS,
    GAP_BUCKETS,
    OVERHEAD_BUCKETS,
    Histogram,
    checked_buckets,
)
from router.metrics.labels import UNKNOWN, ModelLabels, method_label
from tracking.trace import Decision, DecisionQuality, ErrorType, Status, Trace
from tracking.view import StoreState

K = TypeVar("K")


AbortResult = Literal["sent", "failed", "dropped"]


class SharedState(msgspec.Struct, frozen=True, kw_only=True):
    """This router among the others. `untold`: blocks of prefixes dropped before they were told."""

    replicas: int
    load_age_seconds: float
    untold: int


class IndexState(msgspec.Struct, frozen=True):
    """The index of the workers' prefixes."""

    blocks: int
    bytes: int


class SourceState(msgspec.Struct, frozen=True):
    """A source that workers are discovered by. `succeeded_s`: seconds since the epoch, 0 for never."""

    name: str
    workers: int
    succeeded_s: float
    errors: int


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """State that others own, read at each scrape. None of these may do I/O.

    `store` answers None where tracing is off, `shared` where there is no common store, `index`
    where the policy knows no prefixes.
    """

    workers: Callable[[], Sequence[Worker]]
    open_requests: Callable[[], int]
    queued_requests: Callable[[], int]
    store: Callable[[], StoreState | None]
    shared: Callable[[], SharedState | None] = lambda: None
    index: Callable[[], IndexState | None] = lambda: None
    discovery: Callable[[], Sequence[SourceState]] = lambda: ()
    spans: Callable[[], Mapping[str, int] | None] = lambda: None


class Ending(NamedTuple):
    """One kind of ending; `route` and `model` are labels. `status` is the terminal status of the
    trace, None for requests that have none (the router's own endpoints)."""

    route: str
    model: str
    stream: bool
    status: Status | None
    http_status: int | None
    error_code: str
    error_type: ErrorType | None


EndingKey = tuple[str, str, bool, Status | None, int | None, str, ErrorType | None]


class WorkerSeries:
    """What is counted of one worker. Take it once, keep it, and drop it with the worker.

    `observe_gap(seconds, count)`: `count` (at least 1) events of a stream came `seconds` after the
    event before them.
    """

    __slots__ = (
        "_all_attempts",
        "_all_selections",
        "_role",
        "attempt_seconds",
        "attempts",
        "breaker_changes",
        "cache_known_tokens",
        "cached_tokens",
        "decisions",
        "durations",
        "gaps",
        "input_tokens",
        "observe_gap",
        "output_tokens",
        "predicted_tokens",
        "prediction_error_tokens",
        "ttft",
        "worker",
    )

    def __init__(self, worker: Worker, metrics: Metrics) -> None:
        self.worker = worker
        self.ttft = Histogram(metrics.duration_buckets)
        self.gaps = Histogram(GAP_BUCKETS)
        self.observe_gap = self.gaps.observe_evenly
        self.attempt_seconds = Histogram(metrics.duration_buckets)
        self.durations: defaultdict[tuple[str, Status], Histogram] = metrics.histograms()
        self.decisions: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.attempts: defaultdict[tuple[int | None, ErrorType | None], int] = defaultdict(int)
        self.breaker_changes: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.input_tokens = 0
        self.output_tokens = 0
        self.cached_tokens = 0
        self.cache_known_tokens = 0
        self.predicted_tokens = 0
        self.prediction_error_tokens = 0
        self._role = worker.role
        self._all_attempts = metrics.attempts
        self._all_selections = metrics.selections

    def chose(self, policy: str, reason: str) -> None:
        """A policy chose this worker. `reason` is one of the policy's constants."""
        self.decisions[policy, reason] += 1
        self._all_selections[self._role, self.worker.model_id or UNKNOWN, policy] += 1

    def attempt_ended(
        self, http_status: int | None, error_type: ErrorType | None, duration_seconds: float
    ) -> None:
        """An attempt at this worker is over; `http_status` is None when no answer came."""
        self.attempts[http_status, error_type] += 1
        self._all_attempts[self._role, http_status, error_type] += 1
        self.attempt_seconds.observe(duration_seconds)

    def changed(self, worker: Worker, change: Change) -> None:
        """Listens to the worker's changes of state."""
        if change.what == "breaker":
            self.breaker_changes[change.before, change.after] += 1

    def request_ended(self, route: str, trace: Trace, duration_seconds: float) -> None:
        """A request is over whose last worker this was."""
        self.durations[route, trace.status].observe(duration_seconds)
        if (ttft_seconds := trace.ttft_seconds) is not None:
            self.ttft.observe(ttft_seconds)
        if (input_tokens := trace.input_tokens) is not None:
            self.input_tokens += input_tokens
            if (cached := trace.cached_tokens) is not None:
                self.cached_tokens += cached
                self.cache_known_tokens += input_tokens
                if (predicted := trace.predicted_cached_tokens) is not None:
                    self.predicted_tokens += predicted
                    self.prediction_error_tokens += abs(predicted - cached)
        if (output_tokens := trace.output_tokens) is not None:
            self.output_tokens += output_tokens


class Metrics:
    """Everything this replica counts. Cheap enough for every request; never blocks, never raises.

    With `listed_models_only` no name has series of its own but those that were allowed. Raises
    ValueError for `duration_buckets` (seconds) that do not rise.
    """

    def __init__(
        self,
        sources: Sources,
        *,
        version: str,
        duration_buckets: Iterable[float] = DURATION_BUCKETS,
        hide_worker_urls: bool = False,
        listed_models_only: bool = False,
        pairs: bool = False,
    ) -> None:
        self.sources = sources
        self.version = version
        self.duration_buckets = checked_buckets(duration_buckets)
        self.received: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.ended: defaultdict[Ending, int] = defaultdict(int)
        self.heads: defaultdict[tuple[str, str], Histogram] = self.histograms()
        self.queue_waits: defaultdict[str, Histogram] = self.histograms()
        self.overheads: defaultdict[str, Histogram] = defaultdict(
            lambda: Histogram(OVERHEAD_BUCKETS)
        )
        # Durations of requests that no worker was chosen for.
        self.unrouted: defaultdict[tuple[str, Status], Histogram] = self.histograms()
        # Kept beside the workers' own, so that they do not fall when a worker is removed.
        self.selections: defaultdict[tuple[Role, str, str], int] = defaultdict(int)
        self.attempts: defaultdict[tuple[Role, int | None, ErrorType | None], int] = defaultdict(
            int
        )
        self.qualities: defaultdict[tuple[str, DecisionQuality], int] = defaultdict(int)
        self.load_ages = Histogram(AGE_BUCKETS)
        self.regrets: defaultdict[str, int] = defaultdict(int)
        self.aborts: defaultdict[AbortResult, int] = defaultdict(int)
        self.flushed = 0
        self.flush_seconds = Histogram(FLUSH_BUCKETS)
        self.share_seconds = Histogram(FLUSH_BUCKETS)
        self.share_failures = 0
        self._models = ModelLabels(0, UNKNOWN) if listed_models_only else ModelLabels()
        self._series: dict[Worker, WorkerSeries] = {}
        self._hide_worker_urls = hide_worker_urls
        self.backend_type = "pd" if pairs else "regular"  # sglang-router's words

    def histograms(self) -> defaultdict[K, Histogram]:
        return defaultdict(lambda: Histogram(self.duration_buckets))

    @property
    def series(self) -> Iterable[WorkerSeries]:
        return self._series.values()

    def worker(self, worker: Worker) -> WorkerSeries:
        """The series of a worker, made (and told of its changes) when first asked for."""
        series = self._series.get(worker)
        if series is None:
            series = self._series[worker] = WorkerSeries(worker, self)
            worker.listeners.append(series.changed)
        return series

    def forget(self, worker: Worker) -> None:
        """The worker was removed: its series are no longer shown."""
        series = self._series.pop(worker, None)
        if series is not None:
            worker.listeners.remove(series.changed)

    def worker_label(self, worker: Worker) -> str:
        """The `worker` label: the URL, with `@rank` of a rank, or the node's name where URLs are to be
        hidden."""
        return worker.node_id if self._hide_worker_urls else worker.target

    def engine_label(self, worker: Worker) -> str:
        """The same of the engine, whichever of its ranks `worker` is."""
        return worker.node_id.partition("@")[0] if self._hide_worker_urls else worker.url

    def allow_models(self, models: Iterable[str]) -> None:
        """These model names always get series of their own, whatever clients ask for."""
        self._models.allow(models)

    def request_received(self, route: str, method: str) -> None:
        """A request arrived. `route` is the name of a route, never a path as sent."""
        self.received[method_label(method), route] += 1

    def decided(self, decision: Decision) -> None:
        """A policy made a choice."""
        self.qualities[decision.policy, decision.quality] += 1
        self.load_ages.observe(decision.load_age_seconds)
        if decision.regret_tokens:
            self.regrets[decision.policy] += decision.regret_tokens

    def answered(
        self, route: str, method: str, http_status: int, error_code: str, seconds: float
    ) -> None:
        """The router has answered by itself, `seconds` after the request came."""
        self._ended((route, "", False, None, http_status, error_code, None))
        self.heads[method_label(method), route].observe(seconds)

    def request_ended(
        self,
        trace: Trace,
        series: WorkerSeries | None,
        *,
        route: str,
        error_code: str,
        head_seconds: float | None,
        overhead_seconds: float | None,
    ) -> None:
        """An inference request is over, however it ended. Call it once for each.

        `trace` is terminal, `series` that of the last worker chosen, and `route` the name of a
        route, never a path as sent. `head_seconds` is the time from arrival to the head of the
        answer, `overhead_seconds` the router's own time before anything was sent to a worker; None
        where that point was never reached.
        """
        status, error = trace.status, trace.error
        model = self._models.label(trace.served_model or trace.model)
        kind = None if error is None else error.type
        streamed = trace.stream is True
        self._ended((route, model, streamed, status, trace.http_status, error_code, kind))
        if head_seconds is not None:
            self.heads[method_label(trace.method or ""), route].observe(head_seconds)
        if trace.queue_seconds is not None:
            self.queue_waits[route].observe(trace.queue_seconds)
        if overhead_seconds is not None:
            self.overheads[route].observe(overhead_seconds)
        duration_seconds = trace.duration_seconds or 0.0
        if series is None:
            self.unrouted[route, status].observe(duration_seconds)
        else:
            series.request_ended(route, trace, duration_seconds)

    def _ended(self, kind: EndingKey) -> None:
        # A plain tuple finds an equal `Ending`, and costs a fifth of making one.
        if kind in self.ended:
            self.ended[kind] += 1  # type: ignore[index]
        else:
            self.ended[Ending(*kind)] = 1

    def abort_ended(self, result: AbortResult) -> None:
        """A worker was told to abort a request, could not be, or was not for want of room."""
        self.aborts[result] += 1

    def share_observed(self, seconds: float, answered: bool) -> None:
        """An exchange with the other routers took so long."""
        if answered:
            self.share_seconds.observe(seconds)
        else:
            self.share_failures += 1

    def flush_observed(self, seconds: float, records: int) -> None:
        """The trace writer committed `records` records in one call that took `seconds`."""
        self.flush_seconds.observe(seconds)
        self.flushed += records
