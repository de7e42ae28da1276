"""Every metric on one screen: name, type, labels, meaning.

`smg_*` are sglang-router 0.3.2's names, kept where the meaning is the same; `trace_router_*` are
ours. `docs/metrics.md` repeats this table and a test holds the two together.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple


class Family(NamedTuple):
    """One metric with all its series."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str


HTTP_REQUESTS: Final = Family(
    "smg_http_requests_total", "counter", ("method", "path"), "HTTP requests received, by route."
)
HTTP_RESPONSES: Final = Family(
    "smg_http_responses_total",
    "counter",
    ("status_code", "error_code"),
    "HTTP answers ended; 499 with client_closed_request when the client left before the head.",
)
HTTP_DURATION: Final = Family(
    "smg_http_request_duration_seconds",
    "histogram",
    ("method", "path"),
    "Time from the arrival of a request to the head of its answer.",
)
HTTP_ACTIVE: Final = Family(
    "smg_http_connections_active", "gauge", (), "HTTP requests being answered now."
)
RATE_LIMIT: Final = Family(
    "smg_http_rate_limit_total",
    "counter",
    ("result",),
    "Inference requests that passed admission (allowed) or did not (rejected).",
)
ROUTER_REQUESTS: Final = Family(
    "smg_router_requests_total",
    "counter",
    ("router_type", "backend_type", "connection_mode", "model", "endpoint", "streaming"),
    "Inference requests that passed admission, counted when they end.",
)
ROUTER_ERRORS: Final = Family(
    "smg_router_request_errors_total",
    "counter",
    ("router_type", "backend_type", "connection_mode", "model", "endpoint", "error_type"),
    "Inference requests that passed admission and failed.",
)
UPSTREAM_RESPONSES: Final = Family(
    "smg_router_upstream_responses_total",
    "counter",
    ("router_type", "status_code", "error_code"),
    "Answers of workers, one per attempt; error_code is always empty.",
)
POOL_SIZE: Final = Family(
    "smg_worker_pool_size", "gauge", ("worker_type", "connection_mode", "model"), "Workers known."
)
WORKER_ACTIVE: Final = Family(
    "smg_worker_requests_active",
    "gauge",
    ("worker",),
    "Requests of this replica in flight at the worker.",
)
WORKER_HEALTH: Final = Family("smg_worker_health", "gauge", ("worker",), "1 healthy, 0 not.")
SELECTIONS: Final = Family(
    "smg_worker_selection_total",
    "counter",
    ("worker_type", "connection_mode", "model", "policy"),
    "Choices of a worker, by the model that worker serves.",
)
WORKER_ERRORS: Final = Family(
    "smg_worker_errors_total",
    "counter",
    ("worker_type", "connection_mode", "error_type"),
    "Attempts that failed by the fault of the worker: a 5xx, no answer, a broken one.",
)
BREAKER_STATE: Final = Family(
    "smg_worker_cb_state",
    "gauge",
    ("worker",),
    "Circuit breaker of the worker: 0 closed, 1 open, 2 half open.",
)
BREAKER_TRANSITIONS: Final = Family(
    "smg_worker_cb_transitions_total",
    "counter",
    ("worker", "from", "to"),
    "Changes of state of the worker's circuit breaker.",
)

