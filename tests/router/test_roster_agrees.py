"""Whatever happens to replicas and their store, all that live agree on the workers afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import fakeredis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from router.core.membership import identity
from router.member import Details, Tell, tell_nobody
from router.roster import Roster
from tracking.store import Retention, TraceStore
from tracking.view import StoreUnavailable
from tracking.worker_lists import change_worker, encode_found, read_workers
from tracking.workers import FoundWorker, WorkerChange, WorkerLists

URLS = st.sampled_from([f"http://10.0.0.{n}:30000" for n in range(3)])
ELSEWHERE = "http://10.0.1.1:30000"
WHICH = st.integers(0, 9)
LEASE_SECONDS = 3600.0  # a test lets nobody die but by leaving
T = TypeVar("T")


class Somebody:
    """Stands for a member and for its worker."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.priority: int | None = None

    @property
    def worker(self) -> Somebody:
        return self


class Workers:
    """Stands for the registry: its workers come and go at once."""

    def __init__(self) -> None:
        self.there: dict[str, Somebody] = {}
        self.tell: Tell = tell_nobody

    @property
    def expected(self) -> list[Somebody]:
        return list(self.there.values())

    async def follow(
        self, url: str, details: Details, *, static: bool, joined: bool, origin: str
    ) -> None:
        member = self.there.setdefault(identity(url), Somebody(url))
        if details.priority is not None:
            member.priority = details.priority

    def remove(self, member: Any, *, told: bool = True) -> None:
        self.there.pop(identity(member.url), None)
        if told:
            self.tell(member, "delete")


class Replica:
    """A roster, its workers, and its way to the store, which can be cut."""

    def __init__(self, client: fakeredis.FakeAsyncRedis, name: str, static: list[str]) -> None:
        self.store = TraceStore(
            client, "f", Retention(10, 60), call_timeout_seconds=5, shebang=False
        )
        self.name = name
        self.static = static
        self.found: list[FoundWorker] = []
        self.cut = False
        self.started_us = time.time_ns() // 1000
        self.known = Workers()
        for url in static:
            self.known.there[identity(url)] = Somebody(url)
        self.roster = Roster(
            self,
            self.known,  # type: ignore[arg-type]
            static,
            lambda: self.started_us,
        )

    async def workers(self) -> WorkerLists:
        self._reach()
        return await read_workers(self.store, self.name)

    async def change_worker(self, change: WorkerChange) -> None:
        self._reach()
        await change_worker(self.store, change)

    async def list_found(self, found: Sequence[FoundWorker]) -> None:
        self.found = list(found)
        if not self.cut:
            await self.beat()

    def sees_clearly(self) -> bool:
        return True

    def _reach(self) -> None:
        if self.cut:
            raise StoreUnavailable("cut")

    async def beat(self) -> None:
        age = time.time_ns() // 1000 - self.started_us
        await self.store.heartbeat(
            self.name,
            lease_seconds=LEASE_SECONDS,
            urls=[],
            static=self.static,
            age_seconds=age / 1e6,
            found=encode_found(self.found),
        )

    async def synchronise(self, others: frozenset[str]) -> None:
        """As `Sharing` does after each exchange."""
        if not self.cut:
            version = (await self.workers()).version
            await self.roster.synchronise(version, others)

    def add(self, url: str, priority: int) -> None:
        """As `Registry.add` does."""
        if identity(url) not in self.known.there:
            member = self.known.there[identity(url)] = Somebody(url)
            member.priority = priority
            self.known.tell(member, "add", Details(priority=priority))  # type: ignore[arg-type]
            self.known.tell(member, "join")  # type: ignore[arg-type]

    async def discover(self, urls: list[str]) -> None:
        """As `Discovery` does when its sources list other workers: those they list now."""
        now = time.time_ns() // 1000
        known = {worker.url: worker for worker in self.found}
        await self.roster.list_found(
            [known.get(url) or FoundWorker(url, now, "dns:workers") for url in urls]
        )

    def shown(self) -> dict[str, int | None]:
        return {key: member.priority for key, member in self.known.there.items()}


