"""Replicas that share a Redis: what one has in flight and has sent where, the others know."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from router.app import App
from router.caches import DENIALS, Caches
from router.core.blocks import block_hashes
from router.core.prefix_news import PrefixNews
from router.core.worker import Worker
from router.fleet import Fleet
from router.policies import PolicyConfig, build_policy
from router.shared import RETRY_SECONDS, Sharing
from tests.processes import Processes, RedisProcess
from tests.running import Answer, Json, call, running, sim_worker
from tests.waiting import until
from tracking.sharing import Heard, OtherReplica, Told, encode_requests
from tracking.view import StoreUnavailable

TEXT = "The quick brown fox jumps over the lazy dog. " * 40


@pytest.fixture
async def processes(tmp_path) -> AsyncIterator[Processes]:
    async with Processes(tmp_path) as started:
        yield started


@pytest.fixture
async def redis(processes: Processes) -> RedisProcess:
    return await processes.start(RedisProcess())


async def generate(app: App, text: str = TEXT, request_id: str = "", **more: object) -> Answer:
    body = {"text": text, "sampling_params": {"max_new_tokens": 2}, **more}
    headers = {"X-Request-Id": request_id} if request_id else {}
    return await call(app, "POST", "/generate", body, headers=headers)


async def trace(app: App, request_id: str) -> Json:
    return (await call(app, "GET", f"/v1/traces/{request_id}")).json


def replica(redis: RedisProcess, *urls: str, **more: object):
    return running(*urls, enable_request_tracking=True, redis_url=redis.url, **more)


def at(app: App, url: str) -> Worker:
    worker = app.fleet.by_url(url)
    assert worker is not None
    return worker


@pytest.mark.redis
async def test_a_request_at_one_replica_is_load_at_the_other_and_goes_when_it_ends(
    redis: RedisProcess,
):
    async with (
        sim_worker() as sim,
        replica(redis, sim.url) as a,
        replica(redis, sim.url) as b,
    ):
        held = asyncio.create_task(generate(a, sim="hang"))
        worker = at(b, sim.url)
        await until(lambda: worker.load == 1)
        assert (worker.in_flight, worker.queued_tokens) == (0, len(TEXT) // 4)
        assert (await call(b, "GET", "/workers")).json["workers"][0]["load"] == 1  # type: ignore[index]
        await generate(b, request_id="second")
        receipt = await trace(b, "second")
        assert receipt["queue_size"] == 1
        decision = receipt["decision"]
        assert isinstance(decision, dict)
        assert decision["quality"] == "exact"
        assert 0 < decision["load_age_seconds"] < 0.5
        held.cancel()
        await until(lambda: worker.load == 0)
        assert worker.queued_tokens == 0


@pytest.mark.redis
async def test_a_prompt_sent_to_a_worker_by_one_replica_is_known_to_all_and_to_those_that_come(
    redis: RedisProcess,
):
    async with sim_worker() as one, sim_worker() as two:
        urls = (one.url, two.url)
        async with replica(redis, *urls) as a, replica(redis, *reversed(urls)) as b:
            blocks = block_hashes(TEXT.encode())
            await generate(a, request_id="first")
            home = (await trace(a, "first"))["node_id"]
            assert b.forwarding.group.policy.prefixes is not None
            known = b.forwarding.group.policy.prefixes
            await until(lambda: known.match(blocks) == {home: len(blocks)})
            await generate(b, request_id="again")
            again = await trace(b, "again")
            assert (again["node_id"], again["cache_hit_rate"]) == (home, again["cache_hit_rate"])
            assert again["predicted_cached_tokens"] == len(TEXT) // 4
            async with replica(redis, *urls) as late:
                assert late.forwarding.group.policy.prefixes is not None
                assert late.forwarding.group.policy.prefixes.match(blocks) == {home: len(blocks)}
            flushed = await call(b, "POST", "/flush_cache")
            assert flushed.status == 200
            assert a.forwarding.group.policy.prefixes is not None
            own = a.forwarding.group.policy.prefixes
            await until(lambda: own.match(blocks) == {})


@pytest.mark.redis
@pytest.mark.parametrize("hangs", [False, True], ids=["gone", "hanging"])
async def test_while_redis_is_away_each_decides_on_what_it_last_knew_and_says_so(
    processes: Processes, redis: RedisProcess, hangs: bool
):
    async with (
        sim_worker() as sim,
        replica(redis, sim.url) as a,
        replica(redis, sim.url) as b,
    ):
        held = asyncio.create_task(generate(a, sim="hang"))
        worker = at(b, sim.url)
        await until(lambda: worker.load == 1)
        if hangs:
            redis.pause()
        else:
            await redis.kill()
        await until(lambda: b.fleet.others.quality(b.clock.now()) == "degraded")
        assert worker.load == 1  # not zero at once
        assert (await generate(b)).status == 200
        held.cancel()
        if hangs:
            redis.resume()
        else:
            await processes.restart(redis)
        await until(lambda: b.fleet.others.quality(b.clock.now()) == "exact", 10)
        await until(lambda: worker.load == 0)
        held = asyncio.create_task(generate(b, sim="hang"))
        await until(lambda: at(a, sim.url).load == 1)
        held.cancel()
        await until(lambda: at(a, sim.url).load == 0)


async def test_without_a_common_store_a_router_is_alone_and_exact():
    async with sim_worker() as sim, running(sim.url, enable_request_tracking=True) as app:
        assert app.sharing is None
        assert (await generate(app, request_id="only")).status == 200
        decision = (await trace(app, "only"))["decision"]
        assert isinstance(decision, dict)
        assert (decision["quality"], decision["load_age_seconds"]) == ("exact", 0.0)


# -- one replica, and a store that says what the test wants ----------------------------------------


class Store:
    """Records what it was told; answers what the test wants."""

    def __init__(self) -> None:
        self.told: list[Told] = []
        self.others: list[OtherReplica] = []
        self.prefixes: list[bytes] = []
        self.away = False
        self.known = True

    async def __call__(self, told: Told) -> Heard:
        if self.away:
            raise StoreUnavailable("away")
        self.told.append(told)
        heard, self.prefixes = self.prefixes, []
        return Heard(
            now_us=len(self.told),
            known=self.known,
            workers_version=0,
            total=0,
            position=0,
            more=False,
            others=self.others,
            prefixes=heard,
        )


class Alone:
    """A sharing replica with one worker."""

    def __init__(self) -> None:
        from random import Random

        self.worker = Worker("http://10.0.0.1:30000", "worker-0")
        self.fleet = Fleet([self.worker])
        self.policy = build_policy("cache_aware", PolicyConfig(), Random(1))
        self.caches = Caches([self.policy], PrefixNews())
        self.store = Store()
        self.now = 100.0
        self.clear = True
        self.sharing = Sharing(
            self.store,
            self.fleet,
            self.caches,
            self.no_workers,
            lambda: self.now,
            sees_clearly=lambda: self.clear,
        )

    async def no_workers(self, version: int, others: frozenset[str]) -> None:
        """The lists of workers have tests of their own."""


@pytest.fixture
def alone() -> Alone:
    return Alone()


async def test_what_has_not_changed_is_told_once(alone: Alone):
    for _ in range(3):
        await alone.sharing.share()
    alone.worker.start()
    await alone.sharing.share()
    empty, one = encode_requests({}), encode_requests({alone.worker.digest: (1, 0)})
    assert [told.requests for told in alone.store.told] == [empty, None, None, one]
    assert [told.since_us for told in alone.store.told] == [0, 1, 2, 3]


async def test_what_was_not_heard_is_told_again(alone: Alone):
    alone.worker.start()
    alone.caches.routed([1, 2], alone.worker)
    alone.store.away = True
    assert not await alone.sharing.share()
    alone.store.away, alone.store.known = False, False
    await alone.sharing.share()
    alone.store.known = True
    await alone.sharing.share()
    first, second = alone.store.told
    assert first.requests == second.requests is not None
    assert (len(first.prefixes), second.prefixes) == (1 + 10 + 16, b"")


async def test_others_requests_fade_while_the_store_is_away(alone: Alone):
    others = encode_requests({alone.worker.digest: (10, 1000), 5: (1, 1)})
    alone.store.others = [OtherReplica("b", 0, others)]
    await alone.sharing.share()
    assert (alone.worker.load, alone.worker.queued_tokens) == (10, 1000)
    alone.store.others = [OtherReplica("b", 50_000, None)]
    await alone.sharing.share()
    assert alone.worker.load == 10
    assert round(alone.fleet.others.age_seconds(alone.now), 3) == 0.05
    alone.store.away = True
    loads = []
    for _ in range(40):
        alone.now += 1.0
        await alone.sharing.share()
        loads.append(alone.worker.load)
    assert loads == sorted(loads, reverse=True)
    assert (loads[0], loads[1], loads[-1]) == (10, 10, 0)
    assert 0 < loads[15] < 10


async def test_others_are_not_gone_because_a_store_that_comes_back_has_not_seen_them_yet(
    alone: Alone,
):
    others = encode_requests({alone.worker.digest: (10, 1000)})
    alone.store.others = [OtherReplica("b", 0, others)]
    await alone.sharing.share()
    alone.clear, alone.store.others = False, []
    alone.now += 1.0
    await alone.sharing.share()
    assert alone.worker.load == 10
    assert alone.fleet.others.quality(alone.now) == "degraded"
    alone.clear = True
    await alone.sharing.share()
    assert alone.worker.load == 0
    assert alone.fleet.others.quality(alone.now) == "exact"


async def test_a_replica_of_whom_nothing_is_remembered_is_asked_for_all(alone: Alone):
    alone.store.others = [OtherReplica("b", 0, None)]
    await alone.sharing.share()
    await alone.sharing.share()
    assert [told.since_us for told in alone.store.told] == [0, 0]
    assert alone.fleet.others.replicas == 0


async def test_a_task_that_shares_survives_a_store_that_comes_and_goes(alone: Alone):
    alone.store.away = True
    task = asyncio.create_task(alone.sharing.run())
    await asyncio.sleep(0)
    alone.store.away = False
    started = time.monotonic()
    await until(lambda: alone.store.told)
    assert time.monotonic() - started >= RETRY_SECONDS / 2
    task.cancel()


def test_a_cache_that_denies_all_that_was_expected_is_taken_for_lost(alone: Alone):
    assert alone.policy.prefixes is not None
    alone.policy.prefixes.insert([1, 2], "worker-0")
    for _ in range(DENIALS - 1):
        alone.caches.reported(alone.worker, 1000, 0)
    alone.caches.reported(alone.worker, 1000, 600)  # a part of it was there: merely evicted
    alone.caches.reported(alone.worker, 100, 0)  # too little to say anything
    alone.caches.reported(alone.worker, None, 0)
    for _ in range(DENIALS - 1):
        alone.caches.reported(alone.worker, 1000, 50)
    assert alone.policy.prefixes.match([1, 2]) == {"worker-0": 2}
    alone.caches.reported(alone.worker, 1000, 0)
    assert alone.policy.prefixes.match([1, 2]) == {}
    assert alone.caches.news is not None
    assert alone.caches.news.take(10) == [(alone.worker.digest, ())]
