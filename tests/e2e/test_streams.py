"""Streams arrive as they are made, and their traces say what was in them."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest

from tests.fleets import Fleet, body, chat_body, post
from tests.processes import Json
from tests.raw_tcp import RawConnection

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
FLEET = {"workers": 1, "switches": ["--enable-cache-report", "--block-tokens=4"]}

EVENT = b"\n\n"


async def open_stream(
    running: Fleet, path: str, content: bytes, request_id: str
) -> tuple[RawConnection, bytes]:
    """A stream whose head and first event have arrived."""
    client = await RawConnection.connect(running.router.port)
    await client.post(path, content, f"X-Request-Id: {request_id}\r\n")
    head = await client.read_until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    return client, await client.read_until(EVENT)


def sim(content: bytes, fault: object) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(content, type=Json) | {"sim": fault})


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/generate", body(tokens=3, stream=True)),
        ("/v1/chat/completions", chat_body(tokens=3, stream=True)),
        (
            "/v1/completions",
            b'{"model": "m", "prompt": "hello", "max_tokens": 3, "stream": true}',
        ),
        ("/v1/responses", b'{"model": "m", "input": "hello", "stream": true}'),
    ],
)
async def test_the_first_event_arrives_while_the_worker_holds_back_the_second(
    shared: Fleet, path: str, content: bytes
):
    name = f"held{path.replace('/', '-')}"
    held = sim(content, {"kind": "hang_after", "after_events": 1})
    client, event = await open_stream(shared, path, held, name)
    async with client:
        assert b"data: {" in event
        assert (await shared.workers[0].state())["active"] == 1
        trace = await shared.trace(name)
        assert trace["status"] == "processing"
        assert trace["stream"] is True
        assert "completion_time" not in trace
    assert (await shared.ended(name))["status"] == "cancelled"


async def test_a_generate_stream_is_cumulative_and_its_trace_counts_it_once(shared: Fleet):
    shared_text = "the same beginning of a prompt, long enough to be held in blocks"
    await shared.generate(shared_text)
    answer = await post(
        shared.router,
        "/generate",
        body(shared_text, tokens=7, stream=True),
        request_id="cumulative",
    )
    events = [line[6:] for line in answer.body.split(b"\n") if line.startswith(b"data: {")]
    texts = [msgspec.json.decode(event)["text"] for event in events]
    assert len(texts) == 7
    assert all(later.startswith(earlier) for earlier, later in zip(texts, texts[1:], strict=False))
    meta = msgspec.json.decode(events[-1])["meta_info"]
    trace = await shared.ended("cumulative")
    assert trace["input_tokens"] == meta["prompt_tokens"] == 16
    assert trace["output_tokens"] == 7
    assert trace["cached_tokens"] == meta["cached_tokens"] == 12
    assert trace["cache_hit_rate"] == 0.75
    assert trace["cache_source"] == "engine"
    assert trace["engine_request_id"] == meta["id"]
    assert msgspec.convert(trace["engine"], Json)["finish_reason"] == "length"


async def test_a_chat_stream_with_usage_tells_tokens_and_cache_hits(shared: Fleet):
    content = chat_body("c" * 60, tokens=4, stream=True, stream_options={"include_usage": True})
    await post(shared.router, "/v1/chat/completions", content)
    await post(shared.router, "/v1/chat/completions", content, request_id="usage")
    trace = await shared.ended("usage")
    assert trace["output_tokens"] == 4
    cached = msgspec.convert(trace["cached_tokens"], int)
    total = msgspec.convert(trace["input_tokens"], int)
    assert 0 < cached < total
    assert trace["cache_hit_rate"] == pytest.approx(cached / total, abs=1e-4)


async def test_a_chat_stream_without_usage_invents_no_numbers(shared: Fleet):
    content = chat_body("without usage", stream=True)
    await post(shared.router, "/v1/chat/completions", content, request_id="no-usage")
    trace = await shared.ended("no-usage")
    assert trace["status"] == "completed"
    assert not {"input_tokens", "cached_tokens"} & set(trace)
    assert trace["cache_hit_rate"] is None or trace["cache_source"] == "predicted"


async def test_ttft_is_the_first_event_and_duration_the_last(shared: Fleet):
    content = sim(body(tokens=4, stream=True), {"kind": "drip", "after_bytes": 400, "seconds": 0.1})
    started = time.monotonic()
    await post(shared.router, "/generate", content, request_id="times")
    elapsed = time.monotonic() - started
    trace = await shared.ended("times")
    ttft = msgspec.convert(trace["ttft_seconds"], float)
    duration = msgspec.convert(trace["duration_seconds"], float)
    # The client has its last byte a moment before the router has written down that it is done.
    assert 0 < ttft < duration <= elapsed + 0.1
    assert duration - ttft >= 0.3  # the worker's pauses lie behind the first event


async def test_an_answer_that_drips_byte_by_byte_arrives_byte_by_byte(shared: Fleet):
    content = sim(body(tokens=1), {"kind": "drip", "after_bytes": 1, "seconds": 0.002})
    async with await RawConnection.connect(shared.router.port) as client:
        await client.post("/generate", content)
        await client.read_until(b"\r\n\r\n")
        assert await client.read_exactly(1) == b"{"
        assert (await shared.workers[0].state())["active"] == 1


async def test_sixty_four_paced_streams_arrive_whole_side_by_side(shared: Fleet):
    content = sim(body(tokens=20, stream=True), {"kind": "drip", "after_bytes": 500, "seconds": 0})
    answers = await asyncio.gather(
        *(
            post(shared.router, "/generate", content, request_id=f"side-{number}")
            for number in range(64)
        )
    )
    assert all(answer.body.endswith(b"data: [DONE]\n\n") for answer in answers)
    assert {answer.body.count(b'"text"') for answer in answers} == {20}
    for number in range(64):
        trace = await shared.ended(f"side-{number}")
        assert (trace["status"], trace["output_tokens"]) == ("completed", 20)


async def test_small_events_are_not_held_back_until_the_last_one_was_acknowledged(shared: Fleet):
    """With Nagle's algorithm against a delayed acknowledgement each event would wait 40 ms."""
    content = sim(body(tokens=1, stream=True), {"kind": "drip", "after_bytes": 8, "seconds": 0.001})
    async with await RawConnection.connect(shared.router.port) as client:
        await client.post("/generate", content)
        answer = await client.read_response()
    chunks = answer.raw.count(b"\r\n8\r\n")
    assert chunks > 20  # not glued together, as what waits for an acknowledgement is


async def test_a_stream_is_one_by_its_answer_where_the_request_does_not_say_true(shared: Fleet):
    """pydantic, so SGLang and vLLM, take 1 for true."""
    content = body().replace(b'"stream":false', b'"stream":1')
    answer = await post(shared.router, "/generate", content, request_id="one")
    assert b"data: [DONE]" in answer.body
    trace = await shared.ended("one")
    assert trace["stream"] is True
    assert msgspec.convert(trace["ttft_seconds"], float) > 0
