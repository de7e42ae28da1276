"""The life of every worker: registered, checked, used, drained, gone.

The only place that adds workers to the fleet and takes them out, for those of `--worker-urls` and
those added while running. A worker that is added joins the fleet once it is found healthy. One that
is removed gets no new requests, keeps those it has for as long as the grace period, and then
leaves. Whoever else knows of workers (policy, connections, metrics, traces) is told from here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, Protocol
from uuid import NAMESPACE_URL, uuid5

import msgspec

from router.caches import Caches
from router.clock import Clock
from router.core.breaker import Breaker, BreakerSettings
from router.core.health import Health, HealthSettings
from router.core.worker import Change, Worker, normalise_worker_url
from router.fleet import Fleet
from router.metrics import Metrics
from router.tasks import Tasks
from router.upstream.pools import Pools
from router.upstream.prober import Prober

log = logging.getLogger("router")

POLL_SECONDS: Final = 0.05  # how late the end of a worker's last request is noticed
WORSE: Final = ("unhealthy", "open")  # states that are told as warnings
FAILED_KEPT_SECONDS: Final = 300.0  # how long one can ask why a worker was not added


class Names(Protocol):
    """Who names workers, the same at every replica. The tracker, where traces are kept."""

    async def bind_nodes(
        self, urls: Sequence[str], names: Mapping[str, str] | None = None
    ) -> list[str]: ...

    def forget_nodes(self, urls: Sequence[str]) -> None: ...


class LocalNames:
    """Names for a router that keeps no traces: worker-0, worker-1, ... unless chosen."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    async def bind_nodes(
        self, urls: Sequence[str], names: Mapping[str, str] | None = None
    ) -> list[str]:
        self._names |= names or {}
        for place, url in enumerate(urls, len([u for u in self._names if u not in urls])):
            if url not in self._names:
                taken = set(self._names.values())
                while (name := f"worker-{place}") in taken:
                    place += 1
                self._names[url] = name
        return [self._names[url] for url in urls]

    def forget_nodes(self, urls: Sequence[str]) -> None:
        for url in urls:
            self._names.pop(url, None)


class RegistrySettings(msgspec.Struct, frozen=True, kw_only=True):
    """What workers start with, and how long they may take to start and to finish."""

    health: HealthSettings
    breaker: BreakerSettings
    max_in_flight: int | None
    startup_timeout_seconds: float
    removal_grace_seconds: float


class Job(msgspec.Struct):
    """What is being done with a worker. `timestamp` in seconds since the epoch."""

    job_type: Literal["AddWorker", "RemoveWorker"]
    worker_url: str
    status: Literal["pending", "processing", "failed"]
    timestamp: int
    message: str | None = None


class Member:
    """A registered worker, and what was said of it by whoever registered it.

    `url` is echoed exactly as given. `joined`: it is in the fleet. `job` is None when nothing is
    going on and nothing has failed.
    """

    __slots__ = (
        "cost",
        "id",
        "job",
        "joined",
        "labels",
        "model_id",
        "priority",
        "settled",
        "stop",
        "url",
        "worker",
    )

    def __init__(self, url: str, worker: Worker) -> None:
        self.id = worker_id(worker.url)
        self.url = url
        self.worker = worker
        self.priority = 50
        self.cost = 1.0
        self.labels: dict[str, str] = {}
        self.model_id: str | None = None
        self.joined = False
        self.job: Job | None = None
        self.settled = asyncio.Event()  # it has joined, or will not
        self.stop: Callable[[], bool] | None = None  # the job's task


def worker_id(url: str) -> str:
    """The same at every replica and after every restart: it is derived from the (whole) URL."""
    return str(uuid5(NAMESPACE_URL, url.rstrip("/")))


