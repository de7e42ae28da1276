"""`python -m bench.fuzz`: spoiled requests and spoiled answers, through a whole router in memory.

    python -m bench.fuzz --cases 100000 [--seed N] [--only N]

Half of the cases are requests that are not as they should be; the other half are answers of a
worker cut, spoiled or both. A finding is anything that no peer, however broken, may bring about:

* a crash: an error logged, or `internal_error` told to a client;
* a hang: an answer or a time limit came, and the request did not end;
* a leak: something still held after the clients have left; a trace that has not ended exactly once;
* smuggling: a request at a worker, or an answer at a client, that is not exactly one of its kind;
* a part taken for the whole: a broken answer that looks complete, or a whole one that does not;
* a connection used again after bytes that nobody asked for.

Each case has its own seed: `--only N` repeats one and prints it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import time
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

import uvloop

from bench.fuzz_cases import (
    ENDINGS,
    Answer,
    bad_request,
    good_answer,
    pieces,
    plain_request,
    spoil,
)
from bench.fuzz_world import Client, World
from router.errors import IdleTimeout

RELAYED = b"\r\nx-smg-routed-worker-id:"
SECONDS = 5.0  # real time that no case needs
FINE = (b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",)
MOST_FINDINGS = 20


class Finding(NamedTuple):
    case: int
    what: str


class Fuzz:
    """Runs cases by number; the same number and seed give the same case."""

    def __init__(self, world: World, seed: int, show: bool = False) -> None:
        self._world = world
        self._seed = seed
        self._show = show

    async def case(self, number: int) -> list[str]:
        """What is wrong with case `number`."""
        random = Random(f"{self._seed}-{number}")
        try:
            async with asyncio.timeout(SECONDS):
                if number % 2:
                    return await self._answer(random)
                return await self._request(random)
        except TimeoutError:
            return [f"hang: {self._world.leaks()}"]

    # -- requests --------------------------------------------------------------------------

    async def _request(self, random: Random) -> list[str]:
        world = self._world
        world.begin(list(FINE), "silence")
        data = bad_request(random)
        self._tell(request=data)
        client = Client(world)
        for piece in pieces(data, random):
            client.send(piece)
            if random.random() < 0.5:
                await asyncio.sleep(0)
        await world.quiet()
        wrong = []
        if world.at_workers:
            wrong.append("hang: the worker has answered and the request goes on")
        wrong += [w for wire in world.wires for w in requests_wrong(bytes(wire.written))]
        return wrong + await self._end(client)

    # -- answers ---------------------------------------------------------------------------

    async def _answer(self, random: Random) -> list[str]:
        world = self._world
        good, kind = good_answer(random), random.choice(("cut", "spoiled", "surplus"))
        data = good.data
        if kind == "cut":
            data = data[: random.randrange(len(data))]
        elif kind == "spoiled":
            data = spoil(data, random, [good_answer(random).data])
        else:
            # An empty line is no surplus: parsers skip it before a message.
            data += random.choice((b"x", b"HTTP/1.1 200 OK\r\n", good.data))
        ending = random.choice(ENDINGS)
        request, http11 = plain_request(random)
        self._tell(request=request, answer=data, kind=kind.encode(), ending=ending.encode())
        world.begin(pieces(data, random), ending)
        client = Client(world)
        client.send(request)
        leaves = random.random() < 0.2
        if leaves:
            for _ in range(random.randrange(12)):
                await asyncio.sleep(0)
            client.leave()
        await world.quiet()
        while world.app.forwarding.open_requests:
            world.app.watch.end_all(IdleTimeout("the worker was silent"))
            await asyncio.sleep(0)
        await asyncio.sleep(0)  # what was written last is sent
        wrong = []
        if not leaves:
            wrong += self._ends_told_apart(client, good, kind, ending)
        used = [c for c in world.upstream if c.exchanges]
        if kind == "surplus" and good.ends_itself and any(c.reusable() for c in used):
            wrong.append("a connection is kept after bytes that nobody asked for")
        return wrong + await self._end(client)

    def _ends_told_apart(self, client: Client, good: Answer, kind: str, ending: str) -> list[str]:
        world, out = self._world, bytes(client.transport.written)
        if len(world.traces) != 1:
            return [f"{len(world.traces)} traces of one request"]
        (trace,) = world.traces.values()
        relayed = RELAYED in out.lower()
        cut = trace.error is not None and trace.error.type not in ("worker_status", "worker_abort")
        said = answer_wrong(out, aborted=client.transport.aborted)
        wrong = []
        if relayed and cut and said is None:
            wrong.append(f"a part looks like the whole: {trace.error}")
        if not (relayed and cut) and said is not None:
            wrong.append(f"the answer is not whole, its trace {trace.status}: {said}")
        whole = not cut and relayed
        if kind == "cut" and whole and (good.ends_itself or ending != "fin"):
            wrong.append("an answer was cut and nobody noticed")
        if cut and relayed and not client.transport.closed:
            wrong.append("the answer broke and its client's connection is open")
        return wrong

    # -- both ------------------------------------------------------------------------------

    async def _end(self, client: Client) -> list[str]:
        """The client leaves; nothing may be left of it."""
        world = self._world
        client.leave()
        for _ in range(100):
            await asyncio.sleep(0)
            if not world.leaks():
                break
        out = bytes(client.transport.written)
        self._tell(client_got=out)
        wrong = [f"leak: {leak}" for leak in world.leaks()]
        wrong += [f"crash: {error}" for error in world.errors]
        if b"internal_error" in out:
            wrong.append("crash: the client was told of an internal error")
        if sorted(world.ends) != sorted(world.traces):
            ended = [str(live) for live in world.traces.values()]
            wrong.append(f"traces did not end exactly once: {ended}, {world.ends}")
        return wrong

    def _tell(self, **parts: bytes) -> None:
        if self._show:
            for name, part in parts.items():
                print(f"{name}: {part[:3000]!r}")


def requests_wrong(data: bytes) -> list[str]:
    """What is wrong with the requests that a worker received on one connection."""
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        if not end or unclean(head):
            return [f"smuggling: a worker got the head {head[:300]!r}"]
        fields = head.lower().split(b"\r\n")[1:]
        sizes = [field[15:] for field in fields if field.startswith(b"content-length:")]
        if len(sizes) > 1 or any(field.startswith(b"transfer-encoding") for field in fields):
            return [f"smuggling: a worker got the lengths of {head[:300]!r}"]
        size = int(sizes[0]) if sizes else 0
        if len(data) < size:
            return [f"smuggling: a worker got {len(data)} of {size} bytes"]
        data = data[size:]
    return []


def answer_wrong(data: bytes, *, aborted: bool) -> str | None:
    """Why these bytes are not one whole answer; None if they are."""
    head, end, body = data.partition(b"\r\n\r\n")
    while end and head.startswith(b"HTTP/1.1 1"):
        head, end, body = body.partition(b"\r\n\r\n")
    if not end:
        return "no whole head"
    if unclean(head):
        return f"its head {head[:300]!r}"
    fields = head.lower().split(b"\r\n")
    if b" 204 " in fields[0] or b" 304 " in fields[0]:
        return "a body where none may be" if body else None
    if b"transfer-encoding: chunked" in fields:
        return chunks_wrong(body)
    sizes = [field[15:] for field in fields if field.startswith(b"content-length:")]
    if not sizes:
        return "reset" if aborted else None
    if len(sizes) > 1 or len(body) != int(sizes[0]):
        return f"{len(body)} of {sizes} bytes"
    return None


def chunks_wrong(body: bytes) -> str | None:
    while True:
        line, end, body = body.partition(b"\r\n")
        if not end:
            return "the last chunk is missing"
        size = int(line, 16)
        if size == 0:
            break
        if body[size : size + 2] != b"\r\n":
            return "a chunk is not whole"
        body = body[size + 2 :]
    trailers, end, rest = (b"\r\n" + body).partition(b"\r\n\r\n")
    if not end or rest or unclean(trailers):
        return f"what follows the last chunk: {body[:100]!r}"
    return None


def unclean(head: bytes) -> bool:
    """Whether a line of the head could be taken for two, or for something else."""
    lines = head.split(b"\r\n")
    return any(b"\r" in line or b"\n" in line or b"\0" in line for line in lines)


async def fuzz(cases: Sequence[int], seed: int, show: bool = False) -> list[Finding]:
    """Run these cases; the first findings."""
    findings: list[Finding] = []
    with World() as world:
        one = Fuzz(world, seed, show)
        for count, number in enumerate(cases, 1):
            findings += [Finding(number, what) for what in await one.case(number)]
            if len(findings) >= MOST_FINDINGS:
                break
            if count % 10_000 == 0:
                print(f"{count} cases, {len(findings)} findings", flush=True)
        await world.quiet()
        gc.collect()  # exceptions that nobody asked for are told here
        findings += [Finding(-1, f"at the end: {error}") for error in world.errors]
        others = len(asyncio.all_tasks()) - 1
        if others:
            findings.append(Finding(-1, f"leak: {others} tasks"))
        server = world.app.listener.server
        if server is not None and server.connections:
            findings.append(Finding(-1, f"leak: {len(server.connections)} handlers"))
    return findings


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser("python -m bench.fuzz", description=(__doc__ or "").split("\n")[0])
    p.add_argument("--cases", type=int, default=100_000)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--only", type=int, help="this case alone, shown")
    args = p.parse_args(argv)
    cases = range(args.cases) if args.only is None else [args.only]
    started = time.monotonic()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        findings = runner.run(fuzz(cases, args.seed, show=args.only is not None))
    for case, what in findings:
        print(f"case {case}: {what}")
    seconds = time.monotonic() - started
    print(f"{len(cases)} cases in {seconds:.0f} s, seed {args.seed}: {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
