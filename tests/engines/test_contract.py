"""What the router promises, kept with real engines behind it, and what each gives a trace."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple
from uuid import uuid4

import aiohttp
import msgspec
import pytest
import pytest_asyncio

from router.core.engines import engine_named
from tests.engines.real import Engine, LlamaCpp, Sglang, Vllm
from tests.processes import Json, Processes, RedisProcess, RouterProcess

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(400),  # with the engine's start
    pytest.mark.asyncio(loop_scope="module"),
]
ENGINES = [
    pytest.param(LlamaCpp, id="llama.cpp"),
    pytest.param(Vllm, id="vllm", marks=pytest.mark.engines),
    pytest.param(Sglang, id="sglang", marks=pytest.mark.engines),
]
TERMINAL = ("completed", "failed", "cancelled", "rejected", "lost")
LONG = "The router asks which worker has seen the beginning of this prompt before. " * 12


class Deployment(NamedTuple):
    """One engine, and two replicas before it."""

    engine: Engine
    routers: tuple[RouterProcess, RouterProcess]
    client: aiohttp.ClientSession


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=ENGINES)
async def here(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Deployment]:
    kind: type[Engine] = request.param
    if (reason := kind.absent()) is not None:
        pytest.skip(reason)
    async with Processes(tmp_path_factory.mktemp(kind.name)) as processes:
        redis = await processes.start(RedisProcess())
        engine = await processes.start(kind())
        routers = [
            await processes.start(
                RouterProcess([engine.url], "--drain-secs=0", redis_url=redis.url)
            )
            for _ in range(2)
        ]
        timeout = aiohttp.ClientTimeout(total=120)  # the first request makes an engine compile
        async with aiohttp.ClientSession(timeout=timeout) as client:
            warm = Deployment(engine, (routers[0], routers[1]), client)
            await ask(warm, "/v1/completions", prompt="hello", max_tokens=1)
            yield warm


class Answered(NamedTuple):
    status: int
    raw: bytes
    trace: Json

    @property
    def body(self) -> Json:
        return msgspec.json.decode(self.raw, type=Json)


async def ask(here: Deployment, path: str, **body: object) -> Answered:
    """A request to one replica, and its trace from the other."""
    name = f"contract-{uuid4()}"
    async with here.client.post(
        here.routers[0].url + path,
        json={"model": here.engine.model, **body},
        headers={"X-Request-Id": name},
    ) as response:
        raw = await response.read()
    return Answered(response.status, raw, await ended(here, name))


async def ended(here: Deployment, name: str) -> Json:
    """The trace at the replica that did not serve it, once it is terminal."""
    async with asyncio.timeout(30):
        while True:
            async with here.client.get(f"{here.routers[1].url}/v1/traces/{name}") as response:
                trace = msgspec.json.decode(await response.read(), type=Json)
            if trace.get("status") in TERMINAL:
                return trace
            await asyncio.sleep(0.05)


@asynccontextmanager
async def long_stream(
    here: Deployment, name: str, **more: object
) -> AsyncIterator[aiohttp.StreamReader]:
    """A stream of which a first event has come, and that would go on for a while."""
    body = {
        "model": here.engine.model,
        "prompt": "Once upon a time",
        "max_tokens": 1500,
        "ignore_eos": True,
        "stream": True,
        **more,
    }
    async with here.client.post(
        f"{here.routers[0].url}/v1/completions", json=body, headers={"X-Request-Id": name}
    ) as response:
        assert response.status == 200
        assert (await response.content.readline()).startswith(b"data: ")
        yield response.content


async def load(here: Deployment) -> Json:
    """The engine's own account of what it has to do."""
    (worker,) = msgspec.convert(await here.routers[0].json("/get_loads"), dict[str, list[Json]])[
        "workers"
    ]
    return worker


async def runs(here: Deployment, count: int) -> None:
    async with asyncio.timeout(10):
        while (await load(here))["running"] != count:
            await asyncio.sleep(0.05)


