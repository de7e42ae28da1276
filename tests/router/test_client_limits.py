"""What a client may cost before its request is there, by raw sockets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import msgspec
import pytest

from router.app import App
from tests.raw_tcp import RawConnection, RawResponse
from tests.running import Records, running, sim_worker
from tests.waiting import until

GET = b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n"


@pytest.fixture
async def app() -> AsyncIterator[App]:
    async with running(
        max_header_bytes=4096, header_read_timeout_secs=0.8, idle_connection_timeout_secs=2
    ) as started:
        yield started


async def refused(connection: RawConnection) -> RawResponse:
    """The last answer: the connection ends behind it."""
    answer = await connection.read_response()
    assert answer.header("connection") == "close"
    assert msgspec.json.decode(answer.body, type=dict[str, dict[str, object]])["error"]["code"]
    assert await connection.read_to_end() == b""
    return answer


async def test_a_head_that_never_ends_is_answered_408_and_closed(app: App) -> None:
    async with await RawConnection.connect(app.port) as connection:
        await connection.send(b"GET /health HTTP/1.1\r\nHost: t")
        assert (await refused(connection)).status == 408
    await until(lambda: app.listener.connections == 0)


async def test_trickling_a_head_buys_no_time(app: App) -> None:
    async with await RawConnection.connect(app.port) as connection:

        async def trickle() -> None:
            await connection.send(b"GET /health HTTP/1.1\r\n")
            while True:
                await connection.send(b"X-A: b\r\n")
                await asyncio.sleep(0.05)

        task = asyncio.create_task(trickle())
        try:
            assert (await connection.read_response()).status == 408
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    await until(lambda: app.listener.connections == 0)


async def test_a_slow_second_head_is_refused_as_well(app: App) -> None:
    async with await RawConnection.connect(app.port) as connection:
        await connection.send(GET)
        assert (await connection.read_response()).status == 200
        await connection.send(GET[:20])
        assert (await refused(connection)).status == 408


async def test_a_head_in_many_pieces_is_taken(app: App) -> None:
    async with await RawConnection.connect(app.port) as connection:
        for i in range(len(GET)):
            await connection.send(GET[i : i + 1])
            await asyncio.sleep(0)
        assert (await connection.read_response()).status == 200
        await asyncio.sleep(1)  # longer than a head may take: nothing has begun
        await connection.send(GET)
        assert (await connection.read_response()).status == 200


async def test_a_head_that_is_too_large_is_answered_431_also_while_it_is_sent(app: App) -> None:
    async with await RawConnection.connect(app.port) as connection:
        await connection.send(b"GET /health HTTP/1.1\r\nHost: test\r\n")
        for _ in range(60):
            await connection.send(b"X-Filler: %b\r\n" % (b"x" * 100))
        assert (await refused(connection)).status == 431
    async with await RawConnection.connect(app.port) as connection:
        await connection.send(GET[:-2] + b"X-Filler: %b\r\n\r\n" % (b"x" * 5000))
        assert (await refused(connection)).status == 431


async def test_a_large_body_is_not_taken_for_a_head() -> None:
    async with sim_worker() as worker, running(worker.url, max_header_bytes=4096) as app:
        body = b'{"text":"%b","sampling_params":{"max_new_tokens":1}}' % (b"x" * 3_000_000)
        async with await RawConnection.connect(app.port) as connection:
            for _ in range(2):
                await connection.post("/generate", body)
                assert (await connection.read_response()).status == 200


async def test_the_body_of_a_request_sent_ahead_is_not_taken_for_a_head() -> None:
    async with sim_worker() as worker, running(worker.url, max_header_bytes=4096) as app:
        body = b'{"text":"%b","sampling_params":{"max_new_tokens":1}}' % (b"x" * 100_000)
        head = b"POST /generate HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % len(body)
        async with await RawConnection.connect(app.port) as connection:
            await connection.send(GET + head + body[:1000])
            assert (await connection.read_response()).status == 200
            for start in range(1000, len(body), 20_000):
                await connection.send(body[start : start + 20_000])
                await asyncio.sleep(0.01)
            assert (await connection.read_response()).status == 200


async def test_a_refused_body_that_is_still_sent_is_not_taken_for_a_head() -> None:
    async with running(max_header_bytes=4096, max_payload_size=1000) as app:
        async with await RawConnection.connect(app.port) as connection:
            head = b"POST /generate HTTP/1.1\r\nHost: t\r\nContent-Length: 20000\r\n\r\n"
            await connection.send(head)
            assert (await connection.read_response()).status == 413
            await connection.send(b"x" * 10000)
            await asyncio.sleep(0.1)
            assert connection.received == b""


async def test_an_idle_connection_is_closed(app: App) -> None:
    async with (
        await RawConnection.connect(app.port) as silent,
        await RawConnection.connect(app.port) as used,
    ):
        await used.send(GET)
        assert (await used.read_response()).status == 200
        assert await used.read_to_end() == b""
        assert await silent.read_to_end() == b""


async def test_a_request_that_takes_long_is_not_idle() -> None:
    async with (
        sim_worker() as worker,
        running(worker.url, idle_connection_timeout_secs=0.2, header_read_timeout_secs=0.2) as app,
    ):
        async with await RawConnection.connect(app.port) as connection:
            slowly = b'{"text":"hi","sim":"drip:after_bytes=30,seconds=0.2"}'
            await connection.post("/generate", slowly)
            assert (await connection.read_response()).status == 200


async def test_an_upload_that_stalls_is_answered_408_and_closed(app: App) -> None:
    records = Records(app)
    async with await RawConnection.connect(app.port) as connection:
        await connection.send(
            b"POST /generate HTTP/1.1\r\nHost: t\r\nX-Request-Id: stalled\r\n"
            b"Content-Length: 13\r\n\r\n{"
        )
        assert (await refused(connection)).status == 408
    assert (records.status("stalled"), records.error_type("stalled")) == ("rejected", "bad_request")
    await until(lambda: app.listener.connections == 0)


async def test_an_upload_to_the_router_itself_that_stalls_is_cut(app: App) -> None:
    async with await RawConnection.connect(app.port) as connection:
        await connection.send(b"POST /workers HTTP/1.1\r\nHost: t\r\nContent-Length: 13\r\n\r\n{")
        assert await connection.read_to_end() == b""
    await until(lambda: app.listener.connections == 0)


async def test_an_upload_that_goes_on_may_take_long() -> None:
    async with (
        sim_worker() as worker,
        running(worker.url, idle_connection_timeout_secs=1.5) as app,
        await RawConnection.connect(app.port) as connection,
    ):
        body = b'{"text":"hi"}'
        await connection.send(
            b"POST /generate HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        for at in range(len(body)):
            await asyncio.sleep(0.4)
            await connection.send(body[at : at + 1])
        assert (await connection.read_response()).status == 200


async def test_connections_beyond_the_limit_are_told_so_and_room_is_given_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running(max_connections=3) as app, AsyncExitStack() as stack:
        caplog.set_level(logging.INFO, "router.connections")
        held = []
        for _ in range(3):
            connection = await stack.enter_async_context(await RawConnection.connect(app.port))
            await connection.send(GET)
            assert (await connection.read_response()).status == 200
            held.append(connection)
        for _ in range(2):
            async with await RawConnection.connect(app.port) as beyond:
                await beyond.send(GET)
                answer = await refused(beyond)
                assert (answer.status, answer.header("retry-after")) == (503, "1")
        assert app.listener.connections == 3
        held[0].close()
        held[1].reset()
        await until(lambda: app.listener.connections == 1)
        async with await RawConnection.connect(app.port) as again:
            await again.send(GET)
            assert (await again.read_response()).status == 200
        said = [r.getMessage() for r in caplog.records if r.name == "router.connections"]
        assert said == [
            "3 client connections: more are refused",
            "2 client connections: more are taken again",
        ]
