"""`--request-timeout-secs` counts from the head of a request, wherever the time goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from router.app import App
from router.upstream.connection import UpstreamConnection
from router.upstream.pool import ConnectionPool
from tests.fleets import body
from tests.raw_tcp import RawConnection, RawResponse
from tests.running import Records, at_rest, running, sim_worker
from tests.waiting import until

LIMIT_SECONDS = 0.5


@pytest.fixture
async def app() -> AsyncIterator[App]:
    async with (
        sim_worker() as worker,
        running(
            worker.url,
            request_timeout_secs=LIMIT_SECONDS,
            max_concurrent_requests=1,
            cb_failure_threshold=1,
        ) as started,
    ):
        yield started


@pytest.fixture
def records(app: App) -> Records:
    return Records(app)


def code(answer: RawResponse) -> object:
    return msgspec.json.decode(answer.body)["error"]["code"]


async def test_an_upload_that_takes_longer_is_a_408_and_no_workers_fault(
    app: App, records: Records
):
    async with await RawConnection.connect(app.port) as client:
        await client.send(
            b"POST /generate HTTP/1.1\r\nHost: t\r\nX-Request-Id: slow\r\n"
            b"Content-Length: 10\r\n\r\n12345"
        )
        answer = await client.read_response()
    assert (answer.status, code(answer)) == (408, "request_timeout")
    assert (records.status("slow"), records.error_type("slow")) == ("rejected", "total_timeout")
    await until(lambda: at_rest(app))


async def test_waiting_in_line_counts_too(app: App, records: Records):
    ticket = app.gate.try_enter(app.clock.now())
    assert ticket is not None
    async with await RawConnection.connect(app.port) as client:
        await client.post("/generate", body(), "X-Request-Id: waited\r\n")
        answer = await client.read_response()
        assert (answer.status, code(answer)) == (408, "request_timeout")
        assert (records.status("waited"), records.error_type("waited")) == (
            "rejected",
            "total_timeout",
        )
        app.gate.leave(ticket)
        await client.post("/generate", body())  # the connection and the place are good again
        assert (await client.read_response()).status == 200
    await until(lambda: at_rest(app))


@pytest.mark.interpreted
async def test_connecting_counts_too_and_the_worker_is_not_blamed(
    app: App, records: Records, monkeypatch: pytest.MonkeyPatch
):
    async def connect(pool: ConnectionPool) -> UpstreamConnection:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    monkeypatch.setattr(ConnectionPool, "connect", connect)
    async with await RawConnection.connect(app.port) as client:
        await client.post("/generate", body(), "X-Request-Id: unconnected\r\n")
        answer = await client.read_response()
    assert (answer.status, code(answer)) == (504, "request_timeout")
    assert (records.status("unconnected"), records.error_type("unconnected")) == (
        "failed",
        "total_timeout",
    )
    assert app.fleet.workers[0].available(app.clock.now())
    await until(lambda: at_rest(app))
