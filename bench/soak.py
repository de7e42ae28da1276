"""`python -m bench.soak`: many requests through one router, whose memory must stay flat.

    python -m bench.soak --requests 200000

One router with its defaults and a Redis, two mock workers. Answers in JSON and in events, half and
half; at the same time clients that leave in the middle of a stream, with FIN and with RST. The
load comes in rounds of new connections; resident memory is read after each.

What is bounded fills first: the prefixes of the load's prompts, pools, free lists, and the records of
the last ten seconds, kept to be sent again after a fail-over. The first quarter of the requests is for
that. The records would follow the load up and down to a quarter of --trace-buffer-bytes, 64 MiB by
default; so that buffer is made small enough to be full at any load. From then on memory must stay: a
leak of 14 bytes a request would show. At the end nothing may be in flight, every trace must have
ended, none may have been dropped, and no request but those of who left may have failed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import msgspec

from bench.cases import Case, requests
from bench.measure import (
    BUILD,
    LOAD_CORE,
    TARGET_CORE,
    WORKERS,
    Load,
    RigError,
    build,
    forwards,
    listens,
    wait,
)
from bench.processes import Pinned
from bench.targets import TARGETS, Place
from tests.fleets import TERMINAL
from tests.processes import free_port
from tests.raw_tcp import RawConnection

EVENTS: Final = 10
INTERVAL_US: Final = 1000
ROUND_SECONDS: Final = 5.0
WARM_SHARE: Final = 0.25  # of the requests: until every buffer, cache and pool has its size
TRACE_BUFFER_BYTES: Final = 8 << 20  # a quarter of it is full after a second at 1,000 requests/s
LEAVERS: Final = 4  # clients that leave, and come again
FLAT_MB: Final = 2.0
SETTLE_SECONDS: Final = 10.0
MB: Final = 1e6


class Stats(msgspec.Struct):
    """What the soak asks of `/v1/traces/stats`."""

    total_requests: int
    in_flight: int
    requests_per_status: dict[str, int]
    store: dict[str, object]


class Sample(msgspec.Struct, frozen=True):
    """Requests so far, and the router's resident memory then."""

    requests: int
    memory_mb: float


class Soak(msgspec.Struct, kw_only=True):
    """How it went."""

    requests: int
    errors: int
    left: int
    seconds: float
    start_mb: float
    samples: list[Sample]
    stats: Stats
    at_rest: bool

    @property
    def warm(self) -> Sample:
        """The first sample after the warm-up."""
        return next(s for s in self.samples if s.requests >= WARM_SHARE * self.requests)

    @property
    def growth_mb(self) -> float:
        """From the end of the warm-up to the end."""
        return self.samples[-1].memory_mb - self.warm.memory_mb

    def failures(self) -> list[str]:
        statuses = self.stats.requests_per_status
        open_ = {status: n for status, n in statuses.items() if n and status not in TERMINAL}
        told = {
            f"memory grew by {self.growth_mb:.1f} MB after the warm-up": self.growth_mb > FLAT_MB,
            f"{self.errors} requests failed": self.errors,
            f"{self.stats.in_flight} requests in flight at the end": self.stats.in_flight,
            "the metrics show something in flight at the end": not self.at_rest,
            f"traces that did not end: {open_}": open_,
            f"traces lost: {statuses.get('lost')}": statuses.get("lost"),
            f"records dropped: {self.stats.store.get('dropped')}": self.stats.store.get("dropped"),
            f"only {self.stats.total_requests} requests were traced": self.stats.total_requests
            < self.requests,
        }
        return [what for what, wrong in told.items() if wrong]


