"""Breaker and health: a worker that fails is left alone, and taken again once it is well."""

from __future__ import annotations

import asyncio

import pytest

from tests.fleets import Fleet, body, error_of, error_type, fleet, metric
from tests.processes import Processes, SimWorker
from tests.raw_tcp import RawConnection
from tests.waiting import PATIENCE_SECONDS, POLL_SECONDS

pytestmark = pytest.mark.e2e


async def until(running: Fleet, name: str, value: float, worker: SimWorker) -> None:
    """Until the gauge of this worker has this value."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await metric(running.router, name, worker=worker.url) != value:
            await asyncio.sleep(POLL_SECONDS)


async def let_through(running: Fleet) -> int:
    """The status of the first request that an open breaker does not keep from its worker."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (answer := await running.generate()).status == 503:
            await asyncio.sleep(POLL_SECONDS)
    return answer.status


async def test_a_breaker_opens_lets_a_probe_through_and_closes(processes: Processes):
    flags = [
        *("--cb-failure-threshold=3", "--cb-success-threshold=2", "--cb-timeout-duration-secs=2"),
        *("--disable-retries", "--health-check-interval-secs=3600"),
    ]
    async with fleet(processes, workers=1, flags=flags) as running:
        (worker,) = running.workers
        await worker.faults("status:status=500")
        for _ in range(3):
            assert (await running.generate()).status == 500
        assert await metric(running.router, "smg_worker_cb_state") == 1
        answer = await running.generate(request_id="open")
        assert answer.status == 503
        assert error_of(answer)["code"] == "no_available_workers"
        trace = await running.ended("open")
        assert (trace["status"], error_type(trace)) == ("rejected", "no_worker")
        assert trace["node_id"] == "none"
        assert len(await running.received()) == 3

        assert await let_through(running) == 500  # the probe fails: open again
        assert (await running.generate()).status == 503

        await worker.faults()
        assert await let_through(running) == 200
        assert await metric(running.router, "smg_worker_cb_state") == 2
        assert (await running.generate()).status == 200
        assert await metric(running.router, "smg_worker_cb_state") == 0


async def test_a_probe_whose_client_leaves_is_given_back(processes: Processes):
    flags = ["--cb-failure-threshold=1", "--cb-success-threshold=1", "--cb-timeout-duration-secs=1"]
    async with fleet(processes, workers=1, flags=[*flags, "--disable-retries"]) as running:
        (worker,) = running.workers
        await worker.faults("status:status=500")
        assert (await running.generate()).status == 500
        await worker.faults("hang")
        await asyncio.sleep(1.1)
        async with await RawConnection.connect(running.router.port) as client:
            await client.post("/generate", body(), "X-Request-Id: probe\r\n")
            await running.reaches("probe", {"routed"})
        assert (await running.ended("probe"))["status"] == "cancelled"
        await worker.faults()
        assert (await running.generate()).status == 200


async def test_statuses_of_the_clients_own_making_never_open_a_breaker(processes: Processes):
    async with fleet(processes, workers=1, flags=["--cb-failure-threshold=2"]) as running:
        await running.workers[0].faults("status:status=400")
        for _ in range(4):
            assert (await running.generate()).status == 400
        await running.workers[0].faults()
        assert (await running.generate()).status == 200


async def test_an_unhealthy_worker_leaves_and_returns(processes: Processes):
    flags = [
        *("--health-check-interval-secs=0.2", "--health-failure-threshold=2"),
        *("--health-success-threshold=2", "--policy=round_robin"),
    ]
    async with fleet(processes, workers=2, flags=flags) as running:
        sick, well = running.workers
        await sick.faults({"kind": "status", "status": 503, "paths": ["/health"]})
        await until(running, "smg_worker_health", 0, sick)
        await sick.forget_requests()
        for _ in range(6):
            assert (await running.generate()).header("x-smg-routed-worker-id") == well.url
        assert await sick.requests("/generate") == []
        await sick.faults()
        await until(running, "smg_worker_health", 1, sick)
        chosen = {(await running.generate()).header("x-smg-routed-worker-id") for _ in range(4)}
        assert chosen == {sick.url, well.url}


