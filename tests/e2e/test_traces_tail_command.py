"""`trace-router traces` as a process: lines as they happen, until Ctrl-C or until nobody reads."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE

import msgspec
import pytest

from tests.fleets import Fleet
from tests.waiting import PATIENCE_SECONDS

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
FLEET = {"workers": 1, "replicas": 2, "redis": True}


COMMAND = [sys.executable, "-c", "import sys; from router.cli import main; sys.exit(main())"]


async def tail(running: Fleet, *words: str) -> asyncio.subprocess.Process:
    """A tail that has told its first event. The first replica serves, the second is asked."""
    urls = ("--url", running.routers[1].url, "--url", running.routers[0].url)
    started = await asyncio.create_subprocess_exec(
        *COMMAND, "traces", "tail", *urls, *words, stdout=PIPE, stderr=PIPE
    )
    assert started.stdout is not None
    async with asyncio.timeout(PATIENCE_SECONDS):
        first = asyncio.ensure_future(started.stdout.readline())
        while not first.done():
            await running.generate()
            await asyncio.sleep(0.05)
    assert msgspec.json.decode(await first)["status"] == "completed"
    return started


async def lines_until(started: asyncio.subprocess.Process, request_id: str) -> None:
    assert started.stdout is not None
    async with asyncio.timeout(PATIENCE_SECONDS):
        while msgspec.json.decode(await started.stdout.readline())["request_id"] != request_id:
            pass


async def test_it_goes_on_at_another_replica_and_ends_well_with_ctrl_c(shared: Fleet):
    started = await tail(shared, "--status", "completed")
    await shared.routers[1].stop()
    await shared.generate(request_id="after")
    await lines_until(started, "after")
    started.send_signal(signal.SIGINT)
    _, said = await asyncio.wait_for(started.communicate(), PATIENCE_SECONDS)
    assert started.returncode == 0
    assert said.decode().splitlines() == ["trace-router: connecting again: the router ended it"]
    await shared.processes.restart(shared.routers[1])


async def test_it_ends_quietly_when_nobody_reads_any_more(shared: Fleet):
    started = await tail(shared, "--status", "completed")
    assert started.stdout is not None
    started.stdout._transport.close()  # type: ignore[attr-defined]
    async with asyncio.timeout(PATIENCE_SECONDS):
        while started.returncode is None:
            await shared.generate()
            await asyncio.sleep(0.05)
    assert started.stderr is not None
    assert (started.returncode, await started.stderr.read()) == (0, b"")


@pytest.mark.parametrize("words", [("stats",), ("list",), ("export",)])
async def test_a_full_disk_is_told_in_a_line(shared: Fleet, words: tuple[str, ...]):
    await shared.generate()
    url = ("--url", shared.routers[0].url)
    full = os.open("/dev/full", os.O_WRONLY)
    started = await asyncio.create_subprocess_exec(
        *COMMAND, "traces", *words, *url, stdout=full, stderr=PIPE
    )
    os.close(full)
    _, said = await asyncio.wait_for(started.communicate(), PATIENCE_SECONDS)
    assert started.returncode == 1
    assert said.decode() == "trace-router: cannot write: No space left on device\n"


async def test_ctrl_c_ends_a_command_that_waits_without_a_traceback():
    asked = asyncio.Event()

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        asked.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(never_answer, "127.0.0.1", 0) as router:
        url = f"http://127.0.0.1:{router.sockets[0].getsockname()[1]}"
        started = await asyncio.create_subprocess_exec(
            *COMMAND, "traces", "list", "--url", url, stdout=PIPE, stderr=PIPE
        )
        await asyncio.wait_for(asked.wait(), PATIENCE_SECONDS)
        started.send_signal(signal.SIGINT)
        _, said = await asyncio.wait_for(started.communicate(), PATIENCE_SECONDS)
    assert (started.returncode, said) == (130, b"")
