"""`--processes 2`: one port, two replicas behind it, and one supervisor that keeps them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.fleets import body, samples
from tests.processes import ROOT, Json, Processes, RouterProcess, SimWorker
from tests.raw_tcp import RawConnection
from tests.waiting import PATIENCE_SECONDS, until

pytestmark = [pytest.mark.e2e]


def children(pid: int) -> list[int]:
    """Processes that `pid` has started to serve."""
    found = subprocess.run(
        ["pgrep", "-P", str(pid), "-f", "router.replica"], capture_output=True, text=True
    )
    return sorted(map(int, found.stdout.split()))


@asynccontextmanager
async def two(tmp_path: Path, *flags: str) -> AsyncIterator[RouterProcess]:
    async with Processes(tmp_path) as processes:
        worker = await processes.start(SimWorker("--token-seconds=0.005"))
        yield await processes.start(RouterProcess([worker.url], "--processes=2", *flags))


class ElsewhereRouter(RouterProcess):
    """Started in a directory where it is not to look for modules."""

    def __init__(self, directory: Path, worker_urls: Sequence[str], *flags: str) -> None:
        super().__init__(worker_urls, *flags)
        self._directory = directory

    def command(self) -> Sequence[str]:
        python, *arguments = super().command()
        return ["env", f"--chdir={self._directory}", f"PYTHONPATH={ROOT}", python, "-P", *arguments]


async def ask(router: RouterProcess, name: str) -> int:
    """The status of one request on a connection of its own."""
    async with await RawConnection.connect(router.port) as client:
        await client.post("/generate", body(), f"X-Request-Id: {name}\r\n")
        return (await client.read_response()).status


async def listed(router: RouterProcess) -> list[Json]:
    traces = await router.json("/v1/traces?limit=1000")
    assert isinstance(traces, list)
    return traces


async def all_completed(router: RouterProcess) -> bool:
    """The end of a request shows at the other process a moment later."""
    return {trace["status"] for trace in await listed(router)} == {"completed"}


async def test_a_router_in_the_working_directory_is_not_taken_for_this_one(tmp_path: Path):
    (tmp_path / "router.py").write_text("raise ImportError('not this one')\n")
    async with Processes(tmp_path) as processes:
        worker = await processes.start(SimWorker())
        router = await processes.start(ElsewhereRouter(tmp_path, [worker.url], "--processes=2"))
        assert len(children(router.pid)) == 2
        assert await ask(router, "here") == 200


async def test_both_serve_and_whoever_is_asked_answers_for_both(tmp_path: Path):
    async with two(tmp_path, "--drain-secs=0") as router:
        assert len(children(router.pid)) == 2
        served: set[object] = set()
        traces: list[Json] = []
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(served) < 2:
                names = [f"{len(served)}-{number}" for number in range(20)]
                assert set(await asyncio.gather(*(ask(router, name) for name in names))) == {200}
                await until(lambda: all_completed(router))
                traces = await listed(router)
                served = {trace["router_id"] for trace in traces}
        counted = {
            labels["process"]: value
            for name, labels, value in await samples(router)
            if name == "smg_http_requests_total" and labels["path"] == "/generate"
        }
        assert set(counted) == {"0", "1"}
        assert sum(counted.values()) == len(traces)


async def test_one_that_dies_is_replaced_and_no_later_request_notices(tmp_path: Path):
    async with two(tmp_path, "--drain-secs=0") as router:
        before = children(router.pid)
        os.kill(before[0], signal.SIGKILL)
        await until(lambda: before[0] not in children(router.pid))
        statuses = [await ask(router, f"after-{number}") for number in range(30)]
        assert set(statuses) == {200}
        await until(lambda: len(children(router.pid)) == 2 and children(router.pid) != before)
        assert before[1] in children(router.pid)


async def test_one_that_is_killed_while_it_starts_is_replaced_as_well(tmp_path: Path):
    async with Processes(tmp_path) as processes:
        worker = await processes.start(SimWorker())
        router = RouterProcess([worker.url], "--processes=2", "--drain-secs=0")
        starting = asyncio.create_task(processes.start(router))
        await until(lambda: router.log() and len(children(router.pid)) == 2)
        first, _ = children(router.pid)
        os.kill(first, signal.SIGKILL)
        await starting
        await until(lambda: first not in children(router.pid) and len(children(router.pid)) == 2)
        assert await ask(router, "after") == 200


async def test_sigterm_lets_running_streams_end_in_every_process(tmp_path: Path):
    async with two(tmp_path, "--drain-secs=0") as router:
        clients = [await RawConnection.connect(router.port) for _ in range(8)]
        for client in clients:
            await client.post("/generate", body(stream=True, tokens=150))
            await client.read_until(b"data: ")
        os.kill(router.pid, signal.SIGTERM)
        for client in clients:
            assert (await client.read_until(b"0\r\n\r\n")).endswith(
                b"data: [DONE]\n\n\r\n0\r\n\r\n"
            )
            client.close()
        await until(lambda: router.returncode is not None)
        assert router.returncode == 0
        with pytest.raises(aiohttp.ClientError):
            await router.json("/health")


async def test_without_their_supervisor_they_end(tmp_path: Path):
    async with two(tmp_path, "--drain-secs=0", "--shutdown-grace-period-secs=1") as router:
        pids = children(router.pid)
        os.kill(router.pid, signal.SIGKILL)
        await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
