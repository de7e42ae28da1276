"""What end-to-end tests stand on: processes start, say so, hang when told, and are gone after."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import pytest

from tests.processes import (
    Process,
    Processes,
    ProcessFailed,
    RedisProcess,
    SimWorker,
    answers,
    get_json,
)
from tests.raw_tcp import RawConnection

pytestmark = pytest.mark.e2e


async def test_a_simulated_worker_serves_shows_what_it_got_and_ends_cleanly(
    processes: Processes,
):
    worker = await processes.start(SimWorker("--token-seconds=0.001"))
    answer = await get_json(f"{worker.url}/generate", method="POST", body={"text": "hi"})
    assert isinstance(answer, dict)
    assert len(answer["output_ids"]) == 16
    (record,) = await worker.requests("/generate")
    assert record["outcome"] == "finished"
    await worker.wait_free()
    assert await worker.stop() == 0


async def test_a_worker_that_refuses_can_be_brought_back(processes: Processes):
    worker = await processes.start(SimWorker())
    await worker.faults("refuse")
    with pytest.raises(ConnectionRefusedError):
        await RawConnection.connect(worker.port)
    await worker.faults()
    assert await answers(f"{worker.url}/health")


async def test_a_killed_worker_comes_back_on_its_port(processes: Processes):
    worker = await processes.start(SimWorker())
    port = worker.port
    await worker.kill()
    await processes.restart(worker)
    assert worker.port == port
    assert await answers(f"{worker.url}/health")


@pytest.mark.redis
async def test_a_paused_redis_keeps_its_connections_and_says_nothing(processes: Processes):
    redis = await processes.start(RedisProcess())
    async with await RawConnection.connect(redis.port) as connection:
        redis.pause()
        await connection.send(b"PING\r\n")
        with pytest.raises(TimeoutError):
            await connection.read_exactly(1, seconds=0.2)
        redis.resume()
        assert await connection.read_exactly(7) == b"+PONG\r\n"


class Stubborn(Process):
    """Ignores SIGTERM."""

    name = "stubborn"

    def command(self) -> Sequence[str]:
        code = "import signal as s, time; s.signal(15, s.SIG_IGN); print('up'); time.sleep(60)"
        return [sys.executable, "-c", code]

    async def is_ready(self) -> bool:
        return "up" in self.log()


async def test_a_process_that_ignores_sigterm_is_killed(processes: Processes):
    stubborn = await processes.start(Stubborn())
    assert await stubborn.stop(seconds=0.1) == -9
    with pytest.raises(ProcessLookupError):
        os.kill(stubborn.pid, 0)


async def test_a_process_that_cannot_start_says_why(processes: Processes):
    with pytest.raises(ProcessFailed, match="unrecognized arguments: --no-such-flag"):
        await processes.start(SimWorker("--no-such-flag"))
