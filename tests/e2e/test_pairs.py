"""Prefill and decode on separate workers, everything a process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from tests.browser import browser
from tests.fleets import Fleet, attempts, body, chat_body, error_type, post
from tests.processes import Processes, RedisProcess, RouterProcess, SimWorker
from tests.waiting import PATIENCE_SECONDS

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
SLOW = ["--prefill-base-seconds=0.5", "--token-seconds=0.01"]


@asynccontextmanager
async def pairs(
    processes: Processes, parts: tuple[str, str], *flags: str, prefills: int = 2
) -> AsyncIterator[Fleet]:
    """Two routers, of which the first is told the workers, and the second hears of them."""
    store = await processes.start(RedisProcess())
    prefill, decode = parts
    first = [
        await processes.start(SimWorker(f"--part={prefill}", "--enable-cache-report", *SLOW))
        for _ in range(prefills)
    ]
    second = await processes.start(SimWorker(f"--part={decode}", *SLOW))
    common = ["--pd-disaggregation", "--prefill-policy=round_robin", "--drain-secs=0", *flags]
    told = [f"--decode={second.url}"]
    for worker in first:
        told += ["--prefill", worker.url, str(worker.control_port)]
    routers = [
        await processes.start(RouterProcess([], *common, *told, redis_url=store.url)),
        await processes.start(RouterProcess([], *common, redis_url=store.url)),
    ]
    running = Fleet(processes, [*first, second], routers, store)
    yield running
    await running.settled()


async def test_a_router_that_was_only_told_of_the_workers_serves_and_all_see_both_legs(
    processes: Processes,
) -> None:
    async with pairs(processes, ("prefill", "decode")) as running:
        told, heard = running.routers
        shown = await heard.json("/workers")
        assert isinstance(shown, dict)
        assert shown["stats"] == {"prefill_count": 2, "decode_count": 1, "regular_count": 0}
        answer = await post(heard, "/generate", body(stream=True), request_id="one")
        assert answer.status == 200
        trace = await running.ended("one", told)
        assert (trace["status"], trace["node_id"]) == ("completed", "worker-2")
        prefill, decode = attempts(trace)
        assert (prefill["leg"], decode["leg"]) == ("prefill", "decode")
        assert prefill["node_id"] == trace["prefill_node_id"]
        found = await told.json(f"/v1/traces?prefill_node_id={trace['prefill_node_id']}")
        assert [one["request_id"] for one in found] == ["one"]  # type: ignore[attr-defined]


async def test_when_a_prefill_worker_dies_its_requests_go_to_another_pair(
    processes: Processes,
) -> None:
    async with pairs(processes, ("prefill", "decode"), "--disable-health-check") as running:
        doomed, _, decode = running.workers
        asking = [
            asyncio.create_task(post(running.router, "/generate", body(), request_id=f"r{n}"))
            for n in range(6)
        ]
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(await doomed.requests("/generate")) < 3:
                await asyncio.sleep(0.02)
        await doomed.kill()
        answers = await asyncio.gather(*asking)
        assert [answer.status for answer in answers] == [200] * 6
        traces = [await running.ended(f"r{n}") for n in range(6)]
        again = [attempts(trace) for trace in traces if len(attempts(trace)) > 2]
        assert again
        for first, stopped, *_ in again:
            assert first["worker_url"] == doomed.url
            # The decode worker may be the first to tell that the prefill is gone.
            assert error_type(first) in ("worker_cut", "connect", "worker_status")
            assert stopped["worker_url"] == decode.url
        await decode.wait_free()


async def test_vllm_workers_are_asked_one_after_the_other_and_the_page_shows_it(
    processes: Processes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    parts = ("vllm-prefill", "vllm-decode")
    async with pairs(processes, parts, "--pd-protocol=vllm", prefills=1) as running:
        chat = chat_body(stream=True)
        answer = await post(running.routers[1], "/v1/chat/completions", chat, request_id="in-order")
        assert answer.status == 200
        trace = await running.ended("in-order")
        prefill, decode = attempts(trace)
        assert str(prefill["started_at"]) < str(decode["started_at"])
        directory = tmp_path_factory.mktemp("browser")
        async with browser(processes, directory) as page:
            await page.open(f"{running.router.url}/ui#/trace/in-order")
            await page.shows("Where its time went")
            lanes = await page.texts(".waterfall .lane-name")
            assert [lane.split() for lane in lanes[1:]] == [
                ["worker-0", "prefill", "200"],
                ["worker-1", "decode", "200"],
            ]
            assert len(await page.texts("table.receipt")) == 2
            await page.shows("Why this worker for the prefill")
            assert await page.texts(".bar.prefill")
            assert page.complaints == []


async def test_workers_of_pairs_and_others_share_a_store_and_leave_each_other_alone(
    processes: Processes,
) -> None:
    async with pairs(processes, ("prefill", "decode"), prefills=1) as running:
        assert running.redis is not None
        whole = await processes.start(SimWorker())
        usual = await processes.start(
            RouterProcess([whole.url], "--drain-secs=0", redis_url=running.redis.url)
        )
        listed = await usual.json("/workers")
        assert isinstance(listed, dict)
        assert [one["url"] for one in listed["workers"]] == [whole.url]
        refused = {"url": whole.url, "worker_type": "prefill"}
        with pytest.raises(aiohttp.ClientResponseError, match="400"):
            await usual.json("/workers", method="POST", body=refused)
        await asyncio.sleep(0.3)
        for router in running.routers:
            mine = await router.json("/workers")
            assert isinstance(mine, dict)
            assert mine["stats"]["regular_count"] == 0
