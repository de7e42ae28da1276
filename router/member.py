"""A worker as it is registered: what was said of it, and how far its coming and going is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Literal, Protocol
from uuid import NAMESPACE_URL, uuid5

import msgspec
from msgspec import Meta

from router.core.membership import identity
from router.core.ranks import Rank
from router.core.worker import Role, Worker

STATIC, API = "static", "api"  # who named a worker; a source names its own place

Threshold = Annotated[int, Meta(ge=1)]


class Changes(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What may change while a worker is there; None leaves it as it is."""

    priority: Annotated[int, Meta(ge=0)] | None = None
    cost: Annotated[float, Meta(ge=0)] | None = None
    labels: dict[str, str] | None = None
    api_key: str | None = None


class Details(Changes, kw_only=True):
    """What is said of a worker when it is added."""

    model_id: str | None = None
    dp_aware: bool | None = None
    worker_type: Role = "regular"
    bootstrap_port: Annotated[int, Meta(ge=0, le=65535)] | None = None
    disable_health_check: bool | None = None
    health_success_threshold: Threshold | None = None
    health_failure_threshold: Threshold | None = None


def details_of(given: Details) -> Details:
    """No more than the details of what says more, such as a URL."""
    return Details(**{name: getattr(given, name) for name in Details.__struct_fields__})


class Tell(Protocol):
    """Hears of what was done here to a worker, to tell the others."""

    def __call__(
        self,
        member: Member,
        what: Literal["add", "update", "join", "retract", "delete"],
        changes: Changes | None = None,
    ) -> None: ...


class Job(msgspec.Struct):
    """What is being done with a worker. `timestamp` in seconds since the epoch."""

    job_type: Literal["AddWorker", "RemoveWorker"]
    worker_url: str
    status: Literal["pending", "processing", "failed"]
    timestamp: int
    message: str | None = None


class Member:
    """A registered worker, and what was said of it by whoever registered it.

    `url` is echoed exactly as given. `origin`: who named it, or where it was found. `joined`: it is in
    the fleet. `job` is None when nothing is going on and nothing has failed. `targets` are what requests
    go to: the worker itself, or its data-parallel ranks (`dp_aware`), which are known once it was asked.
    """

    __slots__ = (
        "asked",
        "cost",
        "dp_aware",
        "id",
        "job",
        "joined",
        "labels",
        "model_id",
        "origin",
        "priority",
        "settled",
        "stop",
        "targets",
        "url",
        "worker",
    )

    def __init__(self, url: str, worker: Worker, origin: str, dp_aware: bool = False) -> None:
        self.id = worker_id(worker.url)
        self.url = url
        self.worker = worker
        self.dp_aware = dp_aware
        self.targets: list[Worker] = [] if dp_aware else [worker]
        self.asked = asyncio.Event()  # what has to be known of it is known
        self.came_from(origin)
        self.priority = 50
        self.cost = 1.0
        self.labels: dict[str, str] = {}
        self.model_id: str | None = None
        self.joined = False
        self.job: Job | None = None
        self.settled = asyncio.Event()  # it has joined, or will not
        self.stop: Callable[[], bool] | None = None  # the job's task

    def came_from(self, origin: str) -> None:
        self.origin = origin
        self.worker.origin = None if origin in (STATIC, API) else origin
        self.told_ranks()

    @property
    def ranks(self) -> list[Rank]:
        """None where it is a target as it is, or is not known yet to be several."""
        return [target for target in self.targets if isinstance(target, Rank)]

    @property
    def everything(self) -> list[Worker]:
        """The worker and its ranks."""
        return [self.worker, *self.ranks]

    @property
    def in_flight(self) -> int:
        """Requests of this replica, at all ranks."""
        return sum(worker.in_flight for worker in self.everything)

    def told_ranks(self) -> None:
        """Something was said of the worker, or by it: the ranks follow."""
        for rank in self.ranks:
            rank.follow()

    def take(self, changes: Changes) -> None:
        """Raises ValueError, and then nothing is changed, for a key that cannot be in a header."""
        if changes.api_key is not None:
            self.worker.use_key(changes.api_key)
        if changes.priority is not None:
            self.priority = changes.priority
        if changes.cost is not None:
            self.cost = changes.cost
        if changes.labels is not None:
            self.labels = changes.labels
        self.told_ranks()


def worker_id(url: str) -> str:
    """The same at every replica and after every restart: it is derived from the URL. Raises
    WorkerUrlError."""
    return str(uuid5(NAMESPACE_URL, identity(url)))


def target_id(member: Member, target: Worker) -> str:
    """The id of a target: of a rank its own, else the member's."""
    if target.rank is None:
        return member.id
    return str(uuid5(NAMESPACE_URL, f"{identity(target.url)}@{target.rank}"))


def tell_nobody(
    member: Member,
    what: Literal["add", "update", "join", "retract", "delete"],
    changes: Changes | None = None,
) -> None:
    """There are no others."""
