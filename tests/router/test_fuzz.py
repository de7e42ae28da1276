"""A slice of `python -m bench.fuzz`, and that it would notice."""

from __future__ import annotations

import asyncio

import pytest

from bench.fuzz import fuzz
from bench.fuzz_world import Client, World
from router.api.inference import Run
from router.api.relay import Exchange
from router.errors import UpstreamError


@pytest.mark.slow
async def test_no_peer_however_broken_crashes_hangs_leaks_or_passes_a_part_for_the_whole():
    assert await fuzz(range(2000), seed=7) == []


@pytest.mark.interpreted
async def test_the_fuzzer_finds_a_broken_answer_that_is_ended_properly(
    monkeypatch: pytest.MonkeyPatch,
):
    def ended_all_the_same(exchange: Exchange, error: UpstreamError) -> None:
        exchange.error = error
        if exchange.head is not None:
            exchange._client.write(b"0\r\n\r\n")
        exchange._finish()

    monkeypatch.setattr(Exchange, "answer_broken", ended_all_the_same)
    found = await fuzz(range(300), seed=7)
    assert any("a part looks like the whole" in finding.what for finding in found)


@pytest.mark.interpreted
async def test_the_fuzzer_finds_a_place_that_is_not_given_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Run, "end_attempt", lambda _run, _error, _now: None)
    found = await fuzz(range(20), seed=7)
    assert any("in flight at workers" in finding.what for finding in found)


async def test_a_client_that_leaves_at_any_turn_of_the_loop_leaves_nothing_behind():
    request = b"POST /generate HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\n{}"
    with World() as world:
        left_open = 0
        for turns in range(25):
            world.begin([b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"], "silence")
            client = Client(world)
            client.send(request)
            for _ in range(turns):
                await asyncio.sleep(0)
            client.leave()
            await world.quiet()
            assert world.leaks() == [], f"left after {turns} turns"
            left_open += not all(connection.closed for connection in world.upstream)
        assert left_open, "it never came to an answer"
