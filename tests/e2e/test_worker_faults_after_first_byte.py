"""A worker that fails within its answer: the client never takes a part for the whole."""

from __future__ import annotations

import msgspec
import pytest
import pytest_asyncio

from tests.fleets import Fleet, attempts, body, chat_body, error_type, fleet, metric, post
from tests.processes import Json, Processes
from tests.raw_tcp import RawConnection

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
FLEET = {
    "workers": 2,
    "flags": ["--idle-timeout-secs=0.5", "--disable-circuit-breaker"],
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def error_frames(tmp_path_factory: pytest.TempPathFactory):
    directory = tmp_path_factory.mktemp("frames")
    flags = ["--sse-error-frames", "--idle-timeout-secs=0.5", "--disable-circuit-breaker"]
    async with Processes(directory) as started, fleet(started, flags=flags) as running:
        yield running


async def broken(
    running: Fleet, path: str, content: bytes, request_id: str
) -> tuple[bytes, BaseException]:
    """What arrived of an answer and how its end shows, which must be no clean one."""
    async with await RawConnection.connect(running.router.port) as client:
        await client.post(path, content, f"X-Request-Id: {request_id}\r\n")
        with pytest.raises((EOFError, ConnectionResetError)) as caught:
            await client.read_response()
        return bytes(client.received), caught.value


STREAMS = [("/generate", body), ("/v1/chat/completions", chat_body)]


@pytest.mark.parametrize("ending", ["cut", "cut:reset=1", "hang_after"])
@pytest.mark.parametrize(("path", "make"), STREAMS, ids=["generate", "chat"])
async def test_a_stream_that_its_worker_breaks_is_broken_for_the_client(
    shared: Fleet, path: str, make, ending: str
):
    fault = f"{ending}{',' if ':' in ending else ':'}after_events=3"
    name = f"broken-{make.__name__}-{ending}"
    await broken(shared, path, make(tokens=9, stream=True, sim=fault), name)
    trace = await shared.ended(name)
    assert trace["status"] == "failed"
    assert trace["http_status"] == 200
    assert error_type(trace) == ("idle_timeout" if ending == "hang_after" else "worker_cut")
    assert len(attempts(trace)) == 1
    assert len(await shared.received(path)) == 1
    if path == "/generate":  # whose events say how far they are
        assert trace["output_tokens"] == 3
        assert msgspec.convert(trace["ttft_seconds"], float) > 0


@pytest.mark.parametrize("framing", ["", ",chunked=1"], ids=["length", "chunked"])
async def test_a_json_answer_that_is_cut_is_cut_for_the_client(shared: Fleet, framing: str):
    name = f"half{framing}".replace(",", "-")
    await broken(shared, "/generate", body(sim=f"cut:after_bytes=50{framing}"), name)
    trace = await shared.ended(name)
    assert (trace["status"], error_type(trace)) == ("failed", "worker_cut")


async def test_an_http_10_client_can_tell_a_cut_stream_from_a_whole_one(shared: Fleet):
    content = body(tokens=5, stream=True, sim="cut:after_events=2")
    async with await RawConnection.connect(shared.router.port) as client:
        head = b"POST /generate HTTP/1.0\r\nX-Request-Id: old\r\nContent-Length: %d\r\n\r\n"
        await client.send(head % len(content) + content)
        with pytest.raises(ConnectionResetError):
            await client.read_to_end()
    assert error_type(await shared.ended("old")) == "worker_cut"


@pytest.mark.parametrize(("path", "make"), STREAMS, ids=["generate", "chat"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "json"])
async def test_a_polite_abort_goes_through_and_is_no_success(
    shared: Fleet, path: str, make, stream: bool
):
    name = f"abort-{make.__name__}-{stream}"
    content = make(tokens=9, stream=stream, sim="polite_abort:after_events=2")
    answer = await post(shared.router, path, content, request_id=name)
    assert answer.status == 200
    trace = await shared.ended(name)
    assert (trace["status"], error_type(trace)) == ("failed", "worker_abort")


@pytest.mark.parametrize(("path", "make"), STREAMS, ids=["generate", "chat"])
async def test_an_error_frame_of_a_worker_goes_through_and_is_no_success(
    shared: Fleet, path: str, make
):
    name = f"frame-{make.__name__}"
    content = make(tokens=9, stream=True, sim="error_frame:after_events=2")
    answer = await post(shared.router, path, content, request_id=name)
    assert b"Simulated engine error." in answer.body
    trace = await shared.ended(name)
    assert trace["status"] == "failed"
    assert error_type(trace) in ("worker_abort", "worker_status")


async def test_a_stream_that_is_slow_but_never_silent_is_not_cut(shared: Fleet):
    fault = {"kind": "drip", "after_bytes": 100, "seconds": 0.05}
    answer = await post(
        shared.router, "/generate", body(tokens=5, stream=True, sim=fault), request_id="slow"
    )
    assert answer.body.endswith(b"data: [DONE]\n\n")
    trace = await shared.ended("slow")
    assert trace["status"] == "completed"
    assert msgspec.convert(trace["duration_seconds"], float) > 0.5  # longer than the idle limit


@pytest.mark.parametrize("ending", ["cut", "hang_after"])
async def test_with_sse_error_frames_a_broken_stream_ends_with_a_frame_that_says_so(
    error_frames: Fleet, ending: str
):
    content = chat_body(tokens=9, stream=True, sim=f"{ending}:after_events=3")
    async with await RawConnection.connect(error_frames.router.port) as client:
        await client.post("/v1/chat/completions", content, f"X-Request-Id: told-{ending}\r\n")
        answer = await client.read_response()
        last = answer.body.rstrip().rsplit(b"\n", 1)[1]
        error = msgspec.json.decode(last.removeprefix(b"data: "), type=dict[str, Json])["error"]
        assert error["code"] == ("worker_stalled" if ending == "hang_after" else "worker_cut")
        assert b"[DONE]" not in answer.body
        await client.post("/generate", body())  # and the connection can be used again
        assert (await client.read_response()).status == 200
    trace = await error_frames.ended(f"told-{ending}")
    assert trace["status"] == "failed"


async def test_with_sse_error_frames_a_broken_json_answer_is_still_cut(error_frames: Fleet):
    await broken(error_frames, "/generate", body(sim="cut:after_bytes=50"), "json-cut")
    assert (await error_frames.ended("json-cut"))["status"] == "failed"


async def test_every_break_counts_against_the_worker(shared: Fleet):
    name = "smg_worker_errors_total"
    before = await metric(shared.router, name)
    await broken(shared, "/generate", body(stream=True, sim="cut"), "counted")
    await shared.ended("counted")
    assert await metric(shared.router, name) == before + 1