def usage_of(body: Json) -> tuple[int, int, int | None]:
    """Input, output and cached tokens as the engine counts them."""
    usage = msgspec.convert(body["usage"], Json)
    details = msgspec.convert(usage.get("prompt_tokens_details") or {}, dict[str, int | None])
    return (
        msgspec.convert(usage["prompt_tokens"], int),
        msgspec.convert(usage["completion_tokens"], int),
        details.get("cached_tokens"),
    )


def chat(text: str) -> list[Json]:
    return [{"role": "user", "content": text}]


# -- what it is ------------------------------------------------------------------------------------


async def test_it_is_known_by_name_version_and_model(here: Deployment) -> None:
    told = msgspec.convert(await here.routers[0].json("/workers"), Json)
    (worker,) = msgspec.convert(told["workers"], list[Json])
    assert worker["engine"] == here.engine.name
    assert worker["engine_version"]
    assert worker["model_id"] == here.engine.model
    assert worker["is_healthy"] is True


# -- answers and their traces ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": chat("What is a router?"), "max_tokens": 6}),
        ("/v1/completions", {"prompt": "A router is", "max_tokens": 6}),
    ],
)
async def test_a_whole_answer_has_its_tokens_in_the_trace(
    here: Deployment, path: str, body: Json
) -> None:
    answer = await ask(here, path, **body)
    assert answer.status == 200
    given, made, _ = usage_of(answer.body)
    trace = answer.trace
    assert trace["status"] == "completed"
    assert (trace["input_tokens"], trace["output_tokens"]) == (given, made)
    assert trace["engine_request_id"] == answer.body["id"]
    assert trace["model"] == here.engine.model
    assert msgspec.convert(trace["engine"], Json)["finish_reason"] in ("length", "stop")
    assert trace["worker_url"] == here.engine.url


async def test_a_stream_has_its_tokens_and_its_first_byte_in_the_trace(here: Deployment) -> None:
    answer = await ask(
        here,
        "/v1/chat/completions",
        messages=chat("Count to ten."),
        max_tokens=8,
        stream=True,
        stream_options={"include_usage": True},
    )
    events = [line[6:] for line in answer.raw.splitlines() if line.startswith(b"data: ")]
    assert events[-1] == b"[DONE]"
    given, made, _ = usage_of(msgspec.json.decode(events[-2], type=Json))
    trace = answer.trace
    assert trace["status"] == "completed"
    assert (trace["input_tokens"], trace["output_tokens"]) == (given, made)
    ttft = msgspec.convert(trace["ttft_seconds"], float)
    assert 0 < ttft <= msgspec.convert(trace["duration_seconds"], float)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_message_of_anthropics_api_has_all_its_input_in_the_trace(
    here: Deployment, stream: bool
) -> None:
    answer = await ask(
        here,
        "/v1/messages",
        messages=chat(f"{uuid4()} How much is counted?"),
        max_tokens=4,
        stream=stream,
    )
    assert answer.status == 200
    trace = answer.trace
    assert trace["status"] == "completed"
    assert msgspec.convert(trace["input_tokens"], int) > 20
    assert trace["output_tokens"] == 4
    assert msgspec.convert(trace["engine"], Json)["finish_reason"] == "max_tokens"
    assert trace["engine_request_id"]


async def test_a_prompt_that_comes_again_is_a_hit_by_the_engines_word(here: Deployment) -> None:
    text = f"{uuid4()} {LONG}"
    first = await ask(here, "/v1/chat/completions", messages=chat(text), max_tokens=2)
    again = await ask(here, "/v1/chat/completions", messages=chat(text), max_tokens=2)
    assert (usage_of(first.body)[2] or 0) < (usage_of(again.body)[2] or 0)
    assert again.trace["cached_tokens"] == usage_of(again.body)[2]
    assert again.trace["cache_source"] == "engine"
    assert msgspec.convert(again.trace["cache_hit_rate"], float) > 0.5