def soak(wanted: int) -> Soak:
    """Run `wanted` requests, or some more. Raises RigError."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        stock, request_bytes = mixed_requests()
        (directory / "requests").write_bytes(stock)

        def start(name: str, core: int, command: list[str]) -> Pinned:
            return stack.enter_context(Pinned(command, (core,), directory / f"{name}.log"))

        worker_ports = tuple(free_port() for _ in range(WORKERS))
        for port in worker_ports:
            sizes = [str(n) for n in (port, EVENTS, INTERVAL_US, 1024, 200)]
            wait(start(f"worker-{port}", LOAD_CORE, [str(BUILD / "worker"), *sizes]), listens(port))
        redis_port, program = free_port(), shutil.which("redis-server")
        if program is None:
            raise RigError("redis-server is needed (Debian, Ubuntu: apt-get install redis)")
        listen = ["--port", str(redis_port), "--bind", "127.0.0.1", "--save", ""]
        wait(start("redis", LOAD_CORE, [program, *listen]), listens(redis_port))
        redis_url = f"redis://127.0.0.1:{redis_port}"
        place = Place(free_port(), free_port(), worker_ports, redis_url, directory)
        command = next(t.command for t in TARGETS if t.name == "router")
        assert command is not None
        buffer = ["--trace-buffer-bytes", str(TRACE_BUFFER_BYTES)]
        router = start("router", TARGET_CORE, [*command(place), *buffer])
        wait(router, forwards(place.port, stock[:request_bytes]))

        def load() -> Load:
            times = ["0", str(ROUND_SECONDS), "0"]
            file = [str(directory / "requests"), str(request_bytes)]
            generator = start(
                "load", LOAD_CORE, [str(BUILD / "load"), "64", *times, *file, str(place.port)]
            )
            left.append(asyncio.run(leave_again_and_again(place.port, stock[-request_bytes:])))
            deadline = time.monotonic() + ROUND_SECONDS
            while not generator.ended:
                if router.ended or time.monotonic() > deadline:
                    raise RigError(f"the load does not end: {router.log.read_text()[-2000:]}")
                time.sleep(0.05)
            said = generator.log.read_text()
            try:
                return msgspec.json.decode(said, type=Load)
            except msgspec.DecodeError:
                raise RigError(f"the load generator failed: {said[-2000:]}") from None

        began, start_mb = time.monotonic(), router.memory_bytes() / MB
        done = errors = 0
        left: list[int] = []
        samples: list[Sample] = []
        while done < wanted:
            round_ = load()
            done += round_.requests
            errors += round_.errors
            samples.append(Sample(done, router.memory_bytes() / MB))
            print(f"{done} requests: {samples[-1].memory_mb:.1f} MB", flush=True)
        seconds = time.monotonic() - began
        at_rest, stats = settle(f"http://127.0.0.1:{place.port}")
        return Soak(
            requests=done,
            errors=errors,
            left=sum(left),
            seconds=seconds,
            start_mb=start_mb,
            samples=samples,
            stats=stats,
            at_rest=at_rest,
        )


def mixed_requests() -> tuple[bytes, int]:
    """Requests for JSON and for events in turn, and the length of each; the last is for events."""
    json, size = requests(Case(name="json", body_bytes=1024, connections=0))
    # Its body is as long: the prompt makes up for the one letter in `true`.
    events, _ = requests(Case(name="sse", body_bytes=1024, connections=0, stream=True))
    assert len(json) == len(events)
    pairs = (json[at : at + size] + events[at : at + size] for at in range(0, len(json), size))
    return b"".join(pairs), size


async def leave_again_and_again(port: int, request: bytes) -> int:
    """For one round: clients that ask for a stream and leave within it; how many did."""
    end = time.monotonic() + ROUND_SECONDS - 0.5

    async def client(number: int) -> int:
        left = 0
        while time.monotonic() < end:
            connection = await RawConnection.connect(port)
            await connection.send(request)
            if left % 3:
                await connection.read_until(b"data: ")
            if (left + number) % 2:
                connection.reset()
            else:
                connection.close()
            left += 1
            await asyncio.sleep(0.01)
        return left

    return sum(await asyncio.gather(*(client(number) for number in range(LEAVERS))))


def settle(url: str) -> tuple[bool, Stats]:
    """Whether all is at rest within a while, and the last word of the traces."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        stats = msgspec.json.decode(get(f"{url}/v1/traces/stats"), type=Stats)
        gauges = [
            line
            for line in get(f"{url}/metrics").decode().splitlines()
            if line.startswith(("smg_http_connections_active", "smg_worker_requests_active"))
        ]
        at_rest = bool(gauges) and all(float(line.split()[-1]) == 0 for line in gauges)
        if (at_rest and not stats.in_flight) or time.monotonic() > deadline:
            return at_rest, stats
        time.sleep(0.1)


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        body: bytes = answer.read()
        return body


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser("python -m bench.soak", description=(__doc__ or "").split("\n")[0])
    p.add_argument("--requests", type=int, default=200_000)
    args = p.parse_args(argv)
    try:
        build()
        os.sched_setaffinity(0, {LOAD_CORE})
        told = soak(args.requests)
    except RigError as error:
        print(error, file=sys.stderr)
        return 1
    print(
        f"{told.requests} requests in {told.seconds:.0f} s, {told.left} more that left\n"
        f"memory: {told.start_mb:.1f} MB at the start, {told.warm.memory_mb:.1f} MB after "
        f"{told.warm.requests} requests, {told.samples[-1].memory_mb:.1f} MB at the end "
        f"({told.growth_mb:+.1f} MB)\n"
        f"traces: {told.stats.total_requests}, of those held {told.stats.requests_per_status}"
    )
    failures = told.failures()
    print("\n".join(failures) if failures else "flat, nothing in flight, every trace ended")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
