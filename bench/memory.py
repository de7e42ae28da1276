"""What a router keeps in memory: `python -m bench.memory`.

    python -m bench.memory [--target router] [--streams 2000] [--clients 8]

Resident memory of the target and of what it starts:

* idle: it has started, and one request went through;
* per open stream: so many streams of an event a second, all open at once, less idle;
* clients that never read: each has asked for an endless stream as fast as it comes; after two
  seconds, and what has come to it after ten. It must not grow.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

import msgspec

from bench.cases import Case, requests
from bench.measure import LOAD_CORE, Rig, RigError, build
from bench.targets import TARGETS, Target, Unavailable

OURS = ("router", "router-untraced", "router-interpreted")
OPENING_SECONDS = 6.0
SETTLING_SECONDS = 2.0
UNREAD_SECONDS = (2.0, 10.0)
STREAMS = Case(
    name="memory", body_bytes=1024, connections=1, stream=True, events=60, interval_us=1_000_000
)
ENDLESS = Case(name="unread", body_bytes=1024, connections=1, stream=True, events=100_000_000)


class Kept(msgspec.Struct, frozen=True):
    """Bytes, but for the number of streams."""

    idle: int
    streams: int
    with_streams: int
    unread: tuple[int, ...]

    @property
    def per_stream(self) -> float:
        return (self.with_streams - self.idle) / self.streams


def resident(rig: Rig) -> int:
    if rig.router is None:
        raise RigError("a target without a process of its own keeps nothing")
    return rig.router.memory_bytes()


def with_streams(target: Target, count: int) -> tuple[int, int]:
    """Idle, and while `count` streams are open. Raises RigError."""
    case = msgspec.structs.replace(STREAMS, connections=count)
    with Rig(target, case) as rig:
        idle = resident(rig)
        rig.load(0, OPENING_SECONDS + 2 * SETTLING_SECONDS, OPENING_SECONDS)
        time.sleep(OPENING_SECONDS + SETTLING_SECONDS)
        return idle, resident(rig)


def never_read(target: Target, clients: int) -> tuple[int, ...]:
    """What is kept for clients that ask for all and take nothing, after each of UNREAD_SECONDS."""
    stock, size = requests(ENDLESS)
    with Rig(target, ENDLESS) as rig, ExitStack() as stack:
        for _ in range(clients):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", rig.ports[0])))
            client.sendall(stock[:size])
        found = []
        begin = time.monotonic()
        for seconds in UNREAD_SECONDS:
            time.sleep(max(0.0, begin + seconds - time.monotonic()))
            found.append(resident(rig))
        return tuple(found)


def keeps(target: Target, streams: int, clients: int) -> Kept:
    idle, full = with_streams(target, streams)
    return Kept(idle, streams, full, never_read(target, clients))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m bench.memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [target.name for target in TARGETS if target.command is not None]
    parser.add_argument("--target", action="append", choices=names, help="repeatable")
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=8, help="that never read")
    asked = parser.parse_args(argv)
    after = " ".join(f"after {seconds:g} s" for seconds in UNREAD_SECONDS)
    try:
        build()
        os.sched_setaffinity(0, {LOAD_CORE})
        print(
            f"MB idle, KB per open stream ({asked.streams}), MB {after} of {asked.clients} unread"
        )
        for target in TARGETS:
            if target.name not in (asked.target or OURS):
                continue
            try:
                target.prepare()
            except Unavailable as error:
                print(f"without {target.name}: {error}")
                continue
            kept = keeps(target, asked.streams, asked.clients)
            unread = "  ".join(f"{size / 1e6:6.1f}" for size in kept.unread)
            print(
                f"{target.name:20}{kept.idle / 1e6:6.1f}  {kept.per_stream / 1e3:6.1f}  {unread}",
                flush=True,
            )
    except RigError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
