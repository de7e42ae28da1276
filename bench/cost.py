"""What a forwarded request costs in Python alone: a whole router in memory, without sockets.

    python -m bench.cost [--traced | --redis] [--events] [--requests 20000] [--profile | --bytecodes]

Prints CPU microseconds per JSON request of 1 KB, the best of several rounds with 64 connections; with
--events per event of 64 open streams, each of which comes in a read of its own. The
transports are stubs, so the kernel's part (four system calls a request) is not in it; what the trace
writer does is, with --traced, up to the bytes that would be sent to Redis. --redis has all of the router's
part of tracing: a private server, whose own part is not counted, takes the traces, and what has finished is
summed up. --profile lists the calls instead, by cProfile, which makes small functions look larger than they are. --bytecodes counts what the
interpreter executes for a request, by function: the same on any machine, however busy. Calls of C and what
they take are not in it, nor is what was compiled.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import pstats
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any, Final, Literal, Self

import uvloop

from bench import fuzz_world
from bench.cases import CASES, REQUEST_VARIANTS, requests
from bench.fuzz_world import Client, MemoryTransport, World
from router.api.record import Recorder
from router.policies import PolicyConfig, build_policy
from router.serving import spare_the_collector
from tracking.health import StoreHealth
from tracking.record import Record
from tracking.stats_query import StatsQuery
from tracking.tracker import Tracker, TrackerConfig
from tracking.writer import TraceWriter

HERE: Final = str(Path(__file__).parent)
Show = Literal["profile", "bytecodes"] | None
TraceFunction = Callable[[FrameType, str, Any], Any]
POLICY = "cache_aware"
CONNECTIONS = 64
ROUNDS = 5
LAST_MINUTE = StatsQuery(window_seconds=60)
BODY = (
    b'{"id":"chatcmpl-mock","object":"chat.completion","created":1700000000,"model":"mock",'
    b'"choices":[{"index":0,"message":{"role":"assistant","content":"%b"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":200,"completion_tokens":100,"total_tokens":300,'
    b'"prompt_tokens_details":{"cached_tokens":64}}}' % (b"w" * 700)
)
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
    len(BODY),
    BODY,
)
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = (
    b'data: {"id":"chatcmpl-mock","object":"chat.completion.chunk","created":1700000000,'
    b'"model":"mock","choices":[{"index":0,"delta":{"content":"token"},"logprobs":null,'
    b'"finish_reason":null}]}\n\n'
)
EVENT_CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)


class Wire(fuzz_world.WorkerWire):
    """A worker that answers in the next turn of the loop, in one piece."""

    answer = ANSWER

    def write(self, data: bytes | bytearray | memoryview) -> None:
        asyncio.get_running_loop().call_soon(self._connection.data_received, self.answer)


class StreamWire(Wire):
    """A worker that begins a stream, and says nothing in it by itself."""

    answer = STREAM


class Sink(MemoryTransport):
    """A client that reads everything."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass


class Nowhere:
    """A store that takes every record."""

    async def write(self, records: Sequence[Record]) -> int:
        return sum(bool(record.stored) for record in records)