async def test_what_the_engine_refuses_is_passed_on_as_it_came(here: Deployment) -> None:
    body = {"model": here.engine.model, "messages": "not a list", "max_tokens": 2}
    async with here.client.post(f"{here.engine.url}/v1/chat/completions", json=body) as direct:
        theirs = (direct.status, await direct.read())
    answer = await ask(here, "/v1/chat/completions", **body)
    assert (answer.status, answer.raw) == theirs
    assert 400 <= answer.status < 500
    assert answer.trace["status"] == "failed"
    assert answer.trace["http_status"] == answer.status


async def test_our_request_id_is_the_engines_where_it_takes_one(here: Deployment) -> None:
    answer = await ask(here, "/v1/completions", prompt="An id", max_tokens=1)
    ours = str(answer.trace["request_id"])
    assert (ours in str(answer.body["id"])) == here.engine.takes_request_id


async def test_sglangs_own_route_tells_its_times_and_takes_an_id(here: Deployment) -> None:
    if here.engine.name != "sglang":
        pytest.skip("only SGLang has /generate")
    rid = f"mine-{uuid4()}"
    answer = await ask(here, "/generate", text=LONG, rid=rid, sampling_params={"max_new_tokens": 4})
    meta = msgspec.convert(answer.body["meta_info"], Json)
    engine = msgspec.convert(answer.trace["engine"], Json)
    assert answer.trace["engine_request_id"] == rid == meta["id"]
    assert engine["e2e_latency"] == meta["e2e_latency"]
    assert engine["queue_time"] == meta["queue_time"]
    assert engine["finish_reason"] == "length"


# -- load, and requests that are called off --------------------------------------------------------


async def test_its_load_counts_a_request_and_a_client_that_leaves_frees_it(
    here: Deployment,
) -> None:
    await runs(here, 0)
    name = f"leaves-{uuid4()}"
    async with long_stream(here, name):
        await runs(here, 1)
    await runs(here, 0)
    assert (await ended(here, name))["status"] == "cancelled"


async def test_a_request_is_called_off_by_id_at_the_replica_that_does_not_serve_it(
    here: Deployment,
) -> None:
    if not engine_named(here.engine.name).aborts:
        pytest.skip("takes no id to abort")
    name = f"aborted-{uuid4()}"
    async with long_stream(here, name, rid=name) as stream:
        await here.routers[1].json("/abort_request", method="POST", body={"rid": name})
        rest = await stream.read()
    assert b'"abort"' in rest
    trace = await ended(here, name)
    assert trace["status"] == "failed"
    assert msgspec.convert(trace["error"], Json)["type"] == "worker_abort"


async def test_a_flush_empties_its_cache_where_it_has_the_call(here: Deployment) -> None:
    text = f"{uuid4()} {LONG}"
    await ask(here, "/v1/chat/completions", messages=chat(text), max_tokens=1)
    url = f"{here.routers[0].url}/flush_cache"
    async with here.client.post(url) as response:
        told = msgspec.json.decode(await response.read(), type=Json)
    if here.engine.name != "sglang":  # vLLM has the call in its development mode only
        assert (response.status, told["status"]) == (206, "partial_success")
        return
    assert (response.status, told["workers_flushed"]) == (200, 1)
    again = await ask(here, "/v1/chat/completions", messages=chat(text), max_tokens=1)
    assert (usage_of(again.body)[2] or 0) < 10
    assert again.trace["predicted_cached_tokens"] == 0


# -- the end of the engine; last, because nothing is left of it ------------------------------------


async def test_a_stream_during_its_stop_is_complete_or_known_not_to_be(here: Deployment) -> None:
    name, rest = f"stopped-{uuid4()}", b""
    async with long_stream(here, name) as stream:
        here.engine.signal(signal.SIGTERM)
        try:
            rest = await stream.read()
        except aiohttp.ClientPayloadError:
            assert here.engine.stopped == "worker_cut"
    trace = await ended(here, name)
    if here.engine.stopped is None:  # it finishes what it has
        assert rest.endswith(b"data: [DONE]\n\n")
        assert trace["status"] == "completed"
    else:
        assert trace["status"] == "failed"
        assert msgspec.convert(trace["error"], Json)["type"] == here.engine.stopped
