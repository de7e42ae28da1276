"""An outage is told in the log once, however many attempts fail in it."""

from __future__ import annotations

import asyncio
import logging

import pytest

from router.policytype import PolicyType
from tests.running import call, running, sim_worker
from tests.sim.call import WorkerConfig
from tests.sim.faults import Fault
from tests.waiting import until


async def test_a_storm_of_retries_leaves_a_line_for_each_change_and_one_for_each_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "router")
    broken = WorkerConfig(faults=(Fault(kind="cut_before_head"),))
    async with (
        sim_worker(broken) as one,
        sim_worker(broken) as two,
        running(
            one.url,
            two.url,
            cb_failure_threshold=5,
            retry_max_retries=6,
            retry_initial_backoff_ms=1,
            policy=PolicyType.RoundRobin,
        ) as app,
    ):
        caplog.clear()
        body = {"text": "hi", "sampling_params": {"max_new_tokens": 1}}
        answers = await asyncio.gather(*(call(app, "POST", "/generate", body) for _ in range(20)))
        await until(lambda: not app.forwarding.open_requests)
        lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert {answer.status for answer in answers} <= {500, 503}
    assert len([line for _, line in lines if line == "request"]) == len(answers)
    changes = sorted(line for line in lines if line[1] != "request")
    assert changes == [
        ("WARNING", f"worker {name} ({url}): breaker closed -> open, 5 failures in a row")
        for name, url in (("worker-0", one.url), ("worker-1", two.url))
    ]