async def test_a_worker_killed_under_load_costs_no_request_that_had_no_answer_yet(
    processes: Processes,
):
    flags = ["--health-check-interval-secs=0.5", "--policy=round_robin"]
    async with fleet(processes, workers=2, flags=flags) as running:
        victim, other = running.workers
        statuses: list[int] = []

        async def client(number: int) -> None:
            for turn in range(25):
                answer = await running.generate(f"{number} {turn}", tokens=4)
                statuses.append(answer.status)

        clients = asyncio.gather(*(client(number) for number in range(8)))
        await asyncio.sleep(0.1)
        await victim.kill()
        await clients
        assert statuses == [200] * 200
        await processes.restart(victim)
        await until(running, "smg_worker_health", 1, victim)
        chosen = {(await running.generate()).header("x-smg-routed-worker-id") for _ in range(4)}
        assert chosen == {victim.url, other.url}


async def test_a_worker_that_hangs_as_a_whole_is_left_alone(processes: Processes):
    flags = [
        *("--health-check-interval-secs=0.2", "--health-check-timeout-secs=0.3"),
        *("--health-failure-threshold=2", "--health-success-threshold=1", "--policy=round_robin"),
    ]
    async with fleet(processes, workers=2, flags=flags) as running:
        hung, well = running.workers
        hung.pause()
        await until(running, "smg_worker_health", 0, hung)
        for _ in range(4):
            assert (await running.generate()).header("x-smg-routed-worker-id") == well.url
        hung.resume()
        await until(running, "smg_worker_health", 1, hung)


async def test_a_worker_that_hangs_under_load_fails_only_what_it_held(processes: Processes):
    flags = [
        *("--health-check-interval-secs=0.2", "--health-check-timeout-secs=0.3"),
        *("--health-failure-threshold=2", "--health-success-threshold=1", "--policy=round_robin"),
        "--first-byte-timeout-secs=1",
    ]
    async with fleet(processes, workers=2, flags=flags) as running:
        hung, well = running.workers
        answers: list[tuple[int, str]] = []

        async def client(number: int) -> None:
            for turn in range(25):
                request_id = f"{number}-{turn}"
                answer = await running.generate(request_id, tokens=4, request_id=request_id)
                answers.append((answer.status, request_id))

        clients = asyncio.gather(*(client(number) for number in range(8)))
        while len(answers) < 16:  # in the middle of it, however fast this machine is
            await asyncio.sleep(0)
        hung.pause()
        await clients
        failed = [request_id for status, request_id in answers if status != 200]
        assert {status for status, _ in answers} <= {200, 504}
        assert len(answers) == 200
        assert len(failed) <= 8  # one of each client's: then it is known to hang
        for request_id in failed:
            trace = await running.ended(request_id)
            assert (trace["status"], error_type(trace)) == ("failed", "first_byte_timeout")
            assert trace["worker_url"] == hung.url
        assert (await running.generate()).header("x-smg-routed-worker-id") == well.url
        hung.resume()
        await until(running, "smg_worker_health", 1, hung)


async def test_without_any_worker_left_it_is_a_503_at_once(processes: Processes):
    flags = ["--health-check-interval-secs=0.2", "--health-failure-threshold=1"]
    async with fleet(processes, workers=2, flags=flags) as running:
        await running.faults("refuse")
        for worker in running.workers:
            await until(running, "smg_worker_health", 0, worker)
        answer = await running.generate(request_id="none")
        assert answer.status == 503
        assert error_of(answer)["code"] == "no_available_workers"
        trace = await running.ended("none")
        assert (trace["status"], error_type(trace)) == ("rejected", "no_worker")
        assert (trace["node_id"], trace["worker_url"]) == ("none", "none:0")
