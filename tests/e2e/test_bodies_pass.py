"""Bodies go through byte for byte, whatever is in them and however they are framed."""

from __future__ import annotations

import hashlib
import random
import re

import msgspec
import pytest

from tests.fleets import Fleet, body, chat_body, error_of, error_type, headers_of, post
from tests.raw_tcp import RawConnection

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
FLEET = {"workers": 1, "flags": ["--max-payload-size=6000000"]}

ROUTES = {
    "/generate": {"text": "hello"},
    "/v1/chat/completions": {"model": "m", "messages": [{"role": "user", "content": "hello"}]},
    "/v1/completions": {"model": "m", "prompt": "hello"},
    "/v1/responses": {"model": "m", "input": "hello"},
    "/v1/embeddings": {"model": "m", "input": "hello"},
    "/embed": {"model": "m", "input": "hello"},
    "/encode": {"text": "hello"},
    "/classify": {"text": "hello"},
    "/v1/classify": {"model": "m", "input": "hello"},
    "/rerank": {"query": "a", "documents": ["b", "c"]},
    "/v1/rerank": {"query": "a", "documents": ["b", "c"]},
    "/score": {"query": "a", "items": ["b"], "label_token_ids": [1]},
    "/v1/score": {"query": "a", "items": ["b"], "label_token_ids": [1]},
    "/tokenize": {"prompt": "hello"},
    "/v1/tokenize": {"prompt": "hello"},
    "/detokenize": {"tokens": [1, 2]},
    "/v1/detokenize": {"tokens": [1, 2]},
}


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("route", ROUTES)
async def test_an_inference_route_is_forwarded_with_its_body_untouched_and_traced(
    shared: Fleet, route: str
):
    # Unknown fields, odd spacing and a number no double holds: what re-encoding would change.
    fields = msgspec.json.encode(ROUTES[route])
    content = (
        b' {"unknown" :\t{"n": 12345678901234567890123, "u": "\\u00e9"} ,' + fields[1:] + b"\n"
    )
    (worker,) = shared.workers
    name = f"body{route.replace('/', '-')}"
    answer = await post(shared.router, route, content, request_id=name)
    (record,) = await worker.requests(route)
    assert record["body_sha256"] == sha(content)
    assert record["target"] == route
    assert answer.status == record["status"] == 200
    trace = await shared.ended(name)
    assert trace["status"] == "completed"
    assert trace["route"] == route
    assert trace["http_status"] == 200


async def test_query_strings_go_on_as_sent(shared: Fleet):
    await post(shared.router, "/generate?a=%41&b=c%20d&a=2", body())
    (record,) = await shared.received()
    assert record["target"] == "/generate?a=%41&b=c%20d&a=2"


async def test_a_body_of_five_megabytes_arrives_whole(shared: Fleet):
    content = body("x" * 5_000_000)
    answer = await post(shared.router, "/generate", content)
    assert answer.status == 200
    (record,) = await shared.received()
    assert record["body_sha256"] == sha(content)


async def test_an_answer_of_five_megabytes_arrives_whole(shared: Fleet):
    answer = await shared.generate(sim="huge_body:bytes=5000000")
    assert answer.status == 200
    assert answer.body == b'"' + b"x" * 4_999_998 + b'"'


async def test_a_body_that_is_not_json_goes_on_where_we_need_not_read_it(shared: Fleet):
    content = (
        b"--b\r\nContent-Disposition: form-data; name=file; filename=a.wav\r\n\r\n"
        + random.Random(1).randbytes(100_000)
        + b"\r\n--b--\r\n"
    )
    headers = "Content-Type: multipart/form-data; boundary=b\r\n"
    async with await RawConnection.connect(shared.router.port) as client:
        await client.send(
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: t\r\nX-Request-Id: multipart\r\n"
            + headers.encode()
            + b"Content-Length: %d\r\n\r\n" % len(content)
            + content
        )
        answer = await client.read_response()
    (record,) = await shared.workers[0].requests("/v1/audio/transcriptions")
    assert record["body_sha256"] == sha(content)
    assert ("content-type", "multipart/form-data; boundary=b") in headers_of(record)
    assert answer.status == record["status"]  # the worker's own word (404), not ours
    assert (await shared.ended("multipart"))["status"] == "failed"


async def test_a_chunked_request_arrives_whole_with_a_length(shared: Fleet):
    content = body("in pieces " * 1000)
    async with await RawConnection.connect(shared.router.port) as client:
        await client.send(
            b"POST /generate HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for start in range(0, len(content), 700):
            piece = content[start : start + 700]
            await client.send(b"%x;ext=1\r\n%b\r\n" % (len(piece), piece))
        await client.send(b"0\r\nX-Late: trailer\r\n\r\n")
        assert (await client.read_response()).status == 200
    (record,) = await shared.received()
    assert record["body_sha256"] == sha(content)
    headers = dict(headers_of(record))
    assert headers["content-length"] == str(len(content))
    assert "transfer-encoding" not in headers
    assert "x-late" not in headers


async def test_json_that_we_must_read_and_cannot_is_refused_before_any_worker(shared: Fleet):
    answer = await post(shared.router, "/v1/chat/completions", b'{"model": ', request_id="bad-json")
    assert answer.status == 400
    assert error_of(answer)["type"] == "invalid_request_error"
    assert await shared.received("/v1/chat/completions") == []
    trace = await shared.ended("bad-json")
    assert trace["status"] == "rejected"
    assert trace["node_id"] == "none"
    assert error_type(trace) == "bad_request"


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_oversized_body_is_answered_413_that_the_client_can_read(
    shared: Fleet, framing: str
):
    content = b'{"text": "' + b"x" * 7_000_000 + b'"}'
    head = f"POST /generate HTTP/1.1\r\nHost: t\r\nX-Request-Id: large-{framing}\r\n"
    async with await RawConnection.connect(shared.router.port) as client:
        if framing == "length":
            await client.send(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        else:
            await client.send(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
            await client.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content))
        answer = await client.read_response()
    assert answer.status == 413
    assert error_of(answer)["code"] == "request_too_large"
    assert await shared.received() == []
    trace = await shared.ended(f"large-{framing}")
    assert trace["status"] == "rejected"
    assert error_type(trace) == "too_large"


async def test_a_chat_stream_reaches_the_client_exactly_as_the_worker_sent_it(shared: Fleet):
    content = chat_body(tokens=5, stream=True, rid="fixed")
    async with await RawConnection.connect(shared.workers[0].port) as direct:
        await direct.post("/v1/chat/completions", content)
        own = await direct.read_response()
    answer = await post(shared.router, "/v1/chat/completions", content)

    def without_time(stream: bytes) -> bytes:
        return re.sub(rb'"created":\d+', b"", stream)

    assert answer.header("content-type") == own.header("content-type")
    assert without_time(answer.body) == without_time(own.body)
    assert answer.body.count(b"data: ") == own.body.count(b"data: ") == 8
    assert answer.body.endswith(b"data: [DONE]\n\n")
