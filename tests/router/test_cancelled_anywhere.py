"""A request is cancelled at each place where it waits: everything it held is given back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from router.api.connection import ClientConnection
from router.app import App
from router.upstream.connection import UpstreamConnection
from router.upstream.pool import ConnectionPool
from tests.fleets import body
from tests.raw_tcp import RawConnection
from tests.running import InProcessWorker, Records, at_rest, running, sim_worker
from tests.waiting import until


@pytest.fixture
async def worker() -> AsyncIterator[InProcessWorker]:
    async with sim_worker() as started:
        yield started


async def leaves_while_waiting(app: App, content: bytes, waits: Callable[[], object]) -> None:
    """A client asks, leaves once `waits()`, and nothing is left of it."""
    records = Records(app)
    client = await RawConnection.connect(app.port)
    await client.post("/generate", content, "X-Request-Id: gone\r\n")
    await until(waits)
    client.close()
    await until(lambda: at_rest(app))
    assert records.status("gone") == "cancelled"


class Hanging:
    """Stands for `ConnectionPool.connect` and hangs from the `first` call on."""

    def __init__(self, first: int, real: Callable[..., Awaitable[UpstreamConnection]]) -> None:
        self.calls = 0
        self._first = first
        self._real = real

    def method(self) -> Callable[[ConnectionPool], Awaitable[UpstreamConnection]]:
        async def connect(pool: ConnectionPool) -> UpstreamConnection:
            self.calls += 1
            if self.calls >= self._first:
                await asyncio.get_running_loop().create_future()
            return await self._real(pool)

        return connect


async def test_while_the_body_is_read(worker: InProcessWorker):
    async with running(worker.url) as app:
        records = Records(app)
        client = await RawConnection.connect(app.port)
        await client.send(
            b"POST /generate HTTP/1.1\r\nHost: t\r\nX-Request-Id: gone\r\n"
            b"Content-Length: 10\r\n\r\n12345"
        )
        await until(lambda: app.forwarding.open_requests == 1)
        client.close()
        await until(lambda: at_rest(app))
        assert records.status("gone") == "cancelled"


async def test_while_it_waits_for_admission(worker: InProcessWorker):
    async with running(worker.url, max_concurrent_requests=1) as app:
        async with await RawConnection.connect(app.port) as holder:
            await holder.post("/generate", body(sim="hang"))
            await until(lambda: app.fleet.workers[0].in_flight == 1)
            records = Records(app)
            client = await RawConnection.connect(app.port)
            await client.post("/generate", body(), "X-Request-Id: gone\r\n")
            await until(lambda: app.gate.counts.waiting == 1)
            client.close()
            await until(lambda: records.status("gone") == "cancelled")
            assert app.gate.counts.waiting == 0
        await until(lambda: at_rest(app))


@pytest.mark.interpreted
async def test_while_it_connects(worker: InProcessWorker, monkeypatch: pytest.MonkeyPatch):
    hanging = Hanging(1, ConnectionPool.connect)
    monkeypatch.setattr(ConnectionPool, "connect", hanging.method())
    async with running(worker.url) as app:
        await leaves_while_waiting(app, body(), lambda: hanging.calls == 1)


@pytest.mark.interpreted
async def test_while_it_connects_again_after_a_stale_connection(
    worker: InProcessWorker, monkeypatch: pytest.MonkeyPatch
):
    hanging = Hanging(2, ConnectionPool.connect)
    monkeypatch.setattr(ConnectionPool, "connect", hanging.method())
    async with running(worker.url) as app:
        async with await RawConnection.connect(app.port) as client:
            await client.post("/generate", body())
            assert (await client.read_response()).status == 200
        cut = body(sim="cut_before_head")  # on a connection that was used before: stale
        await leaves_while_waiting(app, cut, lambda: hanging.calls == 2)


async def test_while_the_worker_is_silent(worker: InProcessWorker):
    async with running(worker.url) as app:
        await leaves_while_waiting(app, body(sim="hang"), lambda: worker.sim.active == 1)
        await until(lambda: worker.sim.active == 0)


async def test_while_an_answer_runs(worker: InProcessWorker):
    async with running(worker.url) as app:
        content = body(stream=True, sim="hang_after:after_events=1")
        await leaves_while_waiting(app, content, lambda: worker.sim.active == 1)
        await until(lambda: worker.sim.active == 0)


async def test_while_it_pauses_before_another_attempt(worker: InProcessWorker):
    async with running(worker.url, retry_initial_backoff_ms=30_000) as app:
        content = body(sim="status:status=503")

        def pausing() -> bool:
            return app.forwarding.open_requests == 1 and app.fleet.workers[0].in_flight == 0

        records = worker.sim.records
        await leaves_while_waiting(
            app, content, lambda: len(records.list("/generate")) == 1 and pausing()
        )


@pytest.mark.interpreted
async def test_while_a_client_that_fell_behind_takes_the_rest(
    worker: InProcessWorker, monkeypatch: pytest.MonkeyPatch
):
    taking: list[ClientConnection] = []

    async def never(client: ClientConnection) -> None:
        taking.append(client)
        await asyncio.get_running_loop().create_future()

    # The worker's answer is over, and a part of it has not left us.
    monkeypatch.setattr(ClientConnection, "writing_paused", lambda client: client._exchange is None)
    monkeypatch.setattr(ClientConnection, "drained", never)
    async with running(worker.url) as app:
        await leaves_while_waiting(app, body(), lambda: taking)


async def test_when_the_router_stops(worker: InProcessWorker):
    async with running(worker.url, cut_off=True, shutdown_grace_period_secs=0) as app:
        records = Records(app)
        client = await RawConnection.connect(app.port)
        content = body(stream=True, sim="hang_after:after_events=1")
        await client.post("/generate", content, "X-Request-Id: cut\r\n")
        await client.read_until(b"data: ")
    assert at_rest(app)
    assert records.status("cut") == "failed"
    client.close()
