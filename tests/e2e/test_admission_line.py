"""The line before the workers: its length, its deadline, its order, and leaving it."""

from __future__ import annotations

import asyncio

import pytest

from tests.fleets import Fleet, body, error_of, error_type, metric, post
from tests.raw_tcp import RawConnection
from tests.waiting import PATIENCE_SECONDS, POLL_SECONDS

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
FLEET = {
    "workers": 1,
    "flags": ["--max-concurrent-requests=1", "--queue-size=3", "--queue-timeout-secs=0.7"],
}


async def hold(running: Fleet) -> RawConnection:
    """A client that occupies the only place."""
    client = await RawConnection.connect(running.router.port)
    await client.post("/generate", body(sim="hang"), "X-Request-Id: holder\r\n")
    await running.reaches("holder", {"routed"})
    return client


async def waiting(running: Fleet, count: int) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await metric(running.router, "trace_router_queue_depth") != count:
            await asyncio.sleep(POLL_SECONDS)


async def test_beyond_the_line_it_is_a_429_and_at_its_deadline_a_408(shared: Fleet):
    holder = await hold(shared)
    line = [
        asyncio.create_task(shared.generate(request_id=f"line-{number}")) for number in range(3)
    ]
    await waiting(shared, 3)
    full = await shared.generate(request_id="full")
    assert full.status == 429
    assert error_of(full)["code"] == "queue_full"
    assert int(full.header("retry-after") or 0) >= 1
    trace = await shared.ended("full")
    assert (trace["status"], error_type(trace)) == ("rejected", "queue_full")

    for number, answer in enumerate(await asyncio.gather(*line)):
        assert answer.status == 408
        assert error_of(answer)["code"] == "queue_timeout"
        assert int(answer.header("retry-after") or 0) >= 1
        trace = await shared.ended(f"line-{number}")
        assert (trace["status"], error_type(trace)) == ("rejected", "queue_timeout")
        assert trace["node_id"] == "none"
    holder.close()
    assert (await shared.ended("holder"))["status"] == "cancelled"
    assert len(await shared.received()) == 1


async def test_first_come_first_served(shared: Fleet):
    holder = await hold(shared)
    line = []
    for number in range(3):
        line.append(asyncio.create_task(shared.generate(request_id=f"order-{number}")))
        await waiting(shared, number + 1)
    holder.close()
    assert [answer.status for answer in await asyncio.gather(*line)] == [200] * 3
    order = [dict(r["headers"])["X-Request-Id"] for r in await shared.received()]  # type: ignore[call-overload]
    assert order == ["holder", "order-0", "order-1", "order-2"]
    trace = await shared.ended("order-2")
    assert isinstance(trace["queue_seconds"], float)
    assert trace["queue_seconds"] > 0


async def test_who_leaves_the_line_frees_its_place_and_reaches_no_worker(shared: Fleet):
    holder = await hold(shared)
    leaver = await RawConnection.connect(shared.router.port)
    await leaver.post("/generate", body(), "X-Request-Id: leaver\r\n")
    await waiting(shared, 1)
    leaver.close()
    await waiting(shared, 0)
    trace = await shared.ended("leaver")
    assert (trace["status"], error_type(trace)) == ("cancelled", "client_gone")
    assert trace["node_id"] == "none"
    after = asyncio.create_task(shared.generate(request_id="after"))
    await waiting(shared, 1)
    holder.close()
    assert (await after).status == 200
    assert len(await shared.received()) == 2


async def test_every_place_comes_back_however_its_request_ended(shared: Fleet):
    for fault in ("cut_before_head", "cut", "status:status=400", "polite_abort", "garbage_head"):
        try:
            await post(shared.router, "/generate", body(stream=True, sim=fault))
        except EOFError:
            pass
    assert (await shared.generate()).status == 200


async def test_the_router_itself_answers_while_the_line_is_full(shared: Fleet):
    holder = await hold(shared)
    line = [asyncio.create_task(shared.generate()) for _ in range(3)]
    await waiting(shared, 3)
    for path in ("/health", "/readiness", "/v1/traces?limit=1", "/v1/traces/stats"):
        await shared.router.json(path) if "traces" in path else None
        async with await RawConnection.connect(shared.router.port) as client:
            await client.get(path)
            assert (await client.read_response()).status == 200
    holder.close()
    await asyncio.gather(*line)
