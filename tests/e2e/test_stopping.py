"""SIGTERM: readiness falls, what runs finishes, traces are flushed; a second signal ends it now."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence

import pytest

from tests.fleets import Fleet, body, error_of, error_type, fleet, traces
from tests.processes import Processes, RouterProcess, answers
from tests.raw_tcp import RawConnection, RawResponse
from tests.waiting import PATIENCE_SECONDS, POLL_SECONDS

pytestmark = [pytest.mark.e2e, pytest.mark.redis]

SLOW_STREAM = body(tokens=10, stream=True, sim="drip:after_bytes=150,seconds=0.05")


async def start_streams(router: RouterProcess, count: int) -> list[RawConnection]:
    clients = [await RawConnection.connect(router.port) for _ in range(count)]
    for number, client in enumerate(clients):
        await client.post("/generate", SLOW_STREAM, f"X-Request-Id: running-{number}\r\n")
        await client.read_until(b"data: ")
    return clients


async def drains(router: RouterProcess) -> None:
    """SIGTERM, and until it has told balancers to leave it alone."""
    assert await status(router, "/readiness") == 200
    router.signal(signal.SIGTERM)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await status(router, "/readiness") != 503:
            await asyncio.sleep(POLL_SECONDS)


async def status(router: RouterProcess, path: str) -> int:
    async with await RawConnection.connect(router.port) as client:
        await client.get(path)
        return (await client.read_response()).status


async def refused(router: RouterProcess) -> None:
    """Until nobody listens on the port."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                (await RawConnection.connect(router.port)).close()
            except ConnectionRefusedError:
                return
            await asyncio.sleep(POLL_SECONDS)


async def test_sigterm_lets_streams_finish_and_their_traces_reach_the_store(processes: Processes):
    async with fleet(processes, replicas=2, redis=True) as running:
        router, other = running.routers
        clients = await start_streams(router, 5)
        router.signal(signal.SIGTERM)
        await refused(router)
        for client in clients:
            rest = await client.read_until(b"0\r\n\r\n")
            assert b"data: [DONE]\n\n" in rest
            assert await client.read_to_end() == b""  # and the connection ends
            client.close()
        assert await router.wait() == 0
        for number in range(5):
            trace = await running.trace(f"running-{number}", other)
            assert (trace["status"], trace["output_tokens"]) == ("completed", 10)


async def test_in_the_drain_window_readiness_is_503_and_requests_are_still_served(
    processes: Processes,
):
    async with fleet(processes, workers=1, flags=["--drain-secs=60"]) as running:
        await drains(running.router)
        assert await status(running.router, "/liveness") == 200
        assert (await running.generate()).status == 200
        running.router.signal(signal.SIGTERM)
        assert await running.router.wait() == 0


async def test_beyond_the_grace_period_streams_are_cut_and_their_traces_end(processes: Processes):
    flags = ["--shutdown-grace-period-secs=0.3"]
    async with fleet(processes, replicas=2, redis=True, flags=flags) as running:
        router, other = running.routers
        client = await RawConnection.connect(router.port)
        content = body(tokens=5, stream=True, sim="hang_after:after_events=2")
        await client.post("/generate", content, "X-Request-Id: outlived\r\n")
        await client.read_until(b'"completion_tokens":2')
        router.signal(signal.SIGTERM)
        rest = b""
        try:
            rest = await client.read_to_end()
        except ConnectionResetError:
            pass
        assert not rest.endswith(b"0\r\n\r\n")
        client.close()
        assert await router.wait() == 0
        trace = await running.ended("outlived", other)
        assert (trace["status"], error_type(trace)) == ("failed", "router_lost")
        assert trace["output_tokens"] == 2


async def test_a_client_without_an_answer_yet_is_told_that_the_router_stops(processes: Processes):
    flags = ["--shutdown-grace-period-secs=0.2"]
    async with fleet(processes, workers=1, flags=flags) as running:
        asked = asyncio.create_task(running.generate(sim="hang"))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await running.received():
                await asyncio.sleep(POLL_SECONDS)
        running.router.signal(signal.SIGTERM)
        answer = await asked
        assert answer.status == 503
        assert error_of(answer)["code"] == "router_stopped"
        assert await running.router.wait() == 0


