"""A scrape: the counts of `Metrics` as Prometheus families, in the format the client asks for.

A scrape changes nothing. Each replica shows its own counts only, so that sums over replicas are
right; the few facts of the whole fleet say so in their help, and are read with `max`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client import exposition as text
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from router.core.breaker import BreakerState
from router.metrics import families as f
from router.metrics.families import Family
from router.metrics.histogram import Histogram
from router.metrics.labels import ENDPOINTS, OTHER, RATE_LIMITED, ROUTED_ERRORS, UNKNOWN
from router.metrics.record import Ending, Metrics, RouteSeries, SourceState, WorkerSeries
from tracking.trace import NO_NODE, ErrorType

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_NAME = "application/openmetrics-text"
OPENMETRICS_TYPE = f"{OPENMETRICS_NAME}; version=1.0.0; charset=utf-8"

# There is one kind of each here; the labels are kept for sglang-router's dashboards.
ROUTER_TYPE = "http"
CONNECTION_MODE = "http"
BREAKER_STATES: Mapping[BreakerState, int] = {"closed": 0, "open": 1, "half_open": 2}

Labels = tuple[str, ...]


class Exposition:
    """`/metrics`, rendered: what `Metrics` counted, and what Python knows of its own process."""

    def __init__(self, metrics: Metrics) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(MetricsCollector(metrics))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def render(
        self, accept: str | None, families: Sequence[Metric] | None = None
    ) -> tuple[bytes, str]:
        """Body and content type: OpenMetrics where `accept` names it, else the text format.

        With `families` these instead of our own.
        """
        registry = self._registry
        if families is not None:
            registry = CollectorRegistry()
            registry.register(Collected(families))
        if accept is not None and OPENMETRICS_NAME in accept:
            body: bytes = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
            return body, OPENMETRICS_TYPE
        return text.generate_latest(registry), TEXT_TYPE

    def collect(self) -> Iterable[Metric]:
        """The families of this process alone."""
        return self._registry.collect()


class Collected(Collector):
    """Families that are there already."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class MetricsCollector(Collector):
    """Turns the counts into families; called by prometheus_client at each scrape."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        metrics = self._metrics
        yield gauge(f.BUILD_INFO, [((metrics.version,), 1)])
        yield from self._http()
        yield from endings(list(metrics.routes), metrics.backend_type)
        yield from self._attempts()
        yield from self._decisions()
        yield from self._workers()
        yield from worker_series(list(metrics.series), metrics)
        yield histogram(f.QUEUE, observed(((r.route,), r.queue_waits) for r in metrics.routes))
        yield histogram(f.OVERHEAD, observed(((r.route,), r.overheads) for r in metrics.routes))
        yield gauge(f.QUEUED, [((), metrics.sources.queued_requests())])
        yield from self._shared()
        yield from self._store()
        yield from discovery(metrics.sources.discovery())
        if (spans := metrics.sources.spans()) is not None:
            yield counter(f.SPANS, (((result,), n) for result, n in spans.items()))

    def _http(self) -> Iterator[Metric]:
        metrics = self._metrics
        named = [((route.method, route.route), route) for route in metrics.routes]
        yield counter(f.HTTP_REQUESTS, ((labels, route.received) for labels, route in named))
        heads = ((labels, route.heads) for labels, route in named)
        yield histogram(f.HTTP_DURATION, observed(heads))
        yield gauge(f.HTTP_ACTIVE, [((), metrics.sources.open_requests())])

    def _attempts(self) -> Iterator[Metric]:
        responses: Counter[Labels] = Counter()
        errors: Counter[Labels] = Counter()
        for lasting in self._metrics.lasting:
            for (http_status, error_type), count in lasting.attempts.items():
                if http_status is not None:
                    responses[ROUTER_TYPE, str(http_status), ""] += count.n
                if (error := worker_error(http_status, error_type)) is not None:
                    errors[lasting.role, CONNECTION_MODE, error] += count.n
        yield counter(f.UPSTREAM_RESPONSES, responses.items())
        yield counter(f.WORKER_ERRORS, errors.items())
        yield counter(f.ABORTS, (((result,), n) for result, n in self._metrics.aborts.items()))

    def _decisions(self) -> Iterator[Metric]:
        metrics = self._metrics
        selections: Counter[Labels] = Counter()
        qualities: Counter[Labels] = Counter()
        for lasting in metrics.lasting:
            for (policy, _, quality, model), count in lasting.choices.items():
                selections[lasting.role, CONNECTION_MODE, model, policy] += count.n
                qualities[policy, quality] += count.n
        yield counter(f.SELECTIONS, selections.items())
        yield counter(f.QUALITY, qualities.items())
        yield histogram(f.DECISION_LOAD_AGE, [((), metrics.load_ages)])
        yield counter(f.REGRET, (((policy,), n) for policy, n in metrics.regrets.items()))

    def _workers(self) -> Iterator[Metric]:
        metrics = self._metrics
        workers = metrics.sources.workers()
        label = metrics.worker_label
        pool = Counter((w.role, CONNECTION_MODE, w.model_id or UNKNOWN) for w in workers)
        yield gauge(f.POOL_SIZE, pool.items())
        yield gauge(f.WORKER_ACTIVE, [((label(w),), w.in_flight) for w in workers])
        yield gauge(f.WORKER_HEALTH, [((label(w),), int(w.healthy)) for w in workers])
        yield gauge(
            f.BREAKER_STATE, [((label(w),), BREAKER_STATES[w.breaker.state]) for w in workers]
        )
        yield gauge(
            f.WORKER_INFO, [((w.node_id, label(w), w.model_id or UNKNOWN), 1) for w in workers]
        )

    def _shared(self) -> Iterator[Metric]:
        metrics = self._metrics
        index, shared = metrics.sources.index(), metrics.sources.shared()
        if index is not None:
            yield gauge(f.PREFIXES, [((), index.blocks)])
            yield gauge(f.PREFIX_BYTES, [((), index.bytes)])
        if shared is not None:
            yield gauge(f.REPLICAS, [((), shared.replicas)])
            yield gauge(f.LOAD_AGE, [((), shared.load_age_seconds)])
            yield counter(f.UNTOLD, [((), shared.untold)])
            yield histogram(f.SHARE_SECONDS, [((), metrics.share_seconds)])
            yield counter(f.SHARE_FAILURES, [((), metrics.share_failures)])

    def _store(self) -> Iterator[Metric]:
        metrics = self._metrics
        store = metrics.sources.store()
        if store is None:
            return
        yield gauge(f.STORE_UP, [((store.kind,), int(store.state == "up"))])
        yield gauge(f.BUFFERED, [((), store.buffered)])
        yield gauge(f.BUFFERED_BYTES, [((), store.buffered_bytes)])
        yield counter(f.DROPPED, [((), store.dropped)])
        yield counter(f.FAILED_FLUSHES, [((), store.failed_flushes)])
        yield counter(f.LOST, [((), store.lost)])
        yield gauge(f.STORE_MEMORY, [((), store.memory_bytes)])
        yield gauge(f.STORE_MEMORY_LIMIT, [((), store.memory_limit_bytes)])
        yield counter(f.FLUSHED, [((), metrics.flushed)])
        yield histogram(f.FLUSH_SECONDS, [((), metrics.flush_seconds)])


def endings(routes: Sequence[RouteSeries], backend_type: str) -> Iterator[Metric]:
    """The metrics that are sums over how requests ended."""
    responses: Counter[Labels] = Counter()
    admission: Counter[Labels] = Counter({("allowed",): 0, ("rejected",): 0})
    routed: Counter[Labels] = Counter()
    errors: Counter[Labels] = Counter()
    requests: Counter[Labels] = Counter()
    for route, end, n in ((s.route, *ending) for s in routes for ending in s.endings()):
        responses[response_labels(end)] += n
        if end.status is None:
            continue
        requests[route, end.model, end.status, end.error_type or ""] += n
        if end.error_type in RATE_LIMITED:
            admission["rejected",] += n
        elif end.admitted:
            admission["allowed",] += n
            endpoint = ENDPOINTS.get(route, OTHER)
            kind = (ROUTER_TYPE, backend_type, CONNECTION_MODE, end.model, endpoint)
            routed[*kind, "true" if end.stream else "false"] += n
            if end.error_type is not None and end.error_type in ROUTED_ERRORS:
                errors[*kind, ROUTED_ERRORS[end.error_type]] += n
    yield counter(f.HTTP_RESPONSES, responses.items())
    yield counter(f.RATE_LIMIT, admission.items())
    yield counter(f.ROUTER_REQUESTS, routed.items())
    yield counter(f.ROUTER_ERRORS, errors.items())
    yield counter(f.REQUESTS, requests.items())


def response_labels(end: Ending) -> Labels:
    if end.http_status in (None, 499):  # no head reached the client
        return ("499", "client_closed_request")
    return (str(end.http_status), end.error_code)


def worker_error(http_status: int | None, error_type: ErrorType | None) -> str | None:
    """sglang-router's word for an attempt that failed by the worker's fault, else None."""
    if error_type is not None and error_type != "worker_status" and error_type in ROUTED_ERRORS:
        return ROUTED_ERRORS[error_type]
    if http_status is None or http_status < 500:
        return None
    return "timeout" if http_status == 504 else "backend_error"


def worker_series(all_series: Sequence[WorkerSeries], metrics: Metrics) -> Iterator[Metric]:
    """The metrics kept per worker. Names and models are read now: both may change."""
    who = [(s.worker.node_id, s.worker.model_id or UNKNOWN) for s in all_series]
    named = list(zip(who, all_series, strict=True))
    yield histogram(f.TTFT, ((w, s.ttft) for w, s in named))
    yield histogram(f.GAPS, ((w, s.gaps) for w, s in named))
    yield histogram(f.ATTEMPT_DURATION, ((w, s.attempt_seconds) for w, s in named))
    unrouted = [((NO_NODE, UNKNOWN, *key), h) for key, h in metrics.unrouted.items()]
    routed = [((*w, *key), h) for w, s in named for key, h in s.durations.items()]
    yield histogram(f.DURATION, unrouted + routed)
    decisions: Counter[Labels] = Counter()
    for w, s in named:
        for (policy, reason, _, _), count in s.lasting.choices.items():
            decisions[policy, reason, w[0]] += count.n
    yield counter(f.DECISIONS, decisions.items())
    yield counter(
        f.ATTEMPTS,
        (
            ((w[0], "" if status is None else str(status), error or ""), count.n)
            for w, s in named
            for (status, error), count in s.lasting.attempts.items()
        ),
    )
    label = metrics.worker_label
    yield counter(
        f.BREAKER_TRANSITIONS,
        (
            ((label(s.worker), *change), n)
            for s in all_series
            for change, n in s.breaker_changes.items()
        ),
    )
    yield counter(f.INPUT_TOKENS, ((w, s.input_tokens) for w, s in named))
    yield counter(f.OUTPUT_TOKENS, ((w, s.output_tokens) for w, s in named))
    yield counter(f.CACHED_TOKENS, ((w, s.cached_tokens) for w, s in named))
    yield counter(f.PREDICTED_TOKENS, ((w, s.predicted_tokens) for w, s in named))
    yield counter(f.PREDICTION_ERROR, ((w, s.prediction_error_tokens) for w, s in named))
    yield counter(f.CACHE_KNOWN_TOKENS, ((w, s.cache_known_tokens) for w, s in named))


def discovery(sources: Sequence[SourceState]) -> Iterator[Metric]:
    """Nothing where workers are only named."""
    if sources:
        yield gauge(f.DISCOVERED, [((s.name,), s.workers) for s in sources])
        yield gauge(f.DISCOVERY_SUCCESS, [((s.name,), s.succeeded_s) for s in sources])
        yield counter(f.DISCOVERY_ERRORS, [((s.name,), s.errors) for s in sources])


def counter(family: Family, values: Iterable[tuple[Labels, int]]) -> Metric:
    metric = CounterMetricFamily(family.name, family.help, labels=family.labels)
    for labels, value in values:
        metric.add_metric(labels, value)
    return metric


def gauge(family: Family, values: Iterable[tuple[Labels, float]]) -> Metric:
    metric = GaugeMetricFamily(family.name, family.help, labels=family.labels)
    for labels, value in values:
        metric.add_metric(labels, value)
    return metric


def histogram(family: Family, values: Iterable[tuple[Labels, Histogram]]) -> Metric:
    metric = HistogramMetricFamily(family.name, family.help, labels=family.labels)
    for labels, one in values:
        metric.add_metric(labels, cumulated(one), one.total())
    return metric


def observed(values: Iterable[tuple[Labels, Histogram]]) -> Iterable[tuple[Labels, Histogram]]:
    """Those with observations; those that share their labels as one."""
    sums: dict[Labels, Histogram] = {}
    for labels, one in values:
        if any(one.counts()):
            sums.setdefault(labels, Histogram(one.bounds)).add(one)
    return sums.items()


def cumulated(one: Histogram) -> list[tuple[str, float]]:
    """Buckets as Prometheus wants them: each holds all below it, the last one everything."""
    buckets: list[tuple[str, float]] = []
    so_far = 0
    for bound, n in zip((*map(repr, one.bounds), "+Inf"), one.counts(), strict=True):
        so_far += n
        buckets.append((bound, so_far))
    return buckets
