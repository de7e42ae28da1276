"""Prefill and decode by two real SGLang workers, whose cache really moves between them (Mooncake)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import aiohttp
import msgspec
import pytest
import pytest_asyncio

from tests.engines.real import SglangLeg
from tests.processes import Json, Processes, RedisProcess, RouterProcess, free_port

pytestmark = [
    pytest.mark.engines,
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.asyncio(loop_scope="module"),
]
TERMINAL = ("completed", "failed", "cancelled", "rejected", "lost")
LONG = "The router asks which worker has seen the beginning of this prompt before. " * 30


class Pair:
    def __init__(
        self,
        prefill: SglangLeg,
        decode: SglangLeg,
        router: RouterProcess,
        client: aiohttp.ClientSession,
    ) -> None:
        self.prefill = prefill
        self.decode = decode
        self.router = router
        self.client = client

    async def ask(self, path: str, **body: object) -> tuple[int, bytes, Json]:
        """Status, answer and trace."""
        name = f"pair-{uuid4()}"
        async with self.client.post(
            self.router.url + path, json=body, headers={"X-Request-Id": name}
        ) as response:
            raw = await response.read()
        return response.status, raw, await self.ended(name)

    async def ended(self, name: str) -> Json:
        async with asyncio.timeout(10):
            while True:
                trace = msgspec.convert(await self.router.json(f"/v1/traces/{name}"), Json)
                if trace["status"] in TERMINAL:
                    return trace
                await asyncio.sleep(0.05)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    async with Processes(tmp_path_factory.mktemp("pair")) as processes:
        redis = await processes.start(RedisProcess())
        port = free_port()
        prefill, decode = await asyncio.gather(
            processes.start(SglangLeg("prefill", port)), processes.start(SglangLeg("decode", port))
        )
        router = await processes.start(
            RouterProcess(
                [],
                "--drain-secs=0",
                "--pd-disaggregation",
                *("--prefill", prefill.url, str(port)),
                *("--decode", decode.url),
                redis_url=redis.url,
            )
        )
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(timeout=timeout) as client:
            made = Pair(prefill, decode, router, client)
            await made.ask("/generate", text="hello", sampling_params={"max_new_tokens": 1})
            yield made


def both_legs(trace: Json, pair: Pair) -> list[Json]:
    """The attempts of a request that two workers served well."""
    legs = msgspec.convert(trace["attempts"], list[Json])
    told = [(leg["leg"], leg["worker_url"], leg.get("http_status")) for leg in legs]
    assert told == [("prefill", pair.prefill.url, 200), ("decode", pair.decode.url, 200)]
    return legs


async def test_a_completion_is_prefilled_by_one_and_decoded_by_the_other(pair: Pair) -> None:
    status, raw, trace = await pair.ask(
        "/v1/completions", model="tiny", prompt="Once upon a time", max_tokens=5
    )
    assert status == 200
    usage = msgspec.convert(msgspec.json.decode(raw, type=Json)["usage"], Json)
    assert trace["status"] == "completed"
    assert (trace["worker_url"], trace["prefill_worker_url"]) == (pair.decode.url, pair.prefill.url)
    assert trace["output_tokens"] == usage["completion_tokens"] == 5
    both_legs(trace, pair)


async def test_a_chat_streams_from_the_decode_worker(pair: Pair) -> None:
    status, raw, trace = await pair.ask(
        "/v1/chat/completions",
        model="tiny",
        messages=[{"role": "user", "content": "hello"}],
        max_tokens=6,
        stream=True,
        stream_options={"include_usage": True},
    )
    assert status == 200
    assert raw.endswith(b"data: [DONE]\n\n")
    assert trace["status"] == "completed"
    assert trace["output_tokens"] == 6
    both_legs(trace, pair)


async def test_a_batch_has_a_room_for_each_prompt(pair: Pair) -> None:
    status, raw, trace = await pair.ask(
        "/generate", text=["one two three", "four five"], sampling_params={"max_new_tokens": 3}
    )
    assert status == 200
    assert len(msgspec.json.decode(raw, type=list[Json])) == 2
    assert trace["output_tokens"] == 6
    both_legs(trace, pair)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_prompts_logprobs_are_those_of_the_prefill_worker(
    pair: Pair, stream: bool
) -> None:
    status, raw, _ = await pair.ask(
        "/generate",
        text="The first of these tokens has no probability",
        sampling_params={"max_new_tokens": 3},
        return_logprob=True,
        logprob_start_len=0,
        stream=stream,
    )
    assert status == 200
    if stream:
        events = [line[6:] for line in raw.splitlines() if line.startswith(b"data: {")]
        raw = events[-1]
    meta = msgspec.convert(msgspec.json.decode(raw, type=Json)["meta_info"], Json)
    told = msgspec.convert(meta["input_token_logprobs"], list[object])
    assert len(told) == meta["prompt_tokens"]


async def test_a_prompt_that_comes_again_is_known_to_be_at_the_prefill_worker(pair: Pair) -> None:
    told = [
        await pair.ask("/generate", text=LONG, sampling_params={"max_new_tokens": 2})
        for _ in range(6)
    ]
    assert {status for status, _, _ in told} == {200}
    _, _, trace = told[-1]
    assert msgspec.convert(trace["predicted_cached_tokens"], int) > 100
    assert msgspec.convert(trace["cached_tokens"], int) > 100


async def test_what_a_worker_refuses_is_passed_on(pair: Pair) -> None:
    status, raw, trace = await pair.ask("/v1/chat/completions", model="tiny", messages="no list")
    assert status == 400
    assert b"validation error" in raw
    assert trace["status"] == "failed"


async def test_a_client_that_leaves_frees_both(pair: Pair) -> None:
    name = f"leaves-{uuid4()}"
    body = {
        "text": "Once",
        "sampling_params": {"max_new_tokens": 1500, "ignore_eos": True},
        "stream": True,
    }
    async with pair.client.post(
        f"{pair.router.url}/generate", json=body, headers={"X-Request-Id": name}
    ) as response:
        assert (await response.content.readline()).startswith(b"data: ")
    assert (await pair.ended(name))["status"] == "cancelled"
    async with asyncio.timeout(10):
        while True:
            told = msgspec.convert(
                await pair.router.json("/get_loads"), dict[str, list[dict[str, object]]]
            )
            if all(worker.get("running") == 0 for worker in told["workers"]):
                break
            await asyncio.sleep(0.1)