REQUESTS: Final = Family(
    "trace_router_requests_total",
    "counter",
    ("route", "model", "status", "error_type"),
    "Inference requests ended, by the terminal status of their trace.",
)
DURATION: Final = Family(
    "trace_router_request_duration_seconds",
    "histogram",
    ("node_id", "model", "route", "status"),
    "Time from the arrival of an inference request to the end of its answer.",
)
TTFT: Final = Family(
    "trace_router_ttft_seconds",
    "histogram",
    ("node_id", "model"),
    "Time from the arrival of a request to the first token of its answer.",
)
GAPS: Final = Family(
    "trace_router_inter_token_seconds",
    "histogram",
    ("node_id", "model"),
    "Time between two events of a stream.",
)
QUEUE: Final = Family(
    "trace_router_queue_seconds",
    "histogram",
    ("route",),
    "Time a request waited for admission in this router.",
)
OVERHEAD: Final = Family(
    "trace_router_overhead_seconds",
    "histogram",
    ("route",),
    "Time the router itself took before it sent a request to a worker, waiting not included.",
)
QUEUED: Final = Family(
    "trace_router_queue_depth", "gauge", (), "Requests waiting for admission now."
)
DECISIONS: Final = Family(
    "trace_router_policy_decisions_total",
    "counter",
    ("policy", "reason", "node_id"),
    "Choices of a worker, by the policy that chose and its reason.",
)
QUALITY: Final = Family(
    "trace_router_decision_quality_total",
    "counter",
    ("policy", "quality"),
    "Choices of a worker: exact, with old load figures (degraded), or a fallback.",
)
DECISION_LOAD_AGE: Final = Family(
    "trace_router_decision_load_age_seconds",
    "histogram",
    (),
    "Age of the oldest load figure a choice was made with; 0 where there are no other replicas.",
)
REGRET: Final = Family(
    "trace_router_decision_regret_tokens_total",
    "counter",
    ("policy",),
    "Input tokens thought to be cached at the best candidate and not at the one chosen.",
)
ATTEMPTS: Final = Family(
    "trace_router_attempts_total",
    "counter",
    ("node_id", "status_code", "error_type"),
    "Attempts at a worker ended; status_code is empty when no answer came.",
)
ATTEMPT_DURATION: Final = Family(
    "trace_router_attempt_duration_seconds",
    "histogram",
    ("node_id", "model"),
    "Time from the start of an attempt at a worker to its end.",
)
ABORTS: Final = Family(
    "trace_router_aborts_total",
    "counter",
    ("result",),
    "Aborts for clients that left or were timed out: sent, failed, dropped (too many at once).",
)
INPUT_TOKENS: Final = Family(
    "trace_router_input_tokens_total",
    "counter",
    ("node_id", "model"),
    "Input tokens, as reported by the worker.",
)
OUTPUT_TOKENS: Final = Family(
    "trace_router_output_tokens_total",
    "counter",
    ("node_id", "model"),
    "Output tokens, as reported by the worker.",
)
CACHED_TOKENS: Final = Family(
    "trace_router_cached_tokens_total",
    "counter",
    ("node_id", "model"),
    "Input tokens found in the worker's prefix cache, as reported by the worker.",
)
CACHE_KNOWN_TOKENS: Final = Family(
    "trace_router_cache_known_input_tokens_total",
    "counter",
    ("node_id", "model"),
    "Input tokens of requests whose cached tokens are known: what a cache hit rate divides by.",
)
PREDICTED_TOKENS: Final = Family(
    "trace_router_predicted_cached_tokens_total",
    "counter",
    ("node_id", "model"),
    "Cached tokens expected of requests for which the worker reported them too.",
)
PREDICTION_ERROR: Final = Family(
    "trace_router_prediction_error_tokens_total",
    "counter",
    ("node_id", "model"),
    "Difference between the cached tokens expected and reported, either way, of those requests.",
)
WORKER_INFO: Final = Family(
    "trace_router_worker_info",
    "gauge",
    ("node_id", "worker", "model"),
    "Always 1: joins node_id, worker and model.",
)
STORE_UP: Final = Family(
    "trace_router_store_up", "gauge", ("kind",), "1 when the trace store answers, 0 when not."
)
BUFFERED: Final = Family(
    "trace_router_writer_buffered_records", "gauge", (), "Trace records not yet committed."
)
BUFFERED_BYTES: Final = Family(
    "trace_router_writer_buffered_bytes", "gauge", (), "Size of the records not yet committed."
)
FLUSHED: Final = Family(
    "trace_router_writer_flushed_records_total", "counter", (), "Trace records committed."
)
DROPPED: Final = Family(
    "trace_router_writer_dropped_records_total",
    "counter",
    (),
    "Trace records dropped because the buffer was full.",
)
FAILED_FLUSHES: Final = Family(
    "trace_router_writer_failed_flushes_total",
    "counter",
    (),
    "Commits of trace records that the store refused or did not answer.",
)
LOST: Final = Family(
    "trace_router_lost_requests_total",
    "counter",
    (),
    "Requests of other routers that went away, declared lost by this one.",
)
STORE_MEMORY: Final = Family(
    "trace_router_store_memory_bytes",
    "gauge",
    (),
    "Memory that the server of the store uses; of the fleet.",
)
STORE_MEMORY_LIMIT: Final = Family(
    "trace_router_store_memory_limit_bytes",
    "gauge",
    (),
    "Memory that the server of the store may use, 0: no limit; of the fleet.",
)
FLUSH_SECONDS: Final = Family(
    "trace_router_writer_flush_seconds", "histogram", (), "Time to commit one batch of records."
)
REPLICAS: Final = Family(
    "trace_router_replicas", "gauge", (), "Routers of the fleet that are alive, this one included."
)
LOAD_AGE: Final = Family(
    "trace_router_shared_load_age_seconds",
    "gauge",
    (),
    "Age of the oldest figure of other routers' requests that decisions are made with.",
)
SHARE_SECONDS: Final = Family(
    "trace_router_share_seconds", "histogram", (), "Time of one exchange with the other routers."
)
SHARE_FAILURES: Final = Family(
    "trace_router_share_failures_total",
    "counter",
    (),
    "Exchanges with the other routers that the store did not answer.",
)
UNTOLD: Final = Family(
    "trace_router_prefixes_untold_total",
    "counter",
    (),
    "Blocks of prefixes not told to the other routers because too many waited.",
)
PREFIXES: Final = Family(
    "trace_router_prefix_index_blocks", "gauge", (), "Blocks in the index of the workers' prefixes."
)
PREFIX_BYTES: Final = Family(
    "trace_router_prefix_index_bytes",
    "gauge",
    (),
    "Size of that index, of --max-tree-size at most.",
)
DISCOVERED: Final = Family(
    "trace_router_discovery_workers", "gauge", ("source",), "Workers that the source lists now."
)
DISCOVERY_SUCCESS: Final = Family(
    "trace_router_discovery_last_success_timestamp_seconds",
    "gauge",
    ("source",),
    "When the source last said which workers there are, in seconds since the epoch; 0: never.",
)
DISCOVERY_ERRORS: Final = Family(
    "trace_router_discovery_errors_total",
    "counter",
    ("source",),
    "Failures to ask the source; what it listed last stays.",
)
SPANS: Final = Family(
    "trace_router_otel_requests_total",
    "counter",
    ("result",),
    "Finished requests whose spans were sent by OTLP (exported) or not (dropped).",
)
BUILD_INFO: Final = Family(
    "trace_router_build_info", "gauge", ("version",), "Always 1: the version that runs."
)

