"""What all forwarded requests share."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from random import Random
from typing import NamedTuple, Protocol

from router.api.gate import Gate
from router.api.record import Recorder
from router.api.relay import Limits
from router.api.request_log import RequestLog
from router.api.watch import Watch
from router.caches import Caches
from router.clock import Clock
from router.core.disaggregation import PdProtocol
from router.core.headers import HeaderRules
from router.core.retry import RetryBudget, RetrySettings
from router.fleet import Fleet, Group
from router.metrics.record import Metrics
from router.models import Models
from router.outbox import Outbox
from router.policies.base import Policy
from router.upstream.abort import Aborter
from router.upstream.pools import Pools


class Pairs(NamedTuple):
    """Who does which part of a request, where prefill and decode are on separate workers."""

    protocol: PdProtocol
    prefill: Group
    decode: Group


class Spawn(Protocol):
    """Runs a coroutine in the background; what is returned cancels it."""

    def __call__(
        self, coroutine: Coroutine[object, object, None], name: str
    ) -> Callable[[], bool]: ...


class ForwardingSettings:
    """`receipt_candidates` counts the workers not chosen, None is all of them."""

    __slots__ = (
        "inject_rid",
        "limits",
        "max_payload_bytes",
        "receipt_candidates",
        "retry",
        "sse_error_frames",
    )

    def __init__(
        self,
        *,
        max_payload_bytes: int,
        receipt_candidates: int | None,
        limits: Limits,
        sse_error_frames: bool,
        inject_rid: bool,
        retry: RetrySettings,
    ) -> None:
        self.max_payload_bytes = max_payload_bytes
        self.receipt_candidates = receipt_candidates
        self.limits = limits
        self.sse_error_frames = sse_error_frames
        self.inject_rid = inject_rid
        self.retry = retry


class Forwarding:
    """The parts that sending requests to workers takes. One for the whole router.

    `group` is where requests go that nothing narrows the choice of; `models` narrows it by the
    request's model, None where that plays no part. `policies` are all in use.
    """

    def __init__(
        self,
        *,
        settings: ForwardingSettings,
        fleet: Fleet,
        policies: Sequence[Policy],
        group: Group,
        models: Models | None = None,
        caches: Caches,
        recorder: Recorder,
        pools: Pools,
        outbox: Outbox,
        gate: Gate,
        budget: RetryBudget,
        headers: HeaderRules,
        metrics: Metrics,
        watch: Watch,
        aborter: Aborter,
        request_log: RequestLog,
        clock: Clock,
        random: Random,
        spawn: Spawn,
        pairs: Pairs | None = None,
    ) -> None:
        self.settings = settings
        self.fleet = fleet
        self.policies = policies
        self.group = group
        self.models = models
        self.caches = caches
        self.recorder = recorder
        self.pools = pools
        self.outbox = outbox
        self.gate = gate
        self.budget = budget
        self.headers = headers
        self.metrics = metrics
        self.watch = watch
        self.aborter = aborter
        self.request_log = request_log
        self.clock = clock
        self.random = random
        self.spawn = spawn
        self.pairs = pairs
        self.open_requests = 0
        self.stopping = False  # from now on requests end because the router does
