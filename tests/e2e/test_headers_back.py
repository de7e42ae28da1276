"""Which headers of an answer come back, and whose word counts."""

from __future__ import annotations

import re

import pytest

from tests.fleets import body, error_of, fleet, post
from tests.processes import Processes, RouterProcess
from tests.raw_tcp import RawConnection, RawResponse, ScriptedServer

pytestmark = pytest.mark.e2e


async def relayed(processes: Processes, head: bytes, *flags: str) -> RawResponse:
    """The router's answer when a worker's head is `head` and its body `{}`."""

    async def script(connection: RawConnection) -> None:
        while True:
            asked = await connection.read_until(b"\r\n\r\n")
            if asked.startswith(b"POST"):
                length = int(re.search(rb"Content-Length: (\d+)", asked)[1])  # type: ignore[index]
                await connection.read_exactly(length)
                await connection.send(b"HTTP/1.1 200 Fine\r\nContent-Length: 2\r\n")
                await connection.send(head + b"\r\n{}")
            else:
                await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    async with ScriptedServer(script) as worker:
        router = await processes.start(RouterProcess([worker.url], "--drain-secs=0", *flags))
        answer = await post(router, "/generate", body(), request_id="scripted")
        await router.stop()
    return answer


async def test_end_to_end_headers_come_back_as_they_are_and_ours_win_over_the_workers(
    processes: Processes,
):
    answer = await relayed(
        processes,
        b"Content-Type: Application/JSON\r\nX-Engine: One\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"
        b"x-smg-routed-worker-id: liar\r\nX-SMG-Error-Code: liar\r\nX-Request-Id: liar\r\n"
        b"X-Request-Id-Replaced: 1\r\nKeep-Alive: timeout=5\r\nConnection: X-Hop\r\nX-Hop: 1\r\n",
    )
    assert answer.raw.startswith(b"HTTP/1.1 200 Fine\r\n")
    names = [name for name, _ in answer.headers]
    assert answer.header("content-type") == "Application/JSON"
    assert [v for n, v in answer.headers if n == "set-cookie"] == ["a=1", "b=2"]
    assert b"\r\nX-Engine: One\r\n" in answer.raw
    assert [v for n, v in answer.headers if n == "x-request-id"] == ["scripted"]
    assert names.count("x-smg-routed-worker-id") == 1
    assert b"liar" not in answer.raw
    assert not {"x-smg-error-code", "x-request-id-replaced", "x-hop", "keep-alive"} & set(names)


async def test_with_hide_worker_urls_clients_see_a_name(processes: Processes):
    answer = await relayed(processes, b"X-A: 1\r\n", "--hide-worker-urls", "--node-ids", "gpu-2")
    assert answer.header("x-smg-routed-worker-id") == "gpu-2"
    assert b"127.0.0.1" not in answer.raw


@pytest.mark.parametrize("fault", ["refuse", "cut_before_head", "garbage_head", "hang"])
async def test_with_hide_worker_urls_our_own_errors_name_no_url_either(
    processes: Processes, fault: str
):
    flags = ["--hide-worker-urls", "--node-ids", "gpu-2", "--first-byte-timeout-secs=0.3"]
    async with fleet(processes, workers=1, flags=flags) as running:
        await running.faults(fault)
        answer = await running.generate()
        assert answer.status >= 500
        assert b"worker gpu-2" in answer.body
        assert b"127.0.0.1" not in answer.raw


@pytest.mark.parametrize("fault", ["conflicting_lengths", "length_and_chunked"])
async def test_answers_with_conflicting_lengths_never_reach_a_client(
    processes: Processes, fault: str
):
    async with fleet(processes, workers=1, flags=["--disable-retries"]) as running:
        answer = await running.generate(sim=fault, request_id="conflict")
        assert answer.status == 500
        assert error_of(answer)["code"] == "worker_cut"
        assert (await running.ended("conflict"))["status"] == "failed"
