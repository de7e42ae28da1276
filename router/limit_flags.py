"""The settings that bound what a request may take and what a worker may fail: a part of `Config`."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from router.access_flags import AccessFlags
from router.flag_types import AtLeast0, AtLeast1, PathPrefix, Positive
from router.flags import Flag

TIMES: Final = "Time limits"
ADMISSION: Final = "Admission"
RETRIES: Final = "Retries"
BREAKER: Final = "Circuit breaker"
HEALTH: Final = "Health checks"


class LimitFlags(AccessFlags, frozen=True, kw_only=True):
    """Time limits, admission, retries, breakers, health checks; see docs/reliability.md."""

    # -- time limits
    connect_timeout_secs: Annotated[Positive, Flag(TIMES, "To connect to a worker.")] = 10
    first_byte_timeout_secs: Annotated[
        Positive,
        Flag(
            TIMES,
            "From the request to the first byte of the answer; for an answer that is no stream, "
            "that is all of the worker's work.",
        ),
    ] = 1800
    idle_timeout_secs: Annotated[
        Positive, Flag(TIMES, "Longest silence of a worker inside an answer.")
    ] = 300
    request_timeout_secs: Annotated[
        Positive | None,
        Flag(
            TIMES,
            "Whole request, from its head to its answer's end, upload and waiting in line "
            "included: 408 before a worker was chosen, 504 after, a cut once the answer has begun. "
            "Only when given: silence cuts a stream, not its length (sglang-router: 1800).",
        ),
    ] = None
    drain_secs: Annotated[
        Annotated[float, Meta(ge=0)],
        Flag(
            TIMES,
            "After SIGTERM: how long new requests are still served while /readiness says 503, so "
            "that load balancers can turn away first.",
        ),
    ] = 5
    shutdown_grace_period_secs: Annotated[
        Annotated[float, Meta(ge=0)],
        Flag(TIMES, "After that: how long running requests may take to finish."),
    ] = 180

    # -- admission
    max_concurrent_requests: Annotated[
        Annotated[int, Meta(ge=-1)],
        Flag(ADMISSION, "Most requests running at once; -1 or 0 for no limit."),
    ] = -1
    max_requests_per_worker: Annotated[
        AtLeast0,
        Flag(
            ADMISSION,
            "Most requests of this router at one worker; 0 for no limit. Where all workers are "
            "full, more wait for a place.",
        ),
    ] = 0
    queue_size: Annotated[
        AtLeast0,
        Flag(ADMISSION, "Requests that may wait for a place; 0 answers 429 at once."),
    ] = 100
    queue_timeout_secs: Annotated[
        Annotated[float, Meta(ge=0)], Flag(ADMISSION, "Longest wait for a place, then 408.")
    ] = 60
    rate_limit_tokens_per_second: Annotated[
        Positive | None,
        Flag(ADMISSION, "Requests admitted per second; without it no limit of rate."),
    ] = None

    # -- retries
    retry_max_retries: Annotated[
        AtLeast1, Flag(RETRIES, "Most attempts in all, the first included.")
    ] = 5
    retry_initial_backoff_ms: Annotated[AtLeast0, Flag(RETRIES, "Pause before the second.")] = 50
    retry_max_backoff_ms: Annotated[AtLeast0, Flag(RETRIES, "Longest pause.")] = 30000
    retry_backoff_multiplier: Annotated[
        Annotated[float, Meta(ge=1)], Flag(RETRIES, "Each pause is this many times the last.")
    ] = 1.5
    retry_jitter_factor: Annotated[
        Annotated[float, Meta(ge=0, le=1)], Flag(RETRIES, "Random share of a pause, up or down.")
    ] = 0.2
    disable_retries: Annotated[bool, Flag(RETRIES, "One attempt only.")] = False

    # -- circuit breaker
    cb_failure_threshold: Annotated[
        AtLeast1, Flag(BREAKER, "Failures in a row that take a worker out.")
    ] = 10
    cb_success_threshold: Annotated[
        AtLeast1, Flag(BREAKER, "Successes in a row that bring it back.")
    ] = 3
    cb_timeout_duration_secs: Annotated[
        Positive, Flag(BREAKER, "How long it stays out before it is tried again.")
    ] = 60
    cb_window_duration_secs: Annotated[
        Positive, Flag(BREAKER, "Failures older than this do not count.")
    ] = 120
    disable_circuit_breaker: Annotated[bool, Flag(BREAKER, "Never take a worker out.")] = False

    # -- health checks
    health_failure_threshold: Annotated[
        AtLeast1, Flag(HEALTH, "Failed checks in a row that make a worker unhealthy.")
    ] = 3
    health_success_threshold: Annotated[
        AtLeast1, Flag(HEALTH, "Passed checks in a row that make it healthy.")
    ] = 2
    health_check_timeout_secs: Annotated[Positive, Flag(HEALTH, "For one check.")] = 5
    health_check_interval_secs: Annotated[Positive, Flag(HEALTH, "Between checks.")] = 60
    health_check_endpoint: Annotated[
        PathPrefix, Flag(HEALTH, "Path asked at the worker.", allowed="a path that begins with /")
    ] = "/health"
    disable_health_check: Annotated[bool, Flag(HEALTH, "Do not check.")] = False

    @property
    def max_attempts(self) -> int:
        return 1 if self.disable_retries else self.retry_max_retries

    @property
    def concurrency_limit(self) -> int | None:
        return self.max_concurrent_requests if self.max_concurrent_requests > 0 else None
