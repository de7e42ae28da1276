"""A worker that does not say what it had cached is pointed out, once, with the flag that helps."""

from __future__ import annotations

import pytest

from router.caches import SILENT_ANSWERS, Caches
from router.core.blocks import block_hashes
from router.core.worker import Worker
from tests.running import call, running, sim_worker
from tests.sim.call import WorkerConfig
from tests.waiting import until

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    messages = [record.getMessage() for record in caplog.records]
    return [message for message in messages if "reports no cached tokens" in message]


async def test_an_engine_that_never_reports_its_cache_is_named_with_its_flag(caplog) -> None:
    async with sim_worker(WorkerConfig(cache_report=False)) as worker, running(worker.url) as app:
        await until(lambda: app.fleet.workers[0].engine)
        for _ in range(SILENT_ANSWERS + 5):
            await call(app, "POST", "/v1/chat/completions", CHAT)
    assert told(caplog) == [
        f"worker worker-0 ({worker.url}) reports no cached tokens: its cache hits are guessed; "
        "start sglang with --enable-cache-report"
    ]


def test_one_that_reports_on_some_routes_is_left_alone(caplog) -> None:
    caches, worker = Caches([]), Worker("http://127.0.0.1:1", "worker-0")
    caches.reported(worker, None, 0)
    for _ in range(2 * SILENT_ANSWERS):
        caches.unreported(worker)
    assert told(caplog) == []


def test_a_worker_that_was_replaced_is_judged_anew(caplog) -> None:
    caches, worker = Caches([]), Worker("http://127.0.0.1:1", "worker-0")
    for _ in range(2):
        for _ in range(SILENT_ANSWERS):
            caches.unreported(worker)
        caches.forget(worker)
    assert len(told(caplog)) == 2
    assert "start" not in told(caplog)[0]  # nobody knows this engine's flags


@pytest.mark.parametrize("fault", ["status:status=500", "cut_before_head"])
async def test_a_prompt_that_failed_before_its_prefill_is_not_believed_to_be_cached(fault) -> None:
    async with sim_worker() as sim, running(sim.url, disable_retries=True) as app:
        known = app.policies.default.prefixes
        assert known is not None
        text = "".join(f"sentence {number}. " for number in range(2000))
        blocks = block_hashes(text.encode())
        body = {"text": text, "sampling_params": {"max_new_tokens": 1}}
        assert (await call(app, "POST", "/generate", body | {"sim": fault})).status >= 500
        assert known.match(blocks).get("worker-0", 0) < len(blocks) / 2
        assert (await call(app, "POST", "/generate", body)).status == 200
        assert (await call(app, "POST", "/generate", body | {"sim": fault})).status >= 500
        assert known.match(blocks) == {"worker-0": len(blocks)}


async def test_the_size_of_what_is_believed_is_shown_and_bounded() -> None:
    bound = 100_000
    async with sim_worker() as sim, running(sim.url, max_tree_size=bound) as app:
        sizes = []
        for number in range(12):
            body = {"text": f"{number} " * 20_000, "sampling_params": {"max_new_tokens": 1}}
            assert (await call(app, "POST", "/generate", body)).status == 200
            lines = (await call(app, "GET", "/metrics")).body.decode().splitlines()
            shown = dict(line.split() for line in lines if line.startswith("trace_router_prefix_"))
            sizes.append(float(shown["trace_router_prefix_index_bytes"]))
            assert float(shown["trace_router_prefix_index_blocks"]) > 0
        assert 0 < sizes[0] < max(sizes) <= bound
