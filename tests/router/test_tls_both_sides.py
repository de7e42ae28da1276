"""The router behind HTTPS, and workers behind HTTPS, with certificates on either side."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from router.app import App
from router.config import Config
from router.serving import serve
from tests.certificates import Authority
from tests.raw_tcp import RawConnection
from tests.running import QUICK, call, running, sim_worker
from tests.sim.call import WorkerConfig
from tests.sim.engine import EngineConfig
from tests.waiting import until
from tracking.client import SyncTraceClient, TraceClient, Unreachable

EVENTS = [b"data: %d\n\n" % i for i in range(50)] + [b"data: [DONE]\n\n"]
LARGE = b"x" * 3_000_000


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


async def generate(request: web.Request) -> web.StreamResponse:
    body = await request.read()
    if b"large" in body:
        return web.Response(body=LARGE)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for event in EVENTS:
        await response.write(event)
    await response.write_eof()
    return response


async def health(request: web.Request) -> web.Response:
    return web.Response()


@asynccontextmanager
async def https_worker(authority: Authority, *, wants_client: bool) -> AsyncIterator[str]:
    pair = authority.issue("worker")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    if wants_client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority.cert)
    made = web.Application()
    made.add_routes([web.get("/health", health), web.post("/generate", generate)])
    made.add_routes([web.post("/flush_cache", health), web.post("/abort_request", health)])
    server = TestServer(made, scheme="https")
    await server.start_server(ssl=context)
    try:
        yield f"https://localhost:{server.port}"
    finally:
        await server.close()


@asynccontextmanager
async def https_client(authority: Authority, app: App) -> AsyncIterator[aiohttp.ClientSession]:
    trusted = ssl.create_default_context(cafile=str(authority.cert))
    async with aiohttp.ClientSession(
        f"https://localhost:{app.port}", connector=aiohttp.TCPConnector(ssl=trusted)
    ) as session:
        yield session


@asynccontextmanager
async def https_router(authority: Authority, *urls: str, **more: object) -> AsyncIterator[App]:
    pair = authority.issue("router")
    async with running(
        *urls, tls_cert_path=str(pair.cert), tls_key_path=str(pair.key), **more
    ) as app:
        yield app


async def test_streams_and_large_answers_pass_through_tls_on_both_sides(
    authority: Authority,
) -> None:
    async with (
        https_worker(authority, wants_client=False) as url,
        https_router(authority, url, ca_cert_paths=(str(authority.cert),)) as app,
        https_client(authority, app) as client,
    ):
        for _ in range(2):
            async with client.post("/generate", json={"text": "hi", "stream": True}) as answer:
                assert answer.status == 200
                assert await answer.read() == b"".join(EVENTS)
        async with client.post("/generate", json={"text": "large"}) as answer:
            assert await answer.read() == LARGE
        async with client.post("/flush_cache") as answer:
            assert answer.status == 200


async def test_a_client_that_leaves_over_tls_frees_its_worker(authority: Authority) -> None:
    async with (
        sim_worker(WorkerConfig(engine=EngineConfig(prefill_base_seconds=30.0))) as worker,
        https_router(authority, worker.url) as app,
        https_client(authority, app) as client,
    ):
        task = asyncio.create_task(client.post("/generate", json={"text": "hi"}))
        await until(lambda: app.forwarding.open_requests)
        await until(lambda: worker.sim.active)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await client.close()
        await until(lambda: not app.forwarding.open_requests and not worker.sim.active)


async def test_a_plain_client_gets_no_answer_from_an_https_router(authority: Authority) -> None:
    async with https_router(authority, header_read_timeout_secs=0.5) as app:
        async with await RawConnection.connect(app.port) as connection:
            await connection.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            with pytest.raises((EOFError, ConnectionResetError)):
                await connection.read_response()
        async with await RawConnection.connect(app.port) as connection:  # says nothing at all
            with pytest.raises((EOFError, ConnectionResetError)):
                await connection.read_response()
        async with https_client(authority, app) as client, client.get("/health") as answer:
            assert answer.status == 200


async def test_a_worker_that_no_authority_vouches_for_is_not_used(authority: Authority) -> None:
    async with https_worker(authority, wants_client=False) as url, running(url) as app:
        assert not app.fleet.workers[0].healthy
        assert "certificate" in app.fleet.workers[0].health.reason
        assert (await call(app, "POST", "/generate", {"text": "hi"})).status == 503


async def test_a_worker_that_asks_for_a_certificate_gets_ours(authority: Authority) -> None:
    ours = authority.issue("client")
    trusted = {"ca_cert_paths": (str(authority.cert),)}
    async with https_worker(authority, wants_client=True) as url:
        async with running(url, **trusted) as app:
            assert not app.fleet.workers[0].healthy
        shown = {"client_cert_path": str(ours.cert), "client_key_path": str(ours.key)}
        async with running(url, **trusted, **shown) as app:
            assert (await call(app, "POST", "/generate", {"text": "large"})).body == LARGE


async def test_a_certificate_that_cannot_be_used_refuses_to_start_in_one_line(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = str(authority.issue("router").key)
    config = Config(**{**QUICK, "tls_cert_path": str(tmp_path / "no"), "tls_key_path": key})  # type: ignore[arg-type]
    with caplog.at_level(logging.ERROR):
        assert await serve(config) == 1
    (record,) = caplog.records
    assert record.getMessage().startswith("cannot start: --tls-cert-path: cannot read ")


@pytest.mark.parametrize("kind", [TraceClient, SyncTraceClient])
async def test_the_trace_clients_trust_the_authority_they_are_given_and_no_other(
    authority: Authority, kind: type[TraceClient | SyncTraceClient]
):
    async def total(client: TraceClient | SyncTraceClient) -> int:
        if isinstance(client, SyncTraceClient):
            return (await asyncio.to_thread(client.stats)).total_requests
        async with client:
            return (await client.stats()).total_requests

    async with https_router(authority, enable_request_tracking=True) as app:
        url = f"https://localhost:{app.port}"
        assert await total(kind(url, ca_file=str(authority.cert))) == 0
        with pytest.raises(Unreachable, match=r"(?i)certificate"):
            await total(kind(url))