class Fleet(RuleBasedStateMachine):
    """Replicas start, leave, are cut off and reached again; the store loses its data."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.client = self.run(self.connect())
        self.replicas: list[Replica] = []
        self.count = 0

    async def connect(self) -> fakeredis.FakeAsyncRedis:
        return fakeredis.FakeAsyncRedis()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    def teardown(self) -> None:
        self.runner.close()

    def some(self, which: int) -> Replica:
        return self.replicas[which % len(self.replicas)]

    @precondition(lambda self: len(self.replicas) < 3)
    @rule(static=st.lists(URLS, unique=True, max_size=2))
    def start(self, static: list[str]) -> None:
        self.count += 1
        replica = Replica(self.client, f"r{self.count}", static)
        self.run(replica.beat())
        self.replicas.append(replica)

    @precondition(lambda self: self.replicas)
    @rule(which=WHICH)
    def leave(self, which: int) -> None:
        replica = self.some(which)
        self.replicas.remove(replica)
        self.run(replica.store.leave(replica.name))

    @precondition(lambda self: self.replicas)
    @rule(which=WHICH, url=URLS, priority=st.integers(0, 9))
    def add(self, which: int, url: str, priority: int) -> None:
        self.some(which).add(url, priority)

    @precondition(lambda self: self.replicas)
    @rule(which=WHICH, url=URLS)
    def delete(self, which: int, url: str) -> None:
        replica = self.some(which)
        if (member := replica.known.there.get(url)) is not None:
            replica.known.remove(member)

    @precondition(lambda self: self.replicas)
    @rule(which=WHICH, urls=st.lists(URLS, unique=True, max_size=2))
    def discover(self, which: int, urls: list[str]) -> None:
        self.run(self.some(which).discover(urls))

    @precondition(lambda self: self.replicas)
    @rule(which=WHICH)
    def cut(self, which: int) -> None:
        self.some(which).cut = True

    @rule()
    def lose_the_data(self) -> None:
        self.run(self.empty())

    async def empty(self) -> None:
        await self.client.flushall()

    @precondition(lambda self: self.replicas)
    @rule(which=WHICH)
    def synchronise(self, which: int) -> None:
        replica = self.some(which)
        if not replica.cut:
            self.run(replica.beat())
            self.run(replica.synchronise(self.others(replica)))

    def others(self, replica: Replica) -> frozenset[str]:
        return frozenset(other.name for other in self.replicas if other is not replica)

    @precondition(lambda self: self.replicas)
    @rule(which=WHICH, url=URLS)
    def all_agree_and_a_change_reaches_all(self, which: int, url: str) -> None:
        self.settle()
        lists = [replica.shown() for replica in self.replicas]
        assert all(shown == lists[0] for shown in lists)
        one = self.some(which)
        if url in one.shown():
            one.known.remove(one.known.there[url])
        else:
            one.add(url, 5)
        now = one.shown()
        self.settle()
        assert [replica.shown() for replica in self.replicas] == [now] * len(self.replicas)

    @precondition(lambda self: self.replicas)
    @rule(which=WHICH)
    def what_one_alone_has_discovered_comes_and_goes_with_it(self, which: int) -> None:
        self.settle()
        self.run(self.some(which).discover([ELSEWHERE]))
        self.settle()
        assert all(ELSEWHERE in replica.shown() for replica in self.replicas)
        self.run(self.some(which).discover([]))
        self.settle()
        assert not any(ELSEWHERE in replica.shown() for replica in self.replicas)

    def settle(self) -> None:
        for replica in self.replicas:
            replica.cut = False
        for _ in range(3):
            for replica in self.replicas:
                self.run(replica.beat())
            for replica in self.replicas:
                self.run(replica.synchronise(self.others(replica)))


TestFleet = Fleet.TestCase
TestFleet.settings = settings(max_examples=40, stateful_step_count=25)
