"""A client that leaves, whenever it does: its worker is free at once and its trace says so."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from tests.fleets import Fleet, body, error_type, metric, traces
from tests.raw_tcp import RawConnection
from tests.waiting import PATIENCE_SECONDS, POLL_SECONDS

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
FLEET = {"workers": 2, "flags": ["--max-concurrent-requests=1000", "--queue-size=10"]}

LEAVING = pytest.mark.parametrize("leaving", ["fin", "rst"])


def leave(client: RawConnection, how: str) -> None:
    if how == "rst":
        client.reset()
    else:
        client.close()


async def ask(
    running: Fleet, content: bytes, request_id: str, receive_buffer: int | None = None
) -> RawConnection:
    client = await RawConnection.connect(running.router.port, receive_buffer=receive_buffer)
    await client.post("/generate", content, f"X-Request-Id: {request_id}\r\n")
    return client


async def busy(running: Fleet, count: int = 1, seconds: float = PATIENCE_SECONDS) -> None:
    """Until so many requests are at the workers."""
    async with asyncio.timeout(seconds):
        while True:
            states = [await worker.state() for worker in running.workers]
            if sum(msgspec.convert(state["active"], int) for state in states) == count:
                return
            await asyncio.sleep(POLL_SECONDS)


async def cancelled(running: Fleet, request_id: str) -> None:
    """The worker is free, though its answer would never end, and the trace is terminal."""
    for worker in running.workers:
        await worker.wait_free()
    trace = await running.ended(request_id)
    assert (trace["status"], error_type(trace)) == ("cancelled", "client_gone")


@LEAVING
async def test_before_the_first_byte(shared: Fleet, leaving: str):
    client = await ask(shared, body(sim="hang"), f"silent-{leaving}")
    await busy(shared)
    leave(client, leaving)
    await cancelled(shared, f"silent-{leaving}")
    trace = await shared.trace(f"silent-{leaving}")
    assert trace["node_id"] != "none"
    assert "http_status" not in trace


@LEAVING
async def test_in_the_middle_of_a_stream(shared: Fleet, leaving: str):
    content = body(tokens=50, stream=True, sim="hang_after:after_events=5")
    client = await ask(shared, content, f"mid-{leaving}")
    await client.read_until(b'"completion_tokens":5')
    leave(client, leaving)
    await cancelled(shared, f"mid-{leaving}")
    trace = await shared.trace(f"mid-{leaving}")
    assert (trace["http_status"], trace["output_tokens"]) == (200, 5)


@LEAVING
async def test_after_the_last_event_of_a_stream_it_has_all_of_its_answer(
    shared: Fleet, leaving: str
):
    """OpenAI's client closes at `[DONE]`, without waiting for the last chunk."""
    content = body(tokens=5, stream=True, sim="hang_after:after_events=6")
    client = await ask(shared, content, f"done-{leaving}")
    await client.read_until(b"data: [DONE]\n\n")
    assert (await shared.trace(f"done-{leaving}"))["status"] == "processing"
    leave(client, leaving)
    for worker in shared.workers:
        await worker.wait_free()
    trace = await shared.ended(f"done-{leaving}")
    assert (trace["status"], trace["http_status"], trace["output_tokens"]) == ("completed", 200, 5)
    assert "error" not in trace


@LEAVING
async def test_while_the_stream_stands_still_because_it_did_not_read(shared: Fleet, leaving: str):
    name = f"paused-{leaving}"
    client = await ask(shared, body(sim="huge_body:bytes=50000000"), name, receive_buffer=1 << 14)
    await busy(shared)
    await client.read_until(b"\r\n\r\n")
    await asyncio.sleep(0.5)  # long enough to fill every buffer on the way
    assert (await shared.trace(name))["status"] == "processing"
    leave(client, leaving)
    await cancelled(shared, name)


@LEAVING
async def test_during_the_upload(shared: Fleet, leaving: str):
    name = f"upload-{leaving}"
    allowed = await metric(shared.router, "smg_http_rate_limit_total", result="allowed")
    client = await RawConnection.connect(shared.router.port)
    head = f"POST /generate HTTP/1.1\r\nHost: t\r\nX-Request-Id: {name}\r\n"
    await client.send(f"{head}Content-Length: 1000000\r\n\r\n".encode() + b"x" * 1000)
    await shared.reaches(name, {"queued"})
    leave(client, leaving)
    trace = await shared.ended(name)
    assert (trace["status"], error_type(trace)) == ("cancelled", "client_gone")
    assert trace["node_id"] == "none"
    assert await shared.received() == []
    assert await metric(shared.router, "smg_http_rate_limit_total", result="allowed") == allowed


async def test_during_the_pause_before_another_attempt(shared: Fleet):
    await shared.faults("status:status=503,retry_after=3")
    client = await ask(shared, body(), "between")
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(await shared.received()) < 2:
            await asyncio.sleep(POLL_SECONDS)
    await asyncio.sleep(0.2)
    client.close()
    await cancelled(shared, "between")
    assert len(await shared.received()) == 2


async def test_a_client_that_only_stops_sending_still_gets_its_answer_or_is_cancelled(
    shared: Fleet,
):
    """A half-closed connection is one that left, as it is for most servers; never a leak."""
    client = await ask(shared, body(sim="hang"), "half")
    await busy(shared)
    client.finish_sending()
    await cancelled(shared, "half")
    client.close()


async def test_a_client_that_sends_the_next_request_early_has_not_left(shared: Fleet):
    content = body(tokens=3, stream=True, sim='{"kind":"drip","after_bytes":100,"seconds":0.01}')
    async with await ask(shared, content, "early-1") as client:
        await client.read_until(b"data: ")
        await client.post("/generate", body(), "X-Request-Id: early-2\r\n")
        await client.read_until(b"data: [DONE]\n\n")
        assert (await shared.ended("early-1"))["status"] == "completed"
        assert (await shared.ended("early-2"))["status"] == "completed"


async def test_a_thousand_clients_that_all_vanish(shared: Fleet):
    kinds = [
        body(sim="hang"),
        body(tokens=40, stream=True, sim="hang_after:after_events=3"),
        body(tokens=200, stream=True, sim="drip:after_bytes=20,seconds=0.05"),
    ]
    clients = await asyncio.gather(
        *(
            ask(shared, kinds[number % 3], f"vanish-{number}", receive_buffer=1 << 13)
            for number in range(1000)
        )
    )
    await busy(shared, 1000)
    for number, client in enumerate(clients):
        leave(client, "rst" if number % 2 else "fin")
    for worker in shared.workers:
        await worker.wait_free()
    await shared.settled()
    ended = [
        trace
        for trace in await traces(shared.router)
        if str(trace["request_id"]).startswith("vanish-")
    ]
    assert len(ended) == 1000
    assert {trace["status"] for trace in ended} == {"cancelled"}
    for worker in shared.workers:
        assert await metric(shared.router, "smg_worker_cb_state", worker=worker.url) == 0
    assert (await shared.generate()).status == 200