class Rig:
    """The router, and its clients."""

    wire = Wire

    def __init__(self, world: World, traced: bool, tracker: Tracker | None = None) -> None:
        self._world = world
        self._tracker = tracker
        fuzz_world.WorkerWire = self.wire  # type: ignore[misc]
        app = world.app
        app.forwarding.group.policy = build_policy(POLICY, PolicyConfig(), Random(1))
        put = None
        if tracker is not None:
            put = tracker.put
        elif traced:
            writer = TraceWriter(Nowhere(), StoreHealth(), owner="o", now=app.clock.now)
            put = writer.put
            app.tasks.spawn(writer.run(), "writer")
        app.forwarding.recorder = Recorder(put or (lambda _live: None), app.clock, "r", POLICY)
        stock, size = requests(CASES[0])
        self._requests = [stock[n * size : (n + 1) * size] for n in range(REQUEST_VARIANTS)]
        self._connections = []
        for _ in range(CONNECTIONS):
            client = Client(world)
            client.transport.__class__ = Sink
            self._connections.append(client.connection)

    async def run(self, count: int) -> float:
        """CPU seconds of each of about `count` requests."""
        app, number = self._world.app, 0
        began = time.process_time()
        for _ in range(count // CONNECTIONS):
            for connection in self._connections:
                number += 1
                connection.data_received(self._requests[number % REQUEST_VARIANTS])
            await asyncio.sleep(0)
            while app.forwarding.open_requests:
                await asyncio.sleep(0)
            await asyncio.sleep(0)
        if self._tracker is not None:
            await self._tracker.stats(LAST_MINUTE)  # then all is written and summed up
        return (time.process_time() - began) / number


class EventsRig(Rig):
    """With a stream open at each connection; what is counted are their events."""

    wire = StreamWire

    async def run(self, count: int) -> float:
        """CPU seconds of each of about `count` events, one after the other of each stream."""
        if not self._world.upstream:
            for connection, request in zip(self._connections, self._requests, strict=False):
                connection.data_received(request)
            await self._world.quiet()
        rounds = count // CONNECTIONS
        receive = [connection.data_received for connection in self._world.upstream]
        began = time.process_time()
        for _ in range(rounds):
            for received in receive:
                received(EVENT_CHUNK)
        return (time.process_time() - began) / (rounds * CONNECTIONS)


class Bytecodes:
    """Counts, while it is on, the bytecodes and the calls of each function of ours, and of none else's."""

    def __init__(self) -> None:
        self.executed: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __enter__(self) -> Self:
        sys.settrace(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _called(self, frame: FrameType, event: str, argument: object) -> TraceFunction | None:
        folder, _, file = frame.f_code.co_filename.rpartition("/")
        if folder.startswith(HERE):
            return None
        name = f"{file}:{frame.f_code.co_qualname}"
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self.calls[name] += 1

        def count(_frame: FrameType, event: str, _argument: object) -> TraceFunction:
            self.executed[name] += event == "opcode"
            return count

        return count

    def show(self, requests: int, what: str) -> None:
        each, calls = (sum(c.values()) / requests for c in (self.executed, self.calls))
        print(f"{each:,.0f} bytecodes in {calls:.0f} calls {what}")
        for name, executed in self.executed.most_common(60):
            print(f"{executed / requests:7.1f} in {self.calls[name] / requests:5.2f}  {name}")


async def private_tracker(world: World) -> Tracker:
    """As a router has it that was given no Redis, started."""
    app = world.app
    tracker = Tracker(
        TrackerConfig(router_id="cost"),
        now=app.clock.now,
        synchronise=app.clock.synchronise,
        on_flush=app.metrics.flush_observed,
    )
    await tracker.start()
    return tracker


async def measure(count: int, *, traced: bool, redis: bool, events: bool, show: Show) -> None:
    with World() as world:
        world.begin([], "silence")
        tracker = await private_tracker(world) if redis else None
        rig = (EventsRig if events else Rig)(world, traced, tracker)
        await rig.run(count // 4)
        spare_the_collector()
        what = "an event" if events else "a request"
        if show == "bytecodes":
            with Bytecodes() as counted:
                await rig.run(10 * CONNECTIONS)
            counted.show(10 * CONNECTIONS, what)
        elif show == "profile":
            with cProfile.Profile() as calls:
                await rig.run(count)
            pstats.Stats(calls).sort_stats("tottime").print_stats(60)
        else:
            best = min([await rig.run(count) for _ in range(ROUNDS)])
            print(f"{best * 1e6:.1f} µs {what}, {'traced' if traced or redis else 'untraced'}")
        if tracker is not None:
            await tracker.close(1.0)
        await world.app.tasks.cancel()
        gc.unfreeze()


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m bench.cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--requests", type=int, default=20_000)
    tracing = parser.add_mutually_exclusive_group()
    tracing.add_argument("--traced", action="store_true")
    tracing.add_argument("--redis", action="store_true")
    parser.add_argument("--events", action="store_true")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--profile", dest="show", action="store_const", const="profile")
    shown.add_argument("--bytecodes", dest="show", action="store_const", const="bytecodes")
    asked = parser.parse_args()
    uvloop.run(
        measure(
            asked.requests,
            traced=asked.traced,
            redis=asked.redis,
            events=asked.events,
            show=asked.show,
        )
    )


if __name__ == "__main__":
    main()
