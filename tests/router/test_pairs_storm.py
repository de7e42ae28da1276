"""Many requests at once while workers of both kinds misbehave: nothing is left over, nothing is lost."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from router.core.disaggregation import PdProtocol
from tests.pairs import PairFleet, pairs
from tests.raw_tcp import RawConnection
from tests.running import at_rest
from tests.waiting import until
from tracking.lifecycle import TERMINAL

REQUESTS = 150
AT_ONCE = 12
PREFILL_FAULTS = (
    "status:status=500,every=7",
    "cut_before_head:every=9",
    "cut:every=11",
    "hang:every=13,seconds=0.05",
    "status:status=503,every=5",
    "drip:every=6,after_bytes=50,seconds=0.001",
)
DECODE_FAULTS = (
    "cut:every=8",
    "cut_before_head:every=11,reset=1",
    "status:status=500,every=13",
    "hang:every=17,seconds=0.05",
    "error_frame:every=9",
    "polite_abort:every=10",
)


async def ask(fleet: PairFleet, number: int, random: Random) -> None:
    stream = random.random() < 0.6
    logprobs = b',"return_logprob":true' if random.random() < 0.3 else b""
    if fleet.app.config.pd_protocol == "vllm":
        path, content = "/v1/completions", b'"prompt":"once %d","max_tokens":4' % number
    else:
        path = "/generate"
        content = b'"text":"once %d","sampling_params":{"max_new_tokens":4}%b' % (number, logprobs)
    body = b'{%b,"stream":%b}' % (content, b"true" if stream else b"false")
    client = await RawConnection.connect(fleet.app.port)
    try:
        await client.post(path, body, f"X-Request-Id: r{number}\r\n")
        if random.random() < 0.2:
            await asyncio.sleep(random.random() * 0.01)
            return  # it leaves
        await client.read_response(seconds=10)
    except (EOFError, ConnectionError):
        return  # it was cut, as it should be where an answer is not whole
    finally:
        client.close()


@pytest.mark.parametrize("protocol", ["sglang", "vllm"])
async def test_everything_that_was_held_is_given_back_and_every_trace_ends(
    protocol: PdProtocol,
) -> None:
    random = Random(5)
    settings = {"cb_failure_threshold": 1000, "first_byte_timeout_secs": 2}
    async with pairs(3, 3, protocol, **settings) as fleet:  # type: ignore[arg-type]
        for half in fleet.prefills:
            await half.fault(*PREFILL_FAULTS)
        for half in fleet.decodes:
            await half.fault(*DECODE_FAULTS)
        room = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> None:
            async with room:
                await ask(fleet, number, random)

        await asyncio.gather(*(one(number) for number in range(REQUESTS)))
        await until(lambda: at_rest(fleet.app))
        await fleet.at_rest()
        for worker in fleet.app.fleet.workers:
            assert (worker.in_flight, worker.own_queued_tokens) == (0, 0)
        assert len(fleet.records.live) == REQUESTS
        seen = set()
        for live in fleet.records.live.values():
            tries = live.attempts
            assert live.status in TERMINAL
            seen.add(live.status)
            legs = [one.leg for one in tries]
            assert legs == ["prefill", "decode"] * (len(tries) // 2)
            assert all(one.duration_seconds is not None for one in tries)
            if live.status == "completed":
                assert [one.error for one in tries[-2:]] == [None, None]
        assert seen == {"completed", "failed", "cancelled"}
