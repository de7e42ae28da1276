"""A client that does not read costs a bounded amount of memory, and its worker waits for it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from tests.fleets import Fleet, body, post
from tests.processes import Process
from tests.raw_tcp import RawConnection

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
FLEET = {"workers": 1, "flags": ["--idle-timeout-secs=2"]}

ANSWER_BYTES = 40_000_000
BOUND_BYTES = 4_000_000
"""For each client that does not read: our buffer and high-water marks, with room to spare."""


def resident_bytes(process: Process) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


async def idle_client(running: Fleet, request_id: str) -> RawConnection:
    """Asks for a large answer and reads its head only."""
    client = await RawConnection.connect(running.router.port, receive_buffer=1 << 16)
    await client.post(
        "/generate",
        body(sim=f"huge_body:bytes={ANSWER_BYTES}"),
        f"X-Request-Id: {request_id}\r\n",
    )
    await client.read_until(b"\r\n\r\n")
    return client


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads /proc")
async def test_eight_clients_that_do_not_read_leave_the_router_small(shared: Fleet):
    await shared.generate(sim="huge_body:bytes=1000000")
    before = resident_bytes(shared.router)
    clients = await asyncio.gather(*(idle_client(shared, f"idle-{n}") for n in range(8)))
    await asyncio.sleep(3)  # beyond the idle limit: the silence is the clients', not the worker's
    grown = resident_bytes(shared.router) - before
    assert grown < 8 * BOUND_BYTES
    state = await shared.workers[0].state()
    assert state["active"] == 8  # they cannot send on: 320 MB would fit nowhere
    for number in range(8):
        assert (await shared.trace(f"idle-{number}"))["status"] == "processing"
    assert (await shared.generate("meanwhile")).status == 200

    bodies = await asyncio.gather(*(client.read_exactly(ANSWER_BYTES) for client in clients[:2]))
    assert all(content.endswith(b'x"') for content in bodies)
    for client in clients:
        client.close()
    for number in range(8):
        trace = await shared.ended(f"idle-{number}")
        assert trace["status"] == ("completed" if number < 2 else "cancelled")


async def test_a_client_that_reads_slowly_gets_everything(shared: Fleet):
    # A window below loopback's segment size would leave the pace to the kernel's probe timers.
    client = await RawConnection.connect(shared.router.port, receive_buffer=1 << 17)
    async with client:
        await client.post("/generate", body(sim="huge_body:bytes=3000000"))
        await client.read_until(b"\r\n\r\n")
        size, piece = 0, b""
        while size < 3_000_000:
            piece = await client.read_exactly(150_000)
            size += len(piece)
            await asyncio.sleep(0.05)
        assert piece.endswith(b'x"')


async def test_a_worker_that_reads_slowly_holds_back_nobody_else(shared: Fleet):
    stuck = asyncio.create_task(
        post(shared.router, "/generate", body("x" * 8_000_000, sim="hang"), request_id="stuck")
    )
    await shared.reaches("stuck", {"routed"})
    answers = await asyncio.gather(*(shared.generate(str(n)) for n in range(20)))
    assert {answer.status for answer in answers} == {200}
    stuck.cancel()
    await asyncio.wait([stuck])
    assert (await shared.ended("stuck"))["status"] == "cancelled"


async def test_uploads_in_small_pieces_arrive_whole(shared: Fleet):
    content = body("y" * 20_000)
    async with await RawConnection.connect(shared.router.port) as client:
        await client.send(
            b"POST /generate HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % len(content)
        )
        for start in range(0, len(content), 997):
            await client.send(content[start : start + 997])
            await asyncio.sleep(0.002)
        answer = await client.read_response()
    assert msgspec.json.decode(answer.body)["meta_info"]["prompt_tokens"] == 5000
