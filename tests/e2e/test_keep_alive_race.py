"""Workers close idle connections; a request that meets such a moment is not lost."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from tests.fleets import body, fleet
from tests.processes import Processes
from tests.raw_tcp import RawConnection

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("seconds", [0.01, 0.03])
async def test_no_request_is_lost_when_workers_close_idle_connections_all_the_time(
    processes: Processes, seconds: float
):
    """Each client pauses for about as long as the worker keeps a connection."""
    async with fleet(processes, workers=1, flags=["--disable-retries"]) as running:
        await running.faults(f"idle_close:seconds={seconds}")
        random = Random(5)
        statuses: list[int] = []

        async def client() -> None:
            async with await RawConnection.connect(running.router.port) as connection:
                for _ in range(50):
                    await connection.post("/generate", body())
                    statuses.append((await connection.read_response()).status)
                    await asyncio.sleep(seconds * random.uniform(0.7, 1.3))

        await asyncio.gather(*(client() for _ in range(8)))
        assert statuses == [200] * 400
        received = await running.received()
        assert len(received) == 400  # each arrived once


async def test_a_connection_closed_right_after_an_answer_is_not_used_again(processes: Processes):
    async with fleet(processes, workers=1, flags=["--disable-retries"]) as running:
        await running.faults("close_silently")
        for number in range(20):
            answer = await running.generate(request_id=f"again-{number}")
            assert answer.status == 200
            trace = await running.ended(f"again-{number}")
            assert trace["status"] == "completed"
