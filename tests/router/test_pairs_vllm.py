"""Prefill and decode on separate vLLM workers: one is asked after the other (`kv_transfer_params`)."""

from __future__ import annotations

import asyncio

import pytest

from tests.pairs import PairFleet, pairs
from tests.sim.call import WorkerConfig
from tests.waiting import until

CHAT = {
    "messages": [{"role": "user", "content": "once upon a time"}],
    "max_completion_tokens": 3,
    "min_tokens": 2,
    "vllm_xargs": {"a": 1},
}
STREAMED = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
REPORTS = {"vllm-prefill": WorkerConfig(cache_report=True)}
BOTH = pytest.mark.parametrize("body", [CHAT, STREAMED], ids=["json", "stream"])
PATH = "/v1/chat/completions"


def kinds(fleet: PairFleet) -> list[str | None]:
    return [None if one.error is None else one.error.type for one in fleet.attempts()]


@BOTH
async def test_the_prefill_is_for_one_token_and_the_decode_gets_the_request_and_where_the_cache_is(
    body,
):
    async with pairs(protocol="vllm") as fleet:
        answer = await fleet.post(PATH, body)
        assert answer.status == 200
        asked = fleet.prefills[0].body()
        assert asked == {
            "messages": CHAT["messages"],
            "vllm_xargs": {"a": 1},
            "max_tokens": 1,
            "max_completion_tokens": 1,
            "stream": False,
            "kv_transfer_params": {
                "do_remote_decode": True,
                "do_remote_prefill": False,
                "remote_engine_id": None,
                "remote_block_ids": None,
                "remote_host": None,
                "remote_port": None,
            },
        }
        decoded = fleet.decodes[0].body()
        params = decoded.pop("kv_transfer_params")
        assert decoded == body
        assert params["remote_engine_id"] == "engine-sim-model"  # type: ignore[index]
        for half in (fleet.prefills[0], fleet.decodes[0]):
            assert dict(half.received[0].headers)["X-Request-Id"] == "a"
        assert fleet.prefills[0].received[0].ended_at is not None
        trace = fleet.trace()
        assert (trace.status, trace.output_tokens) == (
            "completed",
            None if body is STREAMED and not trace.output_tokens else 3,
        )
        prefill, decode = fleet.attempts()
        assert (prefill.leg, decode.leg) == ("prefill", "decode")
        assert prefill.started_at <= decode.started_at


async def test_completions_are_split_too_and_generate_is_not():
    async with pairs(protocol="vllm") as fleet:
        answer = await fleet.post("/v1/completions", {"prompt": "hello", "max_tokens": 2})
        assert answer.status == 200
        assert fleet.decodes[0].body()["max_tokens"] == 2
        refused = await fleet.post("/generate", {"text": "hello"}, request_id="b")
        assert refused.status == 501


async def test_the_cache_that_counts_is_the_prefill_workers():
    async with pairs(protocol="vllm", configs=REPORTS) as fleet:  # type: ignore[arg-type]
        long = {"prompt": "word " * 200, "max_tokens": 1}
        for number in range(2):
            await fleet.post("/v1/completions", long, request_id=f"r{number}")
        assert fleet.trace("r0").cached_tokens == 0
        assert (fleet.trace("r1").cached_tokens or 0) > 100
    async with pairs(protocol="vllm") as fleet:
        await fleet.post("/v1/completions", {"prompt": "word"})
        assert fleet.trace().cached_tokens is None


async def test_where_to_fetch_from_is_not_for_clients_to_say():
    async with pairs(protocol="vllm") as fleet:
        named = {**CHAT, "kv_transfer_params": {"remote_host": "10.9.9.9"}}
        assert (await fleet.post(PATH, named)).status == 200
        assert "10.9.9.9" not in (fleet.prefills[0].received[0].body or "")
        assert "10.9.9.9" not in (fleet.decodes[0].received[0].body or "")


FAULTS = {
    "refuse": "connect",
    "cut_before_head": "worker_cut",
    "cut": "worker_cut",
    "status:status=500": "worker_status",
}


@pytest.mark.parametrize("fault", FAULTS)
@BOTH
async def test_another_prefill_worker_takes_over_before_any_decode_worker_is_asked(body, fault):
    async with pairs(prefills=2, protocol="vllm") as fleet:
        await fleet.prefills[0].fault(fault)
        assert (await fleet.post(PATH, body)).status == 200
        assert kinds(fleet) == [FAULTS[fault], FAULTS[fault], None, None]
        assert len(fleet.decodes[0].received) == 1
        assert fleet.blamed() == [fleet.prefills[0]]


@pytest.mark.parametrize("fault", ["refuse", "cut_before_head", "status:status=500"])
@BOTH
async def test_another_decode_worker_takes_over_after_a_new_prefill(body, fault):
    async with pairs(decodes=2, protocol="vllm") as fleet:
        await fleet.decodes[0].fault(fault)
        assert (await fleet.post(PATH, body)).status == 200
        assert kinds(fleet) == [None, FAULTS[fault], None, None]
        assert len(fleet.prefills[0].received) == 2
        assert fleet.blamed() == [fleet.decodes[0]]


async def test_a_prefill_that_is_refused_is_told_and_no_decode_worker_is_asked():
    async with pairs(protocol="vllm") as fleet:
        await fleet.prefills[0].fault("status:status=400")
        answer = await fleet.post(PATH, CHAT)
        assert (answer.status, answer.headers["x-smg-error-code"]) == (400, "prefill_bad_request")
        assert "Simulated failure." in answer.text
        assert fleet.decodes[0].received == []


async def test_a_decode_worker_that_breaks_in_the_middle_ends_the_request():
    async with pairs(protocol="vllm", sse_error_frames=True) as fleet:
        await fleet.decodes[0].fault("cut:after_events=2")
        await fleet.post(PATH, STREAMED)
        assert fleet.trace().status == "failed"
        assert kinds(fleet) == [None, "worker_cut"]
        assert fleet.blamed() == [fleet.decodes[0]]


@pytest.mark.parametrize("hanging", ["prefill", "decode"])
async def test_a_worker_that_does_not_answer_in_time_is_to_blame(hanging):
    async with pairs(protocol="vllm", first_byte_timeout_secs=1) as fleet:
        bad = (fleet.prefills if hanging == "prefill" else fleet.decodes)[0]
        await bad.fault("hang")
        assert (await fleet.post(PATH, CHAT)).status == 504
        assert fleet.blamed() == [bad]
        await fleet.at_rest()


@pytest.mark.parametrize("hanging", ["prefill", "decode"])
async def test_a_client_that_leaves_frees_the_worker_that_is_at_work(hanging):
    async with pairs(protocol="vllm") as fleet:
        bad = (fleet.prefills if hanging == "prefill" else fleet.decodes)[0]
        await bad.fault("hang")
        asking = asyncio.create_task(fleet.post(PATH, CHAT))
        await until(lambda: bad.received)
        asking.cancel()
        await fleet.at_rest()
        await until(lambda: fleet.records.status("a") == "cancelled")
        assert fleet.blamed() == []
