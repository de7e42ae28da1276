"""Requests run through a policy, at one or more replicas, before modelled workers.

Each replica has a policy of its own, built alike, and its own view of the workers. What it does
counts there at once; at the others, where they share, after a delay: requests in flight, queued
tokens, prefixes sent, requests finished. A balancer gives requests to replicas by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from random import Random
from typing import NamedTuple

import msgspec

from router.caches import Caches
from router.core.blocks import BOUNDARIES
from router.core.prefix_news import PrefixNews
from router.core.worker import Worker
from router.lab.model import ModelledWorker, Served, WorkerModel
from router.lab.traces import Job
from router.policies.base import Choice, NoTarget, Policy
from tracking.trace import EngineReport, Trace, rfc3339

RUN_BYTES, BLOCK_BYTES = 10, 8


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What surrounds the policy. `share_seconds` is None where replicas do not share."""

    workers: int = 8
    replicas: int = 1
    share_seconds: float | None = 0.05
    model: WorkerModel = WorkerModel()
    seed: int = 1


class Outcome(msgspec.Struct):
    """What came of it: one entry a request, in the order of arrival, and one a worker."""

    ttft_seconds: list[float]
    input_tokens: int
    cached_tokens: int
    predicted_tokens: int
    busy_seconds: list[float]
    requests: list[int]


class Replica:
    """One router: its policy and its view of the workers."""

    def __init__(self, policy: Policy, workers: int) -> None:
        self.policy = policy
        self.news = PrefixNews()
        self.caches = Caches([policy], self.news)
        self.workers = [
            Worker(f"http://worker-{number}:30000", f"worker-{number}") for number in range(workers)
        ]
        self.by_digest = {worker.digest: worker for worker in self.workers}


class Event(NamedTuple):
    """Something that happens at a time; `number` keeps equal times in order."""

    at: float
    number: int
    happen: Callable[[], None]


class Replay:
    """One run. `build(random)` makes a replica's policy."""

    def __init__(self, build: Callable[[Random], Policy], setting: Setting) -> None:
        self._setting = setting
        self._random = Random(setting.seed)
        self._replicas = [
            Replica(build(Random(self._random.getrandbits(64))), setting.workers)
            for _ in range(setting.replicas)
        ]
        self._workers = [ModelledWorker(setting.model) for _ in range(setting.workers)]
        self._events: list[Event] = []
        self._count = 0
        self._told_bytes = 0

    def run(self, jobs: Sequence[Job]) -> Outcome:
        """All jobs, which come in the order of their arrival."""
        outcome = Outcome([], 0, 0, 0, [], [])
        for job in jobs:
            self._happen_until(job.arrived)
            self._route(job, outcome)
        self._happen_until(float("inf"))
        outcome.busy_seconds = [worker.busy_seconds for worker in self._workers]
        outcome.requests = [worker.requests for worker in self._workers]
        return outcome

    def _route(self, job: Job, outcome: Outcome) -> None:
        now = job.arrived
        here = self._replicas[self._random.randrange(len(self._replicas))]
        try:
            choice = here.policy.choose(job.facts, here.workers, now)
        except NoTarget:  # traces hold no such header
            return
        worker = choice.worker
        place = here.workers.index(worker)
        served = self._workers[place].serve(job, now)
        queued = job.input_tokens - (choice.predicted_cached_tokens or 0)
        worker.start()
        worker.queue(queued)
        trace = _trace(job, choice, worker, served)
        outcome.ttft_seconds.append(served.first_token_at - now)
        outcome.input_tokens += job.input_tokens
        outcome.cached_tokens += served.cached_tokens
        outcome.predicted_tokens += choice.predicted_cached_tokens or 0

        def prefilled() -> None:
            worker.prefilled(queued)

        def ended() -> None:
            worker.release()
            here.caches.reported(
                worker,
                choice.predicted_cached_tokens,
                served.cached_tokens,
                job.input_tokens,
                choice.sent,
            )
            if here.policy.learns:
                here.policy.finished(trace, served.ended_at)

        self._at(served.first_token_at, prefilled)
        self._at(served.ended_at, ended)
        self._tell_others(here, place, job, queued, trace, served)

    def _tell_others(
        self, here: Replica, place: int, job: Job, queued: int, trace: Trace, served: Served
    ) -> None:
        delay = self._setting.share_seconds
        others = [replica for replica in self._replicas if replica is not here]
        if delay is None or not others:
            return

        def add(requests: int, tokens: int) -> None:
            for other in others:
                worker = other.workers[place]
                worker.heard(
                    worker.others_in_flight + requests, worker.others_queued_tokens + tokens
                )

        here.caches.routed(job.facts.blocks, here.workers[place])
        told = here.news.take(len(BOUNDARIES))
        self._told_bytes += RUN_BYTES * len(told) + BLOCK_BYTES * sum(len(run[1]) for run in told)
        total = self._told_bytes

        def heard_of_it() -> None:
            add(1, queued)
            for other in self._replicas:
                other.news.total_told(total)
            for other in others:
                for digest, blocks in told:
                    other.news.heard(digest, blocks)
                    other.caches.heard(other.by_digest[digest], blocks)

        def heard_of_its_end() -> None:
            add(-1, 0)
            for other in others:
                if other.policy.learns:
                    other.policy.finished(trace, served.ended_at)

        self._at(job.arrived + delay, heard_of_it)
        self._at(served.first_token_at + delay, lambda: add(0, -queued))
        self._at(served.ended_at + delay, heard_of_its_end)

    def _at(self, at: float, happen: Callable[[], None]) -> None:
        self._count += 1
        heappush(self._events, Event(at, self._count, happen))

    def _happen_until(self, now: float) -> None:
        events = self._events
        while events and events[0].at <= now:
            heappop(events).happen()


def _trace(job: Job, choice: Choice, worker: Worker, served: Served) -> Trace:
    """The trace that a router would have written of it."""
    return Trace(
        request_id="",
        node_id=worker.node_id,
        worker_url=worker.url,
        routing_policy="",
        status="completed",
        timestamp=rfc3339(int(job.arrived * 1e6)),
        cache_hit_rate=None,
        queue_size=worker.load - 1,
        prefill_tokens=worker.queued_tokens,
        predicted_cached_tokens=choice.predicted_cached_tokens,
        cached_tokens=served.cached_tokens,
        input_tokens=job.input_tokens,
        output_tokens=job.output_tokens,
        ttft_seconds=served.first_token_at - job.arrived,
        duration_seconds=served.ended_at - job.arrived,
        engine=EngineReport(e2e_latency=served.ended_at - job.arrived),
        session_id=job.facts.session_id,
    )
