"""The life of every worker: registered, checked, used, drained, gone.

The only place that adds workers to the fleet and takes them out, for those of `--worker-urls` and
those added while running. A worker that is added joins the fleet once it is found healthy. One that
is removed gets no new requests, keeps those it has for as long as the grace period, and then
leaves. Whoever else knows of workers (policy, connections, metrics, traces) is told from here.

What is done here by a client is told to the other replicas (`tell`); what they did is done here by
`follow` and the calls with `told=False` (`router/roster.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

import msgspec

from router.caches import Caches
from router.clock import Clock
from router.core.membership import Listed
from router.core.worker import Change, Role, Worker, normalise_worker_url
from router.fleet import Fleet
from router.member import (
    API,
    STATIC,
    Changes,
    Details,
    Job,
    Member,
    Tell,
    target_id,
    tell_nobody,
    worker_id,
)
from router.metrics import Metrics
from router.names import Names
from router.new_member import RegistrySettings, new_member, new_worker
from router.targets import Targets
from router.tasks import Tasks
from router.upstream.pools import Pools
from router.upstream.prober import Prober

log = logging.getLogger("router")

POLL_SECONDS: Final = 0.05  # how late the end of a worker's last request is noticed
FAILED_KEPT_SECONDS: Final = 300.0  # how long one can ask why a worker was not added


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
        self._caches = caches
        self._clock = clock
        self.tell: Tell = tell_nobody
        self.changed: Callable[[], None] = lambda: None  # who is there, or what was said of them
        self._static_key: str | None = None
        self._members: dict[str, Member] = {}
        self._adding = asyncio.Lock()
        self._left_alone: set[str] = set()  # of roles that are none of ours
        self._tasks = Tasks()
        self._targets = Targets(
            settings.breaker,
            settings.dp_size,
            fleet=fleet,
            caches=caches,
            pools=pools,
            metrics=metrics,
            tasks=self._tasks,
        )

    # -- to ask ----------------------------------------------------------------------------

    @property
    def members(self) -> list[Member]:
        """Those in the fleet, in the order they were registered."""
        return [member for member in self._members.values() if member.joined]

    def get(self, given: str) -> Member | None:
        """By its id, or that of one of its ranks; also one that has not joined yet, or could not."""
        member = self._members.get(given)
        if member is None:
            for one in self._members.values():
                if any(target_id(one, rank) == given for rank in one.ranks):
                    return one
        return member

    def find(self, url: str) -> Member | None:
        """By URL, with or without its default port. Raises WorkerUrlError."""
        return self._members.get(worker_id(url))

    @property
    def roles(self) -> Sequence[Role]:
        """Of the workers that this router sends requests to; others are none of its business."""
        return self._fleet.roles

    @property
    def expected(self) -> list[Member]:
        """Those in the fleet, and those that are to join it."""
        return [m for m in self._members.values() if m.joined or not m.settled.is_set()]

    # -- to change -------------------------------------------------------------------------

    async def add_static(
        self, named: Sequence[tuple[Listed, str | None]], api_key: str | None
    ) -> None:
        """Workers of the configuration, each with its chosen name or None: in the fleet at once.

        Raises WorkerUrlError, and ValueError where a name is taken.
        """
        urls = [normalise_worker_url(listed.url) for listed, _ in named]
        chosen = {url: name for url, (_, name) in zip(urls, named, strict=True) if name is not None}
        node_ids = await self._names.bind_nodes(urls, chosen) if urls else []
        self._static_key = api_key
        for (given, _), url, node_id in zip(named, urls, node_ids, strict=True):
            details = Details(
                api_key=api_key, worker_type=given.role, bootstrap_port=given.bootstrap_port
            )
            worker = new_worker(url, node_id, details, self._settings)
            member = new_member(given.url, worker, STATIC, details, self._settings)
            self._members[member.id] = member
            self._join(member)

    async def add(self, url: str, details: Details | None = None) -> Member:
        """Register a worker; it joins once it is healthy, which `settled` tells.

        One that is there already stays as it is; one that is being removed is kept. Raises
        WorkerUrlError, and ValueError for a key that cannot be in a header.
        """
        details = details or Details()
        async with self._adding:
            member = self.find(url)
            if member is not None and (member.joined or not member.settled.is_set()):
                if member.worker.draining:
                    member.take(details)
                    self.tell(member, "add", self._known(member))
                    self.tell(member, "join")
                elif member.joined:
                    member.job = self._job(
                        member, "AddWorker", "failed", f"Worker {member.url} already exists"
                    )
                self._keep(member)
                return member
            member = await self._create(url, details, API)
        self.tell(member, "add", details)
        limit = self._settings.startup_timeout_seconds
        member.stop = self._tasks.spawn(self._start(member, limit), f"add {member.worker.url}")
        return member

    async def follow(
        self, url: str, details: Details, *, static: bool, joined: bool, origin: str
    ) -> None:
        """This worker exists, as another replica or a source says. Those of the configuration are
        in the fleet at once (`joined`), and so is one that any replica has found healthy; not where
        its role is none of ours. `static`: it has the key of the configuration unless it has its own.

        Raises WorkerUrlError, and ValueError for a key that cannot be in a header.
        """
        if details.worker_type not in self.roles:
            if url not in self._left_alone:
                self._left_alone.add(url)
                ours = " and ".join(self.roles)
                log.info("%s worker %s: left alone, we take %s", details.worker_type, url, ours)
            return
        async with self._adding:
            member = self.find(url)
            if member is None or (not member.joined and member.settled.is_set()):
                if static and details.api_key is None:
                    details = msgspec.structs.replace(details, api_key=self._static_key)
                member = await self._create(url, details, origin)
                if not joined:
                    member.stop = self._tasks.spawn(
                        self._start(member, None), f"add {member.worker.url}"
                    )
            else:
                member.take(details)
                member.came_from(origin)
                self._keep(member)
                self.changed()
        if joined and not member.joined:
            if member.stop is not None:
                member.stop()
            self._join(member)
            log.info("worker %s (%s) joined", member.worker.node_id, member.worker.url)

    def update(self, member: Member, changes: Changes) -> None:
        """Raises ValueError for a key that cannot be in a header."""
        member.take(changes)
        self.changed()
        self.tell(member, "update", changes)

    def remove(self, member: Member, *, told: bool = True) -> None:
        """Drain the worker, then take it out. Returns at once; an idle worker is gone then.

        `told` to the others, unless they know it.
        """
        if told:
            self.tell(member, "delete")
        if member.job is not None and member.job.job_type == "RemoveWorker":
            return
        if member.stop is not None:
            member.stop()
        if not member.joined:
            self._discard(member)
        elif member.in_flight == 0:
            self._leave(member)
            self._targets.forget(member)
        else:
            member.worker.drain()
            member.job = self._job(member, "RemoveWorker", "processing")
            member.stop = self._tasks.spawn(self._drain(member), f"remove {member.worker.url}")

    def replaced(self, member: Member, origin: str) -> None:
        """Another worker is at this URL now: `follow` it anew. One that is still busy stays, without
        what was known of its cache."""
        self.cache_lost(member.worker, f"another worker has its address, {origin}")
        if not member.in_flight:
            self.remove(member, told=False)

    def renamed(self, names: Mapping[str, str]) -> None:
        """The store knows other names for these workers, by URL."""
        changed: dict[str, str] = {}
        for member in self._members.values():
            name = names.get(member.worker.url)
            if name is not None:
                log.info("worker %s is now named %s", member.worker.url, name)
                before = {rank: rank.node_id for rank in member.ranks}
                changed[member.worker.node_id] = member.worker.node_id = name
                member.told_ranks()
                changed |= {old: rank.node_id for rank, old in before.items()}
                self._targets.renamed(member)
        self._caches.renamed(changed)

    def learned(self, worker: Worker) -> None:
        """A worker has said what it is."""
        member = self.find(worker.url)
        if member is not None and member.worker is worker:
            self._targets.learned(member, self.members)
            self.changed()

    def cache_lost(self, worker: Worker, reason: str) -> None:
        """All that a worker had cached is gone, at each of its ranks."""
        member = self.find(worker.url)
        if member is not None:
            self._targets.lost(member, reason)

    async def close(self) -> None:
        """End what is going on; workers stay as they are."""
        await self._tasks.cancel()

    # -- how -------------------------------------------------------------------------------

    async def _create(self, url: str, details: Details, origin: str) -> Member:
        whole = normalise_worker_url(url)
        # Refuse a bad key before anything is bound.
        worker = new_worker(whole, "none", details, self._settings)
        (worker.node_id,) = await self._names.bind_nodes([whole])
        member = new_member(url, worker, origin, details, self._settings)
        self._members[member.id] = member
        member.job = self._job(member, "AddWorker", "pending")
        self._prober.add(worker)
        return member

    def _known(self, member: Member) -> Details:
        key = member.worker.api_key
        return Details(
            priority=member.priority,
            cost=member.cost,
            labels=member.labels,
            model_id=member.model_id,
            dp_aware=member.dp_aware or None,
            worker_type=member.worker.role,
            bootstrap_port=member.worker.bootstrap_port,
            api_key=None if key == self._static_key else key,
            disable_health_check=not member.worker.health.enabled,
        )

    def _job(
        self,
        member: Member,
        job_type: Literal["AddWorker", "RemoveWorker"],
        status: Literal["pending", "processing", "failed"],
        message: str | None = None,
    ) -> Job:
        timestamp = self._clock.unix_us() // 1_000_000
        return Job(job_type, member.url, status, timestamp, message)

    async def _start(self, member: Member, limit: float | None) -> None:
        healthy = asyncio.Event()

        def changed(worker: Worker, _change: Change) -> None:
            if worker.healthy:
                healthy.set()

        member.worker.listeners.append(changed)
        changed(member.worker, Change("health", "", "", ""))
        try:
            async with asyncio.timeout(limit):
                await healthy.wait()
                await member.asked.wait()
        except TimeoutError:
            assert limit is not None
            self.tell(member, "retract")
            await self._give_up(member, limit)
            return
        finally:
            member.worker.listeners.remove(changed)
        self.tell(member, "join")
        self._join(member)
        log.info("worker %s (%s) added", member.worker.node_id, member.worker.url)

    def _join(self, member: Member) -> None:
        self._targets.join(member)
        member.joined = True
        member.job = None
        member.stop = None
        member.settled.set()
        self.changed()

    async def _give_up(self, member: Member, limit: float) -> None:
        worker = member.worker
        reason = "it does not say what it serves" if worker.healthy else worker.health.reason
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

    async def _drain(self, member: Member) -> None:
        worker = member.worker
        try:
            await asyncio.wait_for(self._idle(member), self._settings.removal_grace_seconds)
        except TimeoutError:
            log.warning(
                "worker %s is removed while %d requests run there", worker.node_id, member.in_flight
            )
        self._leave(member)
        await self._idle(member)  # those that still run need its connections and its counts
        self._targets.forget(member)

    async def _idle(self, member: Member) -> None:
        while member.in_flight:
            await asyncio.sleep(POLL_SECONDS)

    def _leave(self, member: Member) -> None:
        worker = member.worker
        self._targets.leave(member)
        member.joined = False
        self._discard(member)
        self.changed()
        log.info("worker %s (%s) removed", worker.node_id, worker.url)

    def _discard(self, member: Member) -> None:
        if self._members.get(member.id) is member:
            del self._members[member.id]
        self._prober.remove(member.worker)
        self._names.forget_nodes([member.worker.url])
        member.settled.set()
