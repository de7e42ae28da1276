"""A worker as it begins: made of what was said of it, and of the settings for all."""

from __future__ import annotations

import msgspec

from router.core.breaker import Breaker, BreakerSettings
from router.core.health import Health, HealthSettings
from router.core.worker import Worker
from router.member import Details, Member
from router.targets import log_change


class RegistrySettings(msgspec.Struct, frozen=True, kw_only=True):
    """What workers start with, and how long they may take to start and to finish.

    `by_model`: a worker is of no use before it has said what it serves. `dp_aware`: data-parallel
    ranks are targets of their own; `dp_size` is the number of those that do not say it themselves.
    """

    health: HealthSettings
    breaker: BreakerSettings
    max_in_flight: int | None
    by_model: bool
    dp_aware: bool
    dp_size: int | None
    startup_timeout_seconds: float
    removal_grace_seconds: float


def new_worker(url: str, node_id: str, details: Details, settings: RegistrySettings) -> Worker:
    """Raises WorkerUrlError, and ValueError for a key that cannot be in a header."""
    usual = settings.health
    worker = Worker(
        url,
        node_id,
        api_key=details.api_key,
        health=Health(
            HealthSettings(
                failure_threshold=details.health_failure_threshold or usual.failure_threshold,
                success_threshold=details.health_success_threshold or usual.success_threshold,
                enabled=usual.enabled and not details.disable_health_check,
            )
        ),
        breaker=Breaker(settings.breaker),
        max_in_flight=None if details.worker_type == "prefill" else settings.max_in_flight,
        role=details.worker_type,
        bootstrap_port=details.bootstrap_port,
    )
    worker.listeners.append(log_change)
    return worker


def new_member(
    url: str, worker: Worker, origin: str, details: Details, settings: RegistrySettings
) -> Member:
    """`worker`, registered as `url` and with what was said of it."""
    aware = settings.dp_aware if details.dp_aware is None else details.dp_aware
    member = Member(url, worker, origin, dp_aware=aware)
    if not (aware or settings.by_model):
        member.asked.set()
    member.take(details)
    member.model_id = details.model_id
    return member
