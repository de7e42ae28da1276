"""One client connection, by raw sockets: what is forwarded and what is ours, in any mixture."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from bench.fuzz_world import MemoryTransport
from router.api.connection import AHEAD_BYTES, ClientConnection
from router.api.record import Recorder
from router.app import App
from tests.fleets import body
from tests.raw_tcp import RawConnection
from tests.running import InProcessWorker, at_rest, running, sim_worker
from tests.waiting import until
from tracking.lifecycle import LiveTrace

OURS = b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n"


@pytest.fixture
async def worker() -> AsyncIterator[InProcessWorker]:
    async with sim_worker() as started:
        yield started


@pytest.fixture
async def app(worker: InProcessWorker) -> AsyncIterator[App]:
    async with running(worker.url) as started:
        yield started


def theirs(name: str, content: bytes | None = None, headers: str = "") -> bytes:
    content = body() if content is None else content
    head = f"POST /generate HTTP/1.1\r\nHost: t\r\nX-Request-Id: {name}\r\n{headers}"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def in_chunks(content: bytes, size: int) -> bytes:
    pieces = [content[at : at + size] for at in range(0, len(content), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"


async def test_requests_for_workers_and_for_us_share_a_connection_in_any_order(app: App):
    async with await RawConnection.connect(app.port) as client:
        for number in range(3):
            await client.send(OURS)
            assert (await client.read_response()).status == 200
            await client.send(theirs(f"r{number}"))
            assert (await client.read_response()).header("x-request-id") == f"r{number}"
    assert app.listener.server is not None
    await until(lambda: app.listener.connections == 0)
    assert app.listener.server.connections == []


async def test_a_head_that_comes_again_with_another_length_brings_its_own_body(
    app: App, worker: InProcessWorker
):
    bodies = [body(padding="x" * size) for size in (0, 7, 0, 100, 5000)]
    async with await RawConnection.connect(app.port) as client:
        for content in bodies:
            await client.send(theirs("same", content))
            assert (await client.read_response()).status == 200
        (connection,) = app.listener._open
        assert connection._known is not None
        await client.send(OURS)
        assert (await client.read_response()).status == 200
        await client.send(b"POST /v1/traces/batch" + theirs("same")[len("POST /generate") :])
        assert (await client.read_response()).status == 501
        await client.send(theirs("same", b"{")[:-1])
        await client.send(b"{" + theirs("same", bodies[0]))
        assert (await client.read_response()).status == 400
        assert (await client.read_response()).status == 200
    records = worker.sim.records.list("/generate")
    assert [record.body_bytes for record in records] == [len(b) for b in (*bodies, bodies[0])]


async def test_all_that_was_sent_ahead_is_answered_in_order(app: App):
    async with await RawConnection.connect(app.port) as client:
        await client.send(OURS + theirs("a") + OURS + OURS + theirs("b"))
        answers = [await client.read_response() for _ in range(5)]
    assert [answer.status for answer in answers] == [200] * 5
    named = [answer.header("x-request-id") for answer in answers]
    assert (named[1], named[4]) == ("a", "b")


async def test_what_is_sent_far_ahead_is_left_in_the_socket_and_leaving_is_noticed(app: App):
    async with await RawConnection.connect(app.port) as client:
        await client.send(theirs("first", body(sim="hang")))
        await until(lambda: app.fleet.workers[0].in_flight == 1)
        (connection,) = app.listener._open
        await client.send(theirs("next", b"x" * (2 * AHEAD_BYTES)))
        assert connection.transport is not None
        transport = connection.transport
        await until(lambda: not transport.is_reading())
    await until(lambda: at_rest(app))


async def test_a_chunked_body_reaches_the_worker_whole(app: App, worker: InProcessWorker):
    content = body(padding="x" * 1000)
    async with await RawConnection.connect(app.port) as client:
        for size in (1, 100, 5000):
            await client.send(
                b"POST /generate HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
                + in_chunks(content, size)
            )
            assert (await client.read_response()).status == 200
    records = worker.sim.records.list("/generate")
    assert [record.body_bytes for record in records] == [len(content)] * 3


async def test_our_own_endpoints_take_a_chunked_body_in_pieces(app: App):
    head = b"POST /v1/traces/batch HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
    whole = head + in_chunks(b'{"request_ids": []}', 3)
    async with await RawConnection.connect(app.port) as client:
        for at in range(0, len(whole), 7):
            await client.send(whole[at : at + 7])
        answer = await client.read_response()
        assert answer.status == 501  # no traces here, and the body was no problem
        await client.send(OURS)
        assert (await client.read_response()).status == 200


async def test_an_offer_to_upgrade_is_not_taken_and_costs_nothing(app: App):
    offer = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"
    async with await RawConnection.connect(app.port) as client:
        await client.send(theirs("offer", headers=offer) + theirs("behind"))
        for name in ("offer", "behind"):
            answer = await client.read_response()
            assert (answer.status, answer.header("x-request-id")) == (200, name)


async def test_a_tunnel_is_refused(app: App):
    async with await RawConnection.connect(app.port) as client:
        await client.send(b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n")
        assert (await client.read_response()).status == 400
        assert await client.read_to_end() == b""


async def test_codings_that_nobody_undoes_are_refused(app: App):
    async with await RawConnection.connect(app.port) as client:
        await client.send(
            b"POST /generate HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
            b"0\r\n\r\n"
        )
        assert (await client.read_response()).status == 400
        assert await client.read_to_end() == b""
    assert app.forwarding.open_requests == 0


async def test_nonsense_behind_good_requests_is_refused_after_their_answers(app: App):
    async with await RawConnection.connect(app.port) as client:
        await client.send(theirs("good") + OURS + b"NONSENSE\r\n\r\n")
        assert (await client.read_response()).header("x-request-id") == "good"
        assert (await client.read_response()).status == 200
        last = await client.read_response()
        assert (last.status, last.header("connection")) == (400, "close")
        assert await client.read_to_end() == b""


async def test_a_body_whose_chunks_are_broken_is_a_bad_request(app: App):
    async with await RawConnection.connect(app.port) as client:
        await client.send(
            b"POST /generate HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello"
        )
        await until(lambda: app.forwarding.open_requests == 1)
        await client.send(b"\r\nZZ\r\n")
        answer = await client.read_response()
        assert answer.status == 400
        assert b"the body is broken" in answer.body
        assert answer.header("connection") == "close"
        assert await client.read_to_end() == b""


async def test_nothing_is_read_behind_the_last_request(app: App):
    async with await RawConnection.connect(app.port) as client:
        await client.send(theirs("last", headers="Connection: close\r\n") + theirs("beyond"))
        answer = await client.read_response()
        assert answer.header("x-request-id") == "last"
        assert await client.read_to_end() == b""


async def test_names_of_headers_reach_the_worker_as_they_were_sent(
    app: App, worker: InProcessWorker
):
    async with await RawConnection.connect(app.port) as client:
        await client.send(theirs("n", headers="X-Correlation-ID: 1\r\ncontent-LANGUAGE: en\r\n"))
        assert (await client.read_response()).status == 200
    (record,) = worker.sim.records.list("/generate")
    assert {"X-Correlation-ID", "content-LANGUAGE"} <= {name for name, _ in record.headers}


async def test_a_client_that_asks_and_leaves_in_one_breath_has_its_trace(app: App):
    ended: list[str] = []

    def put(live: LiveTrace) -> None:
        if live.terminal:
            ended.append(live.status)

    app.forwarding.recorder = Recorder(put, app.clock, "r", "p")
    loop = asyncio.get_running_loop()
    connection = ClientConnection(app.listener, loop)
    connection.connection_made(MemoryTransport(connection))
    connection.data_received(theirs("gone"))
    connection.connection_lost(None)
    await until(lambda: ended)
    assert ended == ["cancelled"]
    assert app.forwarding.open_requests == 0
