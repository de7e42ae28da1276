"""A master dies under load, in a cluster and behind sentinels: which records are missing after?

None. What was acknowledged and not yet replicated is sent again, what came meanwhile was kept here.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Iterator

import msgspec
import pytest

from tests.tracking.servers import Cluster, Node, Sentinels, Topology, wait_for
from tests.tracking.traces import live
from tests.tracking.trackers import Fleet, rows, until
from tracking.tracker import Tracker

pytestmark = [
    pytest.mark.redis,
    pytest.mark.slow,
    # redis-py's cluster client drops the connections of a node that died without closing them.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

FLEET = "default"


@pytest.fixture(params=["cluster", "sentinel"])
def servers(request, programs, tmp_path) -> Iterator[Topology]:
    kind = Cluster if request.param == "cluster" else Sentinels
    topology = kind(programs["redis"](), tmp_path)
    try:
        topology.start()
        yield topology
    finally:
        topology.close()


@pytest.fixture(scope="module", autouse=True)
def what_was_dropped_is_not_blamed_on_later_tests() -> Iterator[None]:
    yield
    gc.collect()


class Load:
    """Two replicas with traces that begin, run and end; each is remembered."""

    def __init__(self, trackers: list[Tracker]) -> None:
        self.keys: list[str] = []
        self._trackers = trackers
        self._going = True
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while self._going:
            running = []
            for tracker in self._trackers:
                for _ in range(3):
                    trace = live(f"k{len(self.keys):06}", status="processing")
                    self.keys.append(trace.key)
                    tracker.put(trace)
                    running.append((tracker, trace))
            await asyncio.sleep(0.02)
            for tracker, trace in running:
                trace.move("completed")
                tracker.put(trace)

    async def stop(self) -> None:
        self._going = False
        assert self._task is not None
        await self._task


async def lost(tracker: Tracker, keys: list[str]) -> int:
    """How many of `keys` the store does not have as completed."""
    missing = 0
    for start in range(0, len(keys), 500):
        for found in (await tracker.get(keys[start : start + 500])).records:
            if found is None or msgspec.json.decode(found)["status"] != "completed":
                missing += 1
    return missing


async def caught_up(tracker: Tracker) -> bool:
    state = tracker.state()
    return state.state == "up" and state.buffered == 0


def replica_of(topology: Topology, master: Node) -> Node:
    if isinstance(topology, Sentinels):
        return next(node for node in topology.servers if node is not master)
    return topology.nodes[topology.nodes.index(master) + 3]


@pytest.mark.parametrize("how", ["killed", "hanging"])
async def test_a_fail_over_under_load_loses_nothing(servers, how, caplog):
    caplog.set_level(logging.INFO, "tracking")
    fleet = Fleet(servers.url)
    a, b = await fleet.tracker("a"), await fleet.tracker("b")
    load = Load([a, b])
    load.start()
    await asyncio.sleep(1.5)
    master = servers.master(FLEET)
    if how == "killed":
        master.kill()
    else:
        master.send(signal.SIGSTOP)
    await wait_for(lambda: servers.master(FLEET) is not master)
    await asyncio.sleep(2)
    await load.stop()
    for tracker in (a, b):
        await until(lambda tracker=tracker: caught_up(tracker), 20)
    await until(lambda: _none_lost(b, load.keys), 15)
    assert await rows(a, status="lost") == []
    assert a.state().dropped == b.state().dropped == 0
    lines = [one.message.split(" (")[0] for one in caplog.records if one.name == "tracking.store"]
    assert sorted(lines) == [
        *["trace store: reachable again"] * 2, *["trace store: unreachable"] * 2,
    ]  # fmt: skip
    await fleet.close()


async def test_what_the_new_master_never_got_is_sent_again(servers):
    """The replica is paused while more is written than the sockets between hold, then promoted."""
    fleet = Fleet(servers.url)
    a = await fleet.tracker("a")
    master = servers.master(FLEET)
    replica = replica_of(servers, master)
    replica.send(signal.SIGSTOP)
    keys = []
    for _ in range(1500):
        trace = live()
        trace.prefix_hashes = ["%016x" % number for number in range(1200)]  # some 23 KB
        a.put(trace)
        keys.append(trace.key)
    await until(lambda: caught_up(a))
    master.kill()
    replica.send(signal.SIGCONT)
    await wait_for(lambda: servers.master(FLEET) is not master)
    held = int(str(replica.ask("ZCARD", "{%s}:all" % FLEET)))
    assert held < len(keys)  # the fail-over did lose acknowledged writes
    await until(lambda: _none_lost(a, keys), 20)
    await fleet.close()


async def _none_lost(tracker: Tracker, keys: list[str]) -> bool:
    return await lost(tracker, keys) == 0
