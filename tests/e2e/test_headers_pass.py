"""Which headers reach the worker, and how a request is called."""

from __future__ import annotations

import re

import pytest

from tests.fleets import Fleet, body, error_of, headers_of, post
from tests.raw_tcp import RawConnection

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
FLEET = {"workers": 1, "flags": ["--forward-headers", "x-tenant", "x-team-*"]}

UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")

PASS = {
    "Accept": "text/event-stream",
    "Authorization": "Bearer client",
    "Content-Language": "de",
    "X-Request-Id-Parent": "p",
    "X-Correlation-Id": "c",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "tracestate": "v=1",
    "baggage": "k=v",
    "x-smg-routing-key": "user-1",
    "X-Tenant": "t",
    "X-Team-Blue": "b",
}
STAY = {
    "Cookie": "secret=1",
    "X-Custom": "1",
    "Accept-Encoding": "gzip",
    "X-Forwarded-For": "1.2.3.4",
    "Forwarded": "for=1.2.3.4",
    "TE": "trailers",
    "Keep-Alive": "timeout=5",
    "Proxy-Authorization": "Basic x",
    "Upgrade": "h2c",
    "x-smg-target-worker": "0",
    "X-Trace-Label": "blue",
}


def lines(headers: dict[str, str]) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())


async def seen_by_worker(running: Fleet) -> list[tuple[str, str]]:
    (record,) = await running.received()
    return headers_of(record)


@pytest.mark.parametrize("name", PASS)
async def test_a_header_that_a_worker_may_need_goes_on_unchanged(shared: Fleet, name: str):
    await post(shared.router, "/generate", body(), headers=lines({name: PASS[name]}))
    assert (name.lower(), PASS[name]) in await seen_by_worker(shared)


async def test_cookies_other_custom_headers_and_those_of_the_connection_stay_out(shared: Fleet):
    await post(shared.router, "/generate", body(), headers=lines(STAY))
    names = {name for name, _ in await seen_by_worker(shared)}
    assert names == {"host", "content-type", "content-length", "x-request-id"}


async def test_headers_that_connection_names_are_the_connections_own(shared: Fleet):
    headers = lines({"Connection": "X-Tenant, keep-alive", "X-Tenant": "t"})
    await post(shared.router, "/generate", body(), headers=headers)
    assert "x-tenant" not in {name for name, _ in await seen_by_worker(shared)}


async def test_the_worker_is_told_its_own_host(shared: Fleet):
    await post(shared.router, "/generate", body())
    worker = shared.workers[0]
    assert ("host", f"127.0.0.1:{worker.port}") in await seen_by_worker(shared)


async def test_the_request_id_goes_on_and_comes_back(shared: Fleet):
    answer = await shared.generate(request_id="mine")
    assert answer.header("x-request-id") == "mine"
    assert [v for n, v in await seen_by_worker(shared) if n == "x-request-id"] == ["mine"]
    assert (await shared.ended("mine"))["request_id"] == "mine"


async def test_a_request_without_an_id_gets_one_that_goes_on_and_comes_back(shared: Fleet):
    answer = await shared.generate()
    minted = answer.header("x-request-id")
    assert minted is not None
    assert UUID7.fullmatch(minted)
    assert ("x-request-id", minted) in await seen_by_worker(shared)
    assert (await shared.ended(minted))["key"] == minted
    assert answer.header("x-request-id-replaced") is None


@pytest.mark.parametrize("given", ["stats", "a/b", "a b", "x" * 129, "a?b", "%41", "é"])
async def test_an_unusable_id_is_replaced_and_the_client_told(shared: Fleet, given: str):
    answer = await shared.generate(request_id=given)
    minted = answer.header("x-request-id")
    assert minted is not None
    assert UUID7.fullmatch(minted)
    assert answer.header("x-request-id-replaced") == "1"
    assert ("x-request-id", minted) in await seen_by_worker(shared)


async def test_other_id_headers_are_read_when_x_request_id_is_absent(shared: Fleet):
    headers = lines({"X-Trace-Id": "from-elsewhere"})
    answer = await post(shared.router, "/generate", body(), headers=headers)
    assert answer.header("x-request-id") == "from-elsewhere"
    assert ("x-request-id", "from-elsewhere") in await seen_by_worker(shared)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/traces/unknown", 404),
        ("/v1/traces?limit=0", 400),
        ("/health", 200),
        ("/liveness", 200),
        ("/readiness", 200),
        ("/metrics", 200),
        ("/nowhere", 404),
        ("/v1/traces/stats", 200),
        ("/a/../b", 400),
    ],
)
async def test_every_answer_carries_the_request_id(shared: Fleet, path: str, status: int):
    async with await RawConnection.connect(shared.router.port) as client:
        await client.get(path, "X-Request-Id: echo-1\r\n")
        answer = await client.read_response()
    assert answer.status == status
    assert answer.header("x-request-id") == "echo-1"
    if status >= 400:
        error_of(answer)


async def test_the_answer_names_its_worker(shared: Fleet):
    answer = await shared.generate()
    assert answer.header("x-smg-routed-worker-id") == shared.workers[0].url
