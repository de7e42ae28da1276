"""What the configuration says to the parts, in their own words."""

from __future__ import annotations

from router.api.forwarding import ForwardingSettings
from router.api.relay import Limits
from router.config import Config
from router.core.breaker import BreakerSettings
from router.core.health import HealthSettings
from router.core.retry import RetrySettings
from router.new_member import RegistrySettings


def listed(config: Config) -> list[str]:
    """The workers of the command line, as replicas tell each other."""
    return [worker.text() for worker in config.static_workers]


def registry_settings(config: Config) -> RegistrySettings:
    return RegistrySettings(
        health=HealthSettings(
            failure_threshold=config.health_failure_threshold,
            success_threshold=config.health_success_threshold,
            enabled=not config.disable_health_check,
        ),
        breaker=BreakerSettings(
            failure_threshold=config.cb_failure_threshold,
            success_threshold=config.cb_success_threshold,
            timeout_seconds=config.cb_timeout_duration_secs,
            window_seconds=config.cb_window_duration_secs,
            enabled=not config.disable_circuit_breaker,
        ),
        max_in_flight=config.max_requests_per_worker or None,
        by_model=config.enable_igw,
        dp_aware=config.dp_aware,
        dp_size=config.dp_size,
        startup_timeout_seconds=config.worker_startup_timeout_secs,
        removal_grace_seconds=config.shutdown_grace_period_secs,
    )


def forwarding_settings(config: Config) -> ForwardingSettings:
    candidates = config.receipt_candidates
    return ForwardingSettings(
        max_payload_bytes=config.max_payload_size,
        receipt_candidates=None if candidates == "all" else candidates,
        limits=Limits(
            first_byte_seconds=config.first_byte_timeout_secs,
            idle_seconds=config.idle_timeout_secs,
            total_seconds=config.request_timeout_secs,
        ),
        sse_error_frames=config.sse_error_frames,
        inject_rid=config.inject_rid,
        retry=RetrySettings(
            max_attempts=config.max_attempts,
            initial_backoff_seconds=config.retry_initial_backoff_ms / 1000,
            max_backoff_seconds=config.retry_max_backoff_ms / 1000,
            backoff_multiplier=config.retry_backoff_multiplier,
            jitter_factor=config.retry_jitter_factor,
        ),
    )