class Registry:
    """See the module. One for the whole router; `close` ends what it is doing."""

    def __init__(
        self,
        settings: RegistrySettings,
        *,
        fleet: Fleet,
        names: Names,
        prober: Prober,
        pools: Pools,
        caches: Caches,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._fleet = fleet
        self._names = names
        self._prober = prober
        self._pools = pools
        self._caches = caches
        self._metrics = metrics
        self._clock = clock
        self._members: dict[str, Member] = {}
        self._adding = asyncio.Lock()
        self._tasks = Tasks()

    # -- to ask ----------------------------------------------------------------------------

    @property
    def members(self) -> list[Member]:
        """Those in the fleet, in the order they were registered."""
        return [member for member in self._members.values() if member.joined]

    def get(self, member_id: str) -> Member | None:
        """Also one that has not joined yet, or that could not."""
        return self._members.get(member_id)

    def find(self, url: str) -> Member | None:
        """By URL, with or without its default port. Raises WorkerUrlError."""
        return self._members.get(worker_id(normalise_worker_url(url)))

    # -- to change -------------------------------------------------------------------------

    async def add_static(
        self, named: Sequence[tuple[str, str | None]], api_key: str | None
    ) -> None:
        """Workers of the configuration, (URL, chosen name or None): in the fleet at once.

        Raises WorkerUrlError, and ValueError where a name is taken.
        """
        urls = [normalise_worker_url(url) for url, _ in named]
        chosen = {url: name for url, (_, name) in zip(urls, named, strict=True) if name is not None}
        node_ids = await self._names.bind_nodes(urls, chosen) if urls else []
        for (given, _), url, node_id in zip(named, urls, node_ids, strict=True):
            member = Member(given, self._worker(url, node_id, api_key, self._settings.health))
            self._members[member.id] = member
            self._join(member)

    async def add(
        self, url: str, *, api_key: str | None = None, health: HealthSettings | None = None
    ) -> Member:
        """Register a worker; it joins once it is healthy, which `settled` tells.

        One that is there already stays as it is; one that is being removed is kept. Raises
        WorkerUrlError, and ValueError for a key that cannot be in a header.
        """
        whole = normalise_worker_url(url)
        async with self._adding:
            member = self._members.get(worker_id(whole))
            if member is not None and (member.joined or not member.settled.is_set()):
                self._keep(member)
                return member
            # Refuse a bad key before anything is bound.
            worker = self._worker(whole, "none", api_key, health or self._settings.health)
            (worker.node_id,) = await self._names.bind_nodes([whole])
            member = Member(url, worker)
            self._members[member.id] = member
        member.job = self._job(member, "AddWorker", "pending")
        self._prober.add(worker)
        member.stop = self._tasks.spawn(self._start(member), f"add {whole}")
        return member

    def remove(self, member: Member) -> None:
        """Drain the worker, then take it out. Returns at once; an idle worker is gone then."""
        if member.job is not None and member.job.job_type == "RemoveWorker":
            return
        if member.stop is not None:
            member.stop()
        if not member.joined:
            self._discard(member)
        elif member.worker.in_flight == 0:
            self._leave(member)
            self._forget(member)
        else:
            member.worker.drain()
            member.job = self._job(member, "RemoveWorker", "processing")
            member.stop = self._tasks.spawn(self._drain(member), f"remove {member.worker.url}")

    def renamed(self, names: Mapping[str, str]) -> None:
        """The store knows other names for these workers, by URL."""
        changed: dict[str, str] = {}
        for member in self._members.values():
            name = names.get(member.worker.url)
            if name is not None:
                log.info("worker %s is now named %s", member.worker.url, name)
                changed[member.worker.node_id] = name
                member.worker.node_id = name
        self._caches.renamed(changed)

    async def close(self) -> None:
        """End what is going on; workers stay as they are."""
        await self._tasks.cancel()

    # -- how -------------------------------------------------------------------------------

    def _worker(
        self, url: str, node_id: str, api_key: str | None, health: HealthSettings
    ) -> Worker:
        worker = Worker(
            url,
            node_id,
            api_key=api_key,
            health=Health(health),
            breaker=Breaker(self._settings.breaker),
            max_in_flight=self._settings.max_in_flight,
        )
        worker.listeners.append(log_change)
        return worker

    def _job(
        self,
        member: Member,
        job_type: Literal["AddWorker", "RemoveWorker"],
        status: Literal["pending", "processing", "failed"],
        message: str | None = None,
    ) -> Job:
        timestamp = self._clock.unix_us() // 1_000_000
        return Job(job_type, member.url, status, timestamp, message)

    async def _start(self, member: Member) -> None:
        healthy = asyncio.Event()

        def changed(worker: Worker, _change: Change) -> None:
            if worker.healthy:
                healthy.set()

        member.worker.listeners.append(changed)
        changed(member.worker, Change("health", "", "", ""))
        limit = self._settings.startup_timeout_seconds
        try:
            await asyncio.wait_for(healthy.wait(), limit)
        except TimeoutError:
            await self._give_up(member, limit)
            return
        finally:
            member.worker.listeners.remove(changed)
        self._join(member)
        log.info("worker %s (%s) added", member.worker.node_id, member.worker.url)

    def _join(self, member: Member) -> None:
        self._fleet.add(member.worker)
        member.joined = True
        member.job = None
        member.stop = None
        member.settled.set()

    async def _give_up(self, member: Member, limit: float) -> None:
        reason = member.worker.health.reason
        message = (
            f"Health check failed for worker {member.url}: Timeout {limit:g}s waiting for worker "
            f"to become healthy ({reason})"
        )
        log.warning("worker %s was not added: %s", member.worker.url, reason)
        member.job = self._job(member, "AddWorker", "failed", message)
        self._prober.remove(member.worker)
        self._names.forget_nodes([member.worker.url])
        member.settled.set()
        await asyncio.sleep(FAILED_KEPT_SECONDS)
        if self._members.get(member.id) is member:
            del self._members[member.id]

    def _keep(self, member: Member) -> None:
        """It was to be removed, and is wanted again."""
        if member.worker.draining:
            if member.stop is not None:
                member.stop()
            member.worker.drain(False)
            member.job = None
        elif member.joined:
            member.job = self._job(
                member, "AddWorker", "failed", f"Worker {member.url} already exists"
            )

    async def _drain(self, member: Member) -> None:
        worker = member.worker
        try:
            await asyncio.wait_for(self._idle(worker), self._settings.removal_grace_seconds)
        except TimeoutError:
            log.warning(
                "worker %s is removed while %d requests run there", worker.node_id, worker.in_flight
            )
        self._leave(member)
        await self._idle(worker)  # those that still run need its connections and its counts
        self._forget(member)

    async def _idle(self, worker: Worker) -> None:
        while worker.in_flight:
            await asyncio.sleep(POLL_SECONDS)

    def _leave(self, member: Member) -> None:
        worker = member.worker
        self._fleet.remove(worker)
        self._caches.forget(worker)
        member.joined = False
        self._discard(member)
        log.info("worker %s (%s) removed", worker.node_id, worker.url)

    def _discard(self, member: Member) -> None:
        if self._members.get(member.id) is member:
            del self._members[member.id]
        self._prober.remove(member.worker)
        self._names.forget_nodes([member.worker.url])
        member.settled.set()

    def _forget(self, member: Member) -> None:
        self._pools.forget(member.worker)
        self._metrics.forget(member.worker)


def log_change(worker: Worker, change: Change) -> None:
    """A listener of every worker: one line for each change of its state."""
    log.log(
        logging.WARNING if change.after in WORSE else logging.INFO,
        "worker %s (%s): %s %s -> %s, %s",
        worker.node_id,
        worker.url,
        change.what,
        change.before,
        change.after,
        change.reason,
    )
