"""What HTTP asks of somebody in the middle: connections, versions, HEAD, Expect, 1xx, trailers."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import pytest

from tests.fleets import Fleet, body, chat_body, error_of, headers_of
from tests.raw_tcp import RawConnection

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
FLEET = {"workers": 1}


async def connect(running: Fleet) -> RawConnection:
    return await RawConnection.connect(running.router.port)


async def worker_connections(running: Fleet) -> set[object]:
    return {record["connection"] for record in await running.received()}


async def test_both_sides_reuse_their_connections(shared: Fleet):
    async with await connect(shared) as client:
        for _ in range(5):
            await client.post("/generate", body())
            assert (await client.read_response()).status == 200
    assert len(await worker_connections(shared)) == 1


async def test_requests_that_run_at_once_have_a_connection_each(shared: Fleet):
    answers = await asyncio.gather(*(shared.generate(f"{i}", tokens=20) for i in range(150)))
    assert {answer.status for answer in answers} == {200}


async def test_pipelined_requests_are_answered_in_order(shared: Fleet):
    async with await connect(shared) as client:
        for number in range(4):
            await client.post("/generate", body(), f"X-Request-Id: pipe-{number}\r\n")
        ids = [(await client.read_response()).header("x-request-id") for _ in range(4)]
    assert ids == [f"pipe-{number}" for number in range(4)]


async def test_pipelined_bytes_behind_a_stream_wait_until_it_has_ended(shared: Fleet):
    async with await connect(shared) as client:
        await client.post("/generate", body(stream=True, tokens=30))
        await client.post("/generate", body(), "X-Request-Id: behind\r\n")
        first = await client.read_response()
        assert first.body.endswith(b"data: [DONE]\n\n")
        assert (await client.read_response()).header("x-request-id") == "behind"


async def test_what_the_router_itself_answers_has_one_date(shared: Fleet):
    async with await connect(shared) as client:
        for path, content in (("/generate", b"no json"), ("/v1/none", b"{}"), ("/add_worker", b"")):
            await client.post(path, content)
            answer = await client.read_response()
            assert answer.status >= 400
            (date,) = [value for name, value in answer.headers if name == "date"]
            age = datetime.now(UTC) - parsedate_to_datetime(date)
            assert abs(age.total_seconds()) < 3600


async def test_connection_close_is_kept_to(shared: Fleet):
    async with await connect(shared) as client:
        await client.post("/generate", body(), "Connection: close\r\n")
        answer = await client.read_response()
        assert answer.header("connection") == "close"
        assert await client.read_to_end() == b""


async def test_a_worker_that_closes_after_each_answer_does_not_cost_the_client_its_connection(
    shared: Fleet,
):
    async with await connect(shared) as client:
        for _ in range(3):
            await client.post("/generate", body(sim="connection_close"))
            answer = await client.read_response()
            assert answer.status == 200
            assert answer.header("connection") is None
    assert len(await worker_connections(shared)) == 3


async def test_an_answer_of_an_http_10_worker_ends_as_chunks_for_the_client(shared: Fleet):
    async with await connect(shared) as client:
        await client.post("/generate", body(sim="http10"))
        answer = await client.read_response()
        assert answer.raw.startswith(b"HTTP/1.1 200 ")
        assert answer.header("transfer-encoding") == "chunked"
        assert answer.body.startswith(b'{"text":')
        await client.post("/generate", body())
        assert (await client.read_response()).status == 200


async def test_an_http_10_client_gets_a_stream_that_ends_with_the_connection(shared: Fleet):
    content = body(stream=True)
    async with await connect(shared) as client:
        await client.send(
            b"POST /generate HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(content) + content
        )
        head, _, rest = (await client.read_to_end()).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert rest.startswith(b"data: {")
    assert rest.endswith(b"data: [DONE]\n\n")


async def test_an_http_10_client_that_asks_for_it_keeps_its_connection(shared: Fleet):
    content = body()
    async with await connect(shared) as client:
        for _ in range(2):
            await client.send(
                b"POST /generate HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: %d\r\n\r\n"
                % len(content)
                + content
            )
            answer = await client.read_response()
            assert answer.status == 200
            assert answer.header("connection") == "keep-alive"


async def test_head_is_answered_without_a_body_and_the_connection_stays(shared: Fleet):
    async with await connect(shared) as client:
        await client.send(b"HEAD /v1/unheard-of HTTP/1.1\r\nHost: t\r\nX-Request-Id: head\r\n\r\n")
        answer = await client.read_response(head_only=True)
        assert answer.status == 404  # the worker's
        assert answer.header("x-smg-routed-worker-id") == shared.workers[0].url
        assert answer.header("content-length") == "22"
        await client.post("/generate", body())
        assert (await client.read_response()).status == 200
    (record,) = await shared.received("/v1/unheard-of")
    assert record["method"] == "HEAD"


async def test_expect_100_continue_is_answered_by_the_router(shared: Fleet):
    content = body()
    async with await connect(shared) as client:
        await client.send(
            b"POST /generate HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\n"
            b"Content-Length: %d\r\n\r\n" % len(content)
        )
        assert (await client.read_response()).status == 100
        await client.send(content)
        assert (await client.read_response()).status == 200
    (record,) = await shared.received()
    assert "expect" not in dict(headers_of(record))


async def test_an_expectation_for_a_body_that_is_too_large_is_refused_before_it_is_sent(
    shared: Fleet,
):
    async with await connect(shared) as client:
        await client.send(
            b"POST /generate HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\n"
            b"Content-Length: 99999999999\r\n\r\n"
        )
        answer = await client.read_response()
    assert answer.status == 413
    error_of(answer)


async def test_an_unknown_expectation_is_refused(shared: Fleet):
    async with await connect(shared) as client:
        await client.post("/generate", body(), "Expect: miracles\r\n")
        answer = await client.read_response()
    assert answer.status == 417
    assert error_of(answer)["type"] == "invalid_request_error"


async def test_interim_answers_do_not_disturb_the_answer(shared: Fleet):
    async with await connect(shared) as client:
        await client.post("/generate", body(sim="interim"))
        first = await client.read_response()
        assert first.status == 103
        assert first.header("link") == "</x>; rel=preload"
        assert (await client.read_response()).status == 200


async def test_interim_answers_are_not_for_http_10(shared: Fleet):
    content = body(sim="interim")
    async with await connect(shared) as client:
        await client.send(
            b"POST /generate HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(content) + content
        )
        assert (await client.read_response()).status == 200


async def test_trailers_reach_a_client_that_takes_them(shared: Fleet):
    async with await connect(shared) as client:
        await client.post("/generate", body(sim="trailers"), "TE: trailers\r\n")
        answer = await client.read_response()
        assert answer.raw.endswith(b"\r\n0\r\nx-sim-trailer: last\r\n\r\n")
        await client.post("/generate", body(sim="trailers"))
        assert (await client.read_response()).raw.endswith(b"\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    "head",
    [
        b"POST /generate HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: xchunked\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nHost: t\r\nContent-Length: -1\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nHost: t\r\nContent-Length : 5\r\n\r\n",
        b"NONSENSE\r\n\r\n",
    ],
)
async def test_requests_whose_end_is_in_doubt_are_refused_and_the_connection_closed(
    shared: Fleet, head: bytes
):
    async with await connect(shared) as client:
        await client.send(head + b"0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: t\r\n\r\n")
        answer = await client.read_response()
        assert answer.status == 400
        assert b'"code":"bad_http"' in answer.body
        assert await client.read_to_end() == b""
    assert await shared.received() == []


async def test_a_chat_answer_keeps_its_length_when_it_has_one(shared: Fleet):
    async with await connect(shared) as client:
        await client.post("/v1/chat/completions", chat_body())
        answer = await client.read_response()
    assert answer.header("content-length") == str(len(answer.body))
    assert answer.header("transfer-encoding") is None
