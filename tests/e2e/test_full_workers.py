"""`--max-requests-per-worker`: where all workers are full, the next request waits for a place."""

from __future__ import annotations

import asyncio

import pytest

from tests.fleets import Fleet, body, error_of, metric
from tests.raw_tcp import RawConnection
from tests.waiting import PATIENCE_SECONDS, POLL_SECONDS

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
FLEET = {
    "workers": 2,
    "flags": ["--max-requests-per-worker=1", "--queue-size=2", "--queue-timeout-secs=5"],
}


async def waiting(running: Fleet, count: int) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await metric(running.router, "trace_router_queue_depth") != count:
            await asyncio.sleep(POLL_SECONDS)


async def hold_all(running: Fleet) -> list[RawConnection]:
    """A client at each worker."""
    clients = []
    for number in range(2):
        client = await RawConnection.connect(running.router.port)
        await client.post("/generate", body(sim="hang"), f"X-Request-Id: hold-{number}\r\n")
        clients.append(client)
        await running.reaches(f"hold-{number}", {"routed"})
    nodes = {(await running.trace(f"hold-{number}"))["node_id"] for number in range(2)}
    assert nodes == {"worker-0", "worker-1"}
    return clients


async def test_the_next_waits_and_goes_where_a_place_becomes_free(shared: Fleet):
    clients = await hold_all(shared)
    node = (await shared.trace("hold-1"))["node_id"]
    line = [asyncio.create_task(shared.generate(request_id=f"next-{n}")) for n in range(2)]
    await waiting(shared, 2)
    refused = await shared.generate()
    assert (refused.status, error_of(refused)["code"]) == (429, "queue_full")
    clients[1].close()
    assert [answer.status for answer in await asyncio.gather(*line)] == [200, 200]
    for number in range(2):
        assert (await shared.ended(f"next-{number}"))["node_id"] == node
    clients[0].close()
