"""Input that waits for its prefill is counted at its worker until the first byte comes."""

from __future__ import annotations

import asyncio

import pytest

from router.app import App
from router.policytype import PolicyType
from tests.running import Answer, call, running, sim_worker
from tests.sim.call import WorkerConfig
from tests.sim.engine import EngineConfig
from tests.waiting import until

TEXT = "word " * 200
TOKENS = 250  # four bytes each
# A prefill that can be watched, then an answer that takes a while, too.
UNHURRIED = WorkerConfig(engine=EngineConfig(prefill_base_seconds=0.2, token_seconds=0.02))


async def generate(app: App, tokens: int = 2, **more: object) -> Answer:
    body = {"text": TEXT, "sampling_params": {"max_new_tokens": tokens}, **more}
    return await call(app, "POST", "/generate", body)


async def test_a_request_is_queued_until_its_first_byte_and_what_is_cached_is_not():
    async with sim_worker(UNHURRIED) as sim, running(sim.url) as app:
        (worker,) = app.fleet.workers
        streaming = asyncio.create_task(generate(app, 20, stream=True))
        await until(lambda: worker.in_flight)
        assert worker.queued_tokens == TOKENS
        await until(lambda: not worker.queued_tokens)
        assert worker.in_flight == 1
        assert (await streaming).status == 200
        again = asyncio.create_task(generate(app))
        await until(lambda: worker.in_flight)
        assert worker.queued_tokens == 0  # the policy knows it to be cached
        assert (await again).status == 200
        assert worker.queued_tokens == 0


@pytest.mark.parametrize("fault", ["status:status=500", "cut_before_head", "hang"])
async def test_nothing_stays_queued_however_a_request_ends(fault: str):
    async with sim_worker() as sim, running(sim.url, first_byte_timeout_secs=1) as app:
        (worker,) = app.fleet.workers
        assert (await generate(app, sim=fault)).status >= 500
        await until(lambda: not worker.in_flight)
        assert worker.queued_tokens == 0


async def test_an_answer_in_one_piece_is_queued_no_longer_than_its_prefill_is_expected_to_take():
    async with (
        sim_worker(UNHURRIED) as sim,
        running(sim.url, policy=PolicyType.ExpectedTtft) as app,
    ):
        (worker,) = app.fleet.workers
        for number in range(8):  # a rate is known from eight streams
            assert (await generate(app, text=f"{number} {TEXT}", stream=True)).status == 200
        asked = asyncio.create_task(generate(app, 200, text=f"another {TEXT}"))
        await until(lambda: worker.queued_tokens)
        await until(lambda: not worker.queued_tokens)
        assert worker.in_flight == 1
        assert not asked.done()
        assert (await asked).status == 200
        assert (worker.in_flight, worker.queued_tokens) == (0, 0)
