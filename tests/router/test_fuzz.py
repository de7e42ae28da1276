"""A slice of `python -m bench.fuzz`, and that it would notice."""

from __future__ import annotations

import pytest

from bench.fuzz import fuzz
from router.api.inference import Run
from router.api.relay import Exchange
from router.errors import UpstreamError


@pytest.mark.slow
async def test_no_peer_however_broken_crashes_hangs_leaks_or_passes_a_part_for_the_whole():
    assert await fuzz(range(2000), seed=7) == []


async def test_the_fuzzer_finds_a_broken_answer_that_is_ended_properly(
    monkeypatch: pytest.MonkeyPatch,
):
    def ended_all_the_same(exchange: Exchange, error: UpstreamError) -> None:
        exchange.error = error
        if exchange.head is not None:
            exchange._out.append(b"0\r\n\r\n")
        exchange.read_ended()
        exchange._finish()

    monkeypatch.setattr(Exchange, "answer_broken", ended_all_the_same)
    found = await fuzz(range(300), seed=7)
    assert any("a part looks like the whole" in finding.what for finding in found)


async def test_the_fuzzer_finds_a_place_that_is_not_given_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Run, "end_attempt", lambda _run, _error: None)
    found = await fuzz(range(20), seed=7)
    assert any("in flight at workers" in finding.what for finding in found)