async def test_in_the_drain_window_answers_ask_their_clients_to_leave(processes: Processes):
    async with fleet(processes, workers=1, flags=["--drain-secs=60"]) as running:
        async with await RawConnection.connect(running.router.port) as client:
            await client.post("/generate", body())
            assert (await client.read_response()).header("connection") is None
            await drains(running.router)
            await client.post("/generate", body())
            assert (await client.read_response()).header("connection") == "close"
            assert await client.read_to_end() == b""
        running.router.signal(signal.SIGTERM)
        assert await running.router.wait() == 0


async def test_a_second_signal_ends_it_now(processes: Processes):
    async with fleet(processes, replicas=2, redis=True, flags=["--drain-secs=60"]) as running:
        router, other = running.routers
        client = await RawConnection.connect(router.port)
        await client.post("/generate", body(sim="hang"), "X-Request-Id: impatient\r\n")
        await running.reaches("impatient", {"routed"})
        await drains(router)
        router.signal(signal.SIGTERM)
        assert await router.wait() == 0
        assert (await running.ended("impatient", other))["status"] == "failed"
        client.close()
        await drains(other)  # its own would be as long
        other.signal(signal.SIGTERM)
        assert await other.wait() == 0


class Balancer:
    """Sends each request to a replica that is ready, and to the next where one is refused."""

    def __init__(self, routers: Sequence[RouterProcess]) -> None:
        self._routers = routers
        self._ready = list(routers)
        self._next = 0

    async def watch(self) -> None:
        """Asks for readiness for ever."""
        while True:
            ready = [await answers(f"{router.url}/readiness") for router in self._routers]
            self._ready = [r for r, is_ready in zip(self._routers, ready, strict=True) if is_ready]
            await asyncio.sleep(0.1)

    async def generate(self, request_id: str) -> RawResponse:
        for _ in range(len(self._ready)):
            self._next += 1
            router = self._ready[self._next % len(self._ready)]
            try:
                connection = await RawConnection.connect(router.port)
            except ConnectionRefusedError:
                continue
            async with connection:
                content = body(tokens=3, stream=self._next % 3 == 0)
                await connection.post("/generate", content, f"X-Request-Id: {request_id}\r\n")
                return await connection.read_response()
        raise AssertionError("no replica is ready")


async def test_a_rolling_restart_under_load_loses_no_request(processes: Processes):
    switches, flags = ["--token-seconds=0.01"], ["--drain-secs=0.7"]
    async with fleet(processes, switches=switches, flags=flags, replicas=2, redis=True) as running:
        balancer = Balancer(running.routers)
        watching = asyncio.create_task(balancer.watch())
        stopped = asyncio.Event()
        sent: list[str] = []
        statuses: set[int] = set()

        async def load(number: int) -> None:
            while not stopped.is_set():
                request_id = f"roll-{number}-{len(sent)}"
                sent.append(request_id)
                statuses.add((await balancer.generate(request_id)).status)

        clients = asyncio.gather(*(load(number) for number in range(4)))
        for router in running.routers:
            router.signal(signal.SIGTERM)
            assert await router.wait() == 0
            await processes.restart(router)
            await asyncio.sleep(0.3)  # until the balancer knows
        stopped.set()
        await clients
        watching.cancel()
        assert statuses == {200}
        await running.settled()
        await the_traces_of(running, sent)


async def the_traces_of(running: Fleet, sent: list[str]) -> None:
    assert len(sent) > 50
    known = [
        await running.routers[0].json(
            "/v1/traces/batch", method="POST", body={"request_ids": sent[start : start + 1000]}
        )
        for start in range(0, len(sent), 1000)
    ]
    found = [trace for page in known if isinstance(page, list) for trace in page]
    assert len(found) == len(sent)
    assert {trace["status"] for trace in found} == {"completed"}
    assert len({trace["router_id"] for trace in found}) == 4
    assert len(await traces(running.routers[1])) == min(1000, len(sent))
