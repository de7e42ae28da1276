"""A request is freed when it ends: none waits in memory for the garbage collector."""

from __future__ import annotations

import gc
import weakref

import pytest

from bench.fuzz import fuzz
from bench.fuzz_world import Client, World
from router.api.inference import Run

OURS = ("router.", "tracking.")


@pytest.mark.interpreted
async def test_a_request_is_gone_when_it_has_ended(monkeypatch):
    runs: list[weakref.ref[Run]] = []
    began = Run.start

    def start(self: Run) -> None:
        runs.append(weakref.ref(self))
        began(self)

    monkeypatch.setattr(Run, "start", start)
    with World() as world:
        world.begin([b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"], "silence")
        client = Client(world)
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                client.send(b"POST /generate HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\n{}")
                await world.quiet()
        finally:
            gc.enable()
        assert len(runs) == 3
        assert [ref() for ref in runs] == [None] * 3
        client.leave()
        await world.quiet()


async def test_however_a_request_ends_it_leaves_nothing_to_the_collector():
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        assert await fuzz(range(600), seed=7) == []  # it collects at its end
        kinds = {type(it) for it in gc.garbage}
        ours = {kind.__name__ for kind in kinds if kind.__module__.startswith(OURS)}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert ours == set()
