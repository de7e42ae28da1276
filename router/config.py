"""Every setting that acts, declared once: name, type, bounds, default, help.

`router.configure` fills it from flags, environment and keywords; code reads the frozen result.
Names are those of the flags, underscored. sglang-router's flags keep their names and, unless their
help says otherwise, their defaults; those that do nothing here are declared in `compat.py`.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from router.core.membership import Listed
from router.flag_types import (
    HEADERS_RULE,
    NAME_RULE,
    NODE_ID_RULE,
    AtLeast0,
    AtLeast1,
    HeaderName,
    ModelAlias,
    Name,
    NodeId,
    NotEmpty,
    PathPrefix,
    Port,
    Positive,
    RedisUrl,
    default_router_id,
    parse_log_level,
    parse_mapping,
    parse_model_alias,
    parse_weights,
    parse_worker_url,
)
from router.flags import Flag
from router.pd_flags import PdFlags
from router.policy_file import ModelPolicy, PolicyFile, parse_model_policy, parse_policy
from router.policytype import PolicyType
from router.shown_settings import effective

SERVER: Final = "Server"
WORKERS: Final = "Workers"
ROUTING: Final = "Routing policy"
MODELS: Final = "Many models"
FORWARDING: Final = "Forwarding"
TRACKING: Final = "Request tracking"
OBSERVING: Final = "Logs and metrics"


class Config(PdFlags, frozen=True, kw_only=True):
    """The settings of one router. Seconds, bytes and counts as the flags' help says."""

    # -- server
    host: Annotated[
        NotEmpty, Flag(SERVER, "Address to listen on; :: for IPv6, 0.0.0.0 for all of IPv4.")
    ] = "0.0.0.0"
    port: Annotated[Port, Flag(SERVER, "TCP port to listen on; 0 takes a free one.")] = 30000
    tls_cert_path: Annotated[
        str | None,
        Flag(SERVER, "Certificate (PEM) to serve HTTPS with.", aliases=("server_cert_path",)),
    ] = None
    tls_key_path: Annotated[
        str | None,
        Flag(SERVER, "Private key (PEM) of that certificate.", aliases=("server_key_path",)),
    ] = None
    cors_allowed_origins: Annotated[
        tuple[str, ...],
        Flag(SERVER, "Origins a browser may call from; without any, no CORS headers are sent."),
    ] = ()
    max_payload_size: Annotated[
        AtLeast1,
        Flag(SERVER, "Largest request body in bytes; more is answered 413.", metavar="BYTES"),
    ] = 536870912
    max_header_bytes: Annotated[
        Annotated[int, Meta(ge=1024)], Flag(SERVER, "Largest request head in bytes.")
    ] = 65536
    header_read_timeout_secs: Annotated[
        Positive, Flag(SERVER, "A client must have sent its request head within this time.")
    ] = 30
    idle_connection_timeout_secs: Annotated[
        Positive,
        Flag(
            SERVER,
            "A client's connection is closed after this long without a request; a body that stops "
            "coming for as long is answered 408.",
        ),
    ] = 90
    max_connections: Annotated[
        AtLeast0, Flag(SERVER, "Most client connections at once; 0 for no limit of our own.")
    ] = 0
    processes: Annotated[
        AtLeast1 | Literal["auto"],
        Flag(
            SERVER,
            "How many processes serve the port, each a replica of its own; auto: one for each core "
            "we may use. Limits are divided among them.",
        ),
    ] = 1

    # -- workers
    worker_urls: Annotated[
        tuple[str, ...],
        Flag(
            WORKERS,
            "Workers to route to, as http://HOST:PORT. The first is named worker-0.",
            aliases=("workers",),
            parse=parse_worker_url,
        ),
    ] = ()
    node_ids: Annotated[
        tuple[NodeId, ...],
        Flag(WORKERS, "Names of the workers, in the order of their URLs.", allowed=NODE_ID_RULE),
    ] = ()
    port_gpu_mapping: Annotated[
        dict[Port, NodeId],
        Flag(
            WORKERS,
            """Names of workers by their port, as JSON: {"30005": "cuda:2"}.""",
            allowed=f"a JSON object from ports to {NODE_ID_RULE}",
            parse=parse_mapping,
        ),
    ] = {}
    worker_startup_timeout_secs: Annotated[
        Positive, Flag(WORKERS, "How long a worker that is added may take to become healthy.")
    ] = 1800
    keepalive_timeout_secs: Annotated[
        Positive,
        Flag(
            WORKERS,
            "An idle connection to a worker is closed after this time. Keep it below the worker's "
            "own limit (uvicorn's and llama.cpp's is 5).",
        ),
    ] = 3
    client_cert_path: Annotated[
        str | None, Flag(WORKERS, "Certificate (PEM) shown to workers (mTLS).")
    ] = None
    client_key_path: Annotated[
        str | None, Flag(WORKERS, "Private key (PEM) of that certificate.")
    ] = None
    ca_cert_paths: Annotated[
        tuple[str, ...],
        Flag(WORKERS, "CA certificates (PEM) that sign workers' certificates."),
    ] = ()

    dp_aware: Annotated[
        bool,
        Flag(WORKERS, "A worker's data-parallel ranks are targets of their own; see dp-aware.md."),
    ] = False
    dp_size: Annotated[
        AtLeast1 | None,
        Flag(WORKERS, "Ranks of workers that do not say how many they have (vLLM does not)."),
    ] = None

    # -- routing policy
    policy: Annotated[
        PolicyType | PolicyFile,
        Flag(
            ROUTING,
            f"How a worker is chosen: {', '.join(PolicyType)}; or your own from a file.",
            metavar="NAME",
            allowed=f"one of {', '.join(PolicyType)}, or FILE.py:CLASS",
            parse=parse_policy,
        ),
    ] = PolicyType.CacheAware
    policy_seed: Annotated[
        int | None, Flag(ROUTING, "Makes the policy's random choices repeatable.", metavar="N")
    ] = None
    cache_threshold: Annotated[
        Annotated[float, Meta(ge=0, le=1)],
        Flag(ROUTING, "cache_aware: affinity wins above this share of the prompt matched."),
    ] = 0.3
    balance_abs_threshold: Annotated[
        AtLeast0,
        Flag(
            ROUTING,
            "cache_aware: affinity yields when loads differ by more than this many requests...",
        ),
    ] = 64
    balance_rel_threshold: Annotated[
        Annotated[float, Meta(ge=1)],
        Flag(ROUTING, "... and the highest load is more than this many times the lowest."),
    ] = 1.5
    max_tree_size: Annotated[
        AtLeast1,
        Flag(
            ROUTING,
            "cache_aware: memory for the prompt prefixes of all workers together (sglang-router: "
            "characters per worker).",
            metavar="BYTES",
        ),
    ] = 67108864
    prefix_token_count: Annotated[
        AtLeast1, Flag(ROUTING, "prefix_hash: how many tokens of the prompt's start are hashed.")
    ] = 256
    prefix_hash_load_factor: Annotated[
        Annotated[float, Meta(ge=1)],
        Flag(ROUTING, "prefix_hash: a worker takes at most this many times an even share of load."),
    ] = 1.25
    policy_weights: Annotated[
        dict[str, Annotated[float, Meta(ge=0)]],
        Flag(
            ROUTING,
            "weighted: weights of workers by port, node_id or URL, as JSON: "
            """{"30005": 0.7, "30006": 0.3}; equal when not given.""",
            allowed="a JSON object from ports, node_ids or URLs to numbers of at least 0, one of "
            "them above 0",
            parse=parse_weights,
        ),
    ] = {}
    assignment_mode: Annotated[
        Literal["random", "min_load", "min_group"],
        Flag(
            ROUTING,
            "manual: where a new key goes: any worker (the same at every replica), the one with "
            "the least in flight, or with the fewest keys.",
        ),
    ] = "random"
    max_idle_secs: Annotated[
        AtLeast1, Flag(ROUTING, "manual: a key that was not used so long is forgotten.")
    ] = 14400
    bucket_adjust_interval_secs: Annotated[
        AtLeast1, Flag(ROUTING, "bucket: how far back lengths count, and how often they are cut.")
    ] = 5
    marginal_utility_output_dir: Annotated[
        str | None,
        Flag(
            ROUTING,
            "Write each decision and each end of a request to a CSV file in DIR, with the numbers "
            "of marginal_utility where that is the policy.",
            metavar="DIR",
        ),
    ] = None

    # -- many models
    enable_igw: Annotated[
        bool,
        Flag(
            MODELS,
            "Send each request to a worker that serves the model it names, 404 where none does; "
            "see many-models.md.",
        ),
    ] = False
    model_alias: Annotated[
        tuple[ModelAlias, ...],
        Flag(
            MODELS,
            "Other names of models, ALIAS=MODEL; the worker is sent the model's own name.",
            allowed="ALIAS=MODEL, an alias only once and none the name of another",
            metavar="ALIAS=MODEL",
            parse=parse_model_alias,
        ),
    ] = ()
    model_policy: Annotated[
        tuple[ModelPolicy, ...],
        Flag(
            MODELS,
            "How a worker is chosen for one model, MODEL=POLICY; others follow the label policy of "
            "their worker, else --policy.",
            allowed=f"MODEL=POLICY with a policy of {', '.join(PolicyType)}, or FILE.py:CLASS",
            metavar="MODEL=POLICY",
            parse=parse_model_policy,
        ),
    ] = ()

    # -- forwarding
    request_id_headers: Annotated[
        tuple[HeaderName, ...],
        Flag(
            FORWARDING,
            "Headers that may carry the request id; the first present wins, after X-Request-Id.",
            allowed=HEADERS_RULE,
        ),
    ] = ("x-request-id", "x-correlation-id", "x-trace-id", "request-id")
    forward_headers: Annotated[
        tuple[HeaderName, ...],
        Flag(
            FORWARDING,
            "Further request headers to pass on to workers.",
            allowed=HEADERS_RULE,
        ),
    ] = ()
    forward_paths: Annotated[
        tuple[PathPrefix, ...],
        Flag(
            FORWARDING,
            "Paths of workers to pass on although they control a worker and would be 404.",
            allowed="paths that begin with /",
        ),
    ] = ()
    hide_worker_urls: Annotated[
        bool, Flag(FORWARDING, "Tell clients a worker's name instead of its URL.")
    ] = False
    inject_rid: Annotated[
        bool,
        Flag(FORWARDING, "Add an id of ours to /generate and chat bodies without one (for abort)."),
    ] = False
    sse_error_frames: Annotated[
        bool,
        Flag(
            FORWARDING,
            "End a stream that its worker broke with an error event instead of a cut connection.",
        ),
    ] = False

    # -- request tracking
    enable_request_tracking: Annotated[
        bool,
        Flag(
            TRACKING,
            "Keep a trace of every request.",
            aliases=("enable_tracking",),
            negation="disable_request_tracking",
        ),
    ] = True
    max_trace_entries: Annotated[AtLeast1, Flag(TRACKING, "Most traces held by the fleet.")] = (
        100000
    )
    trace_ttl: Annotated[
        AtLeast1, Flag(TRACKING, "How long a trace is held.", aliases=("trace_ttl_seconds",))
    ] = 3600
    redis_url: Annotated[
        RedisUrl | None,
        Flag(
            TRACKING,
            "Redis or Valkey that holds the traces of all replicas: one server, Sentinel or a "
            "cluster, with TLS (rediss) or without; see redis.md. Without it a private store is "
            "started, seen by this router only.",
            file_twin=True,
            secret=True,
            env="REDIS_URL",
            allowed="redis://HOST:PORT/DB, redis+sentinel://HOST:PORT,.../MASTER, "
            "redis+cluster://HOST:PORT,..., the same with rediss, or unix:///PATH",
        ),
    ] = None
    fleet: Annotated[
        Name,
        Flag(TRACKING, "Name under which replicas share one Redis.", allowed=NAME_RULE),
    ] = "default"
    router_id: Annotated[
        Name,
        Flag(
            TRACKING,
            "Name of this replica; no two may share it.",
            allowed=NAME_RULE,
            default="HOST-PID-RANDOM",
        ),
    ] = msgspec.field(default_factory=default_router_id)
    receipt_candidates: Annotated[
        AtLeast0 | Literal["all"],
        Flag(TRACKING, "How many workers not chosen a trace's decision shows, or all."),
    ] = 7
    trace_buffer_bytes: Annotated[
        AtLeast1, Flag(TRACKING, "Memory for traces that wait for Redis to come back.")
    ] = 268435456

    # -- logs and metrics
    log_level: Annotated[
        Literal["debug", "info", "warn", "error"],
        Flag(
            OBSERVING,
            "Least severity logged, in any case. Each request leaves a line at its end: completed "
            "ones at debug, cancelled and rejected ones at info, failed ones at warn.",
            parse=parse_log_level,
        ),
    ] = "info"
    log_format: Annotated[
        Literal["text", "json"], Flag(OBSERVING, "One line of text or one JSON object each.")
    ] = "text"
    log_dir: Annotated[
        str | None,
        Flag(OBSERVING, "Also log to DIR/trace-router.YYYY-MM-DD, a file a day (UTC)."),
    ] = None
    prometheus_port: Annotated[
        Port | None,
        Flag(
            OBSERVING,
            "Serve /metrics on this port, and no longer on the serving port (sglang-router: "
            "29000).",
        ),
    ] = None
    prometheus_host: Annotated[str, Flag(OBSERVING, "Address of that port.")] = "0.0.0.0"
    prometheus_duration_buckets: Annotated[
        tuple[Positive, ...],
        Flag(
            OBSERVING,
            "Upper bounds, in seconds and rising, of the duration histograms; ours when not given.",
            metavar="SECONDS",
        ),
    ] = ()

    # Not a flag: lines to log at start, about flags without effect and the like.
    warnings: tuple[str, ...] = ()

    @property
    def static_workers(self) -> tuple[Listed, ...]:
        """The workers of the command line, in the order of their names."""
        if not self.pd_disaggregation:
            return tuple(Listed(url) for url in self.worker_urls)
        return (
            *(Listed(given.url, "prefill", given.bootstrap_port) for given in self.prefill),
            *(Listed(url, "decode") for url in self.decode),
        )

    def __repr__(self) -> str:
        return f"<Config {effective(self)}>"
