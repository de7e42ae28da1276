"""What is counted while requests run. Nothing here formats, sums up or does I/O.

Everything is counted once, under all that describes it, and read by `router.metrics.exposition` at a
scrape: the metrics that show parts of it are sums, made there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from tracking.lifecycle import LiveTrace
from tracking.trace import Decision, DecisionQuality, ErrorType, Status
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


class Count:
    """A number that is counted up in its place."""

    __slots__ = ("n",)

    def __init__(self) -> None:
        self.n = 0


class Ending(NamedTuple):
    """One kind of ending; `model` is a label. `status` is the terminal status of the trace, None for
    requests that have none (the router's own endpoints). `admitted`: there was a place for it."""

    model: str
    stream: bool
    status: Status | None
    http_status: int | None
    error_code: str
    error_type: ErrorType | None
    admitted: bool


# Plain tuples find equal ones of these, and cost a fifth of making one.
EndingKey = tuple[str, bool, Status | None, int | None, str, ErrorType | None, bool]
ChoiceKey = tuple[str, str, DecisionQuality, str]  # policy, reason, quality, model of the worker
AttemptKey = tuple[int | None, ErrorType | None]


class RouteSeries:
    """What is counted of the requests with one method to one route, both labels. Durations in seconds."""

    __slots__ = ("_endings", "heads", "method", "overheads", "queue_waits", "received", "route")

    def __init__(self, route: str, method: str, duration_buckets: tuple[float, ...]) -> None:
        self.route = route
        self.method = method
        self.received = 0
        self.heads = Histogram(duration_buckets)
        self.queue_waits = Histogram(duration_buckets)
        self.overheads = Histogram(OVERHEAD_BUCKETS)
        self._endings: defaultdict[EndingKey, Count] = defaultdict(Count)

    def ended(self, kind: EndingKey) -> None:
        """A request is over."""
        count: Count = self._endings[kind]
        count.n += 1

    def answered(self, http_status: int, error_code: str, seconds: float) -> None:
        """The router has answered by itself, `seconds` after the request came."""
        self.ended(("", False, None, http_status, error_code, None, False))
        self.heads.observe(seconds)

    def endings(self) -> Iterator[tuple[Ending, int]]:
        return ((Ending(*kind), count.n) for kind, count in self._endings.items())


class Lasting:
    """What is counted of a worker and does not fall when it is removed: it is then its role's."""

    __slots__ = ("attempts", "choices", "role")

    def __init__(self, role: Role) -> None:
        self.role: Role = role
        self.choices: defaultdict[ChoiceKey, Count] = defaultdict(Count)
        self.attempts: defaultdict[AttemptKey, Count] = defaultdict(Count)

    def add(self, other: Lasting) -> None:
        for choice, count in other.choices.items():
            self.choices[choice].n += count.n
        for attempt, count in other.attempts.items():
            self.attempts[attempt].n += count.n


class WorkerSeries:
    """What is counted of one worker. Take it once, keep it, and drop it with the worker.

    `gaps` are the times between the events of streams.
    """

    __slots__ = (
        "_load_ages",
        "_regrets",
        "attempt_seconds",
        "breaker_changes",
        "cache_known_tokens",
        "cached_tokens",
        "durations",
        "gaps",
        "input_tokens",
        "lasting",
        "output_tokens",
        "predicted_tokens",
        "prediction_error_tokens",
        "ttft",
        "worker",
    )

    def __init__(self, worker: Worker, metrics: Metrics) -> None:
        self.worker = worker
        self.lasting = Lasting(worker.role)
        self.ttft = Histogram(metrics.duration_buckets)
        self.gaps = Histogram(GAP_BUCKETS)
        self.attempt_seconds = Histogram(metrics.duration_buckets)
        self.durations: defaultdict[tuple[str, Status], Histogram] = metrics.histograms()
        self.breaker_changes: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.input_tokens = 0
        self.output_tokens = 0
        self.cached_tokens = 0
        self.cache_known_tokens = 0
        self.predicted_tokens = 0
        self.prediction_error_tokens = 0
        self._load_ages: Histogram = metrics.load_ages
        self._regrets = metrics.regrets

    def chose(self, decision: Decision) -> None:
        """A policy chose this worker."""
        policy, model = decision.policy, self.worker.model_id or UNKNOWN
        kind = (policy, decision.reason, decision.quality, model)
        count: Count = self.lasting.choices[kind]
        count.n += 1
        self._load_ages.observe(decision.load_age_seconds)
        if regret_tokens := decision.regret_tokens:
            self._regrets[policy] += regret_tokens

    def attempt_ended(
        self, http_status: int | None, error_type: ErrorType | None, duration_seconds: float
    ) -> None:
        """An attempt at this worker is over; `http_status` is None when no answer came."""
        count: Count = self.lasting.attempts[http_status, error_type]
        count.n += 1
        self.attempt_seconds.observe(duration_seconds)

    def changed(self, worker: Worker, change: Change) -> None:
        """Listens to the worker's changes of state."""
        if change.what == "breaker":
            self.breaker_changes[change.before, change.after] += 1

    def request_ended(self, route: str, trace: LiveTrace, duration_seconds: float) -> None:
        """A request is over whose last worker this was."""
        durations: Histogram = self.durations[route, trace.status]
        durations.observe(duration_seconds)
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
        # Durations of requests that no worker was chosen for.
        self.unrouted: defaultdict[tuple[str, Status], Histogram] = self.histograms()
        self.load_ages = Histogram(AGE_BUCKETS)
        self.regrets: defaultdict[str, int] = defaultdict(int)
        self.aborts: defaultdict[AbortResult, int] = defaultdict(int)
        self.flushed = 0
        self.flush_seconds = Histogram(FLUSH_BUCKETS)
        self.share_seconds = Histogram(FLUSH_BUCKETS)
        self.share_failures = 0
        self._models = ModelLabels(0, UNKNOWN) if listed_models_only else ModelLabels()
        self._routes: dict[tuple[str, str], RouteSeries] = {}
        self._series: dict[Worker, WorkerSeries] = {}
        self._removed: dict[Role, Lasting] = {}
        self._hide_worker_urls = hide_worker_urls
        self.backend_type = "pd" if pairs else "regular"  # sglang-router's words

    def histograms(self) -> defaultdict[K, Histogram]:
        return defaultdict(lambda: Histogram(self.duration_buckets))

    @property
    def series(self) -> Iterable[WorkerSeries]:
        return self._series.values()

    @property
    def routes(self) -> Iterable[RouteSeries]:
        return self._routes.values()

    @property
    def lasting(self) -> Iterator[Lasting]:
        """Of all workers, those that are gone, too."""
        yield from self._removed.values()
        for series in self._series.values():
            yield series.lasting

    def worker(self, worker: Worker) -> WorkerSeries:
        """The series of a worker, made (and told of its changes) when first asked for."""
        series = self._series.get(worker)
        if series is None:
            series = self._series[worker] = WorkerSeries(worker, self)
            worker.listeners.append(series.changed)
        return series

    def forget(self, worker: Worker) -> None:
        """The worker was removed: its series are no longer shown. What ends there yet is counted."""
        series = self._series.pop(worker, None)
        if series is not None:
            worker.listeners.remove(series.changed)
            role = series.lasting.role
            lasting = self._removed.setdefault(role, Lasting(role))
            lasting.add(series.lasting)
            series.lasting = lasting

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

    def request_received(self, route: str, method: str) -> RouteSeries:
        """A request arrived; where it is counted. `route` is the name of a route, never a path as sent."""
        key = (route, method_label(method))
        series: RouteSeries | None = self._routes.get(key)
        if series is None:
            series = self._routes[key] = RouteSeries(*key, self.duration_buckets)
        series.received += 1
        return series

    def request_ended(
        self,
        trace: LiveTrace,
        at: RouteSeries,
        series: WorkerSeries | None,
        error_code: str,
        head_seconds: float | None,
        overhead_seconds: float | None,
        admitted: bool,
    ) -> None:
        """An inference request is over, however it ended. Call it once for each.

        `trace` is terminal, `at` is where it was received, and `series` that of the last worker
        chosen. `head_seconds` is the time from arrival to the head of the answer, `overhead_seconds`
        the router's own time before anything was sent to a worker; None where that point was never
        reached. `admitted`: it was given a place.
        """
        status, error = trace.status, trace.error
        model = self._models.label(trace.served_model or trace.model)
        kind = None if error is None else error.type
        at.ended(
            (model, trace.stream is True, status, trace.http_status, error_code, kind, admitted)
        )
        if head_seconds is not None:
            at.heads.observe(head_seconds)
        queue_seconds = trace.queue_seconds
        if queue_seconds is not None:
            at.queue_waits.observe(queue_seconds)
        if overhead_seconds is not None:
            at.overheads.observe(overhead_seconds)
        duration_seconds = trace.duration_seconds or 0.0
        if series is None:
            self.unrouted[at.route, status].observe(duration_seconds)
        else:
            series.request_ended(at.route, trace, duration_seconds)

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