FAMILIES: Final[tuple[Family, ...]] = (
    *(HTTP_REQUESTS, HTTP_RESPONSES, HTTP_DURATION, HTTP_ACTIVE, RATE_LIMIT),
    *(ROUTER_REQUESTS, ROUTER_ERRORS, UPSTREAM_RESPONSES),
    *(POOL_SIZE, WORKER_ACTIVE, WORKER_HEALTH, SELECTIONS, WORKER_ERRORS),
    *(BREAKER_STATE, BREAKER_TRANSITIONS),
    *(REQUESTS, DURATION, TTFT, GAPS, QUEUE, OVERHEAD, QUEUED),
    *(DECISIONS, QUALITY, DECISION_LOAD_AGE, REGRET, ATTEMPTS, ATTEMPT_DURATION, ABORTS),
    *(INPUT_TOKENS, OUTPUT_TOKENS, CACHED_TOKENS, CACHE_KNOWN_TOKENS, WORKER_INFO),
    *(PREDICTED_TOKENS, PREDICTION_ERROR),
    *(REPLICAS, LOAD_AGE, SHARE_SECONDS, SHARE_FAILURES, UNTOLD, PREFIXES, PREFIX_BYTES),
    *(STORE_UP, BUFFERED, BUFFERED_BYTES, FLUSHED, DROPPED, FAILED_FLUSHES, FLUSH_SECONDS),
    *(LOST, STORE_MEMORY, STORE_MEMORY_LIMIT, BUILD_INFO),
    *(DISCOVERED, DISCOVERY_SUCCESS, DISCOVERY_ERRORS, SPANS),
)
