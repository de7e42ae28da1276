"""`make demo`: two real workers, two routers on one store, and what each knows of the other's work.

The workers are llama.cpp with a small model where it can be had (`make demo` installs both), else
simulated. Requests with shared prefixes go through both routers in turn; each trace is then read
from the router that did *not* serve it. Afterwards all stays up until Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shlex
import signal
import socket
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import aiohttp
import msgspec

from deploy.children import Child, ChildFailed, Children

MODEL_FOLDER: Final = Path(sys.prefix, "demo-model")
MODEL: Final = "SmolLM2-135M-Instruct"
MAX_TOKENS: Final = 12
WORKER_PORT: Final = 30005
ROUTER_PORT: Final = 30009
START_SECONDS: Final = 60
# Between workers that are equally idle a router draws lots. With these it draws the one that the other
# router does not use, so it chooses the same whether it has heard of the other's request or not.
SEEDS: Final = (2, 7)
ENDED: Final = ("completed", "failed", "cancelled", "rejected", "lost")

GUIDE: Final = (
    "You are a travel guide. You know the cities of Europe, their trains, their museums, their food "
    "and their weather. You answer in one short and friendly sentence, you never invent prices, and "
    "when you do not know something you say so. "
)
COOK: Final = (
    "You are a cook. You know the kitchens of Asia, their spices, their knives and their fires. You "
    "answer in one short sentence, you name at most three ingredients, and you always say how many "
    "minutes the dish takes. "
)


class Ask(msgspec.Struct):
    """One request of the demo: which of the two routers gets it, and what is in it."""

    request_id: str
    router: int
    prefix: str
    question: str
    chat: bool = True
    stream: bool = False


ASKS: Final = [
    Ask("travel-1", 0, GUIDE, "What is the capital of France?", stream=True),
    Ask("cook-1", 1, COOK, "What goes with rice?", stream=True),
    Ask("travel-2", 0, GUIDE, "Where is the Prado?"),
    Ask("cook-2", 1, COOK, "What goes with tofu?"),
    Ask("travel-3", 0, GUIDE, "Is it cold in Oslo?", stream=True),
    Ask("cook-3", 1, COOK, "How do I boil an egg?", stream=True),
    Ask("generate-1", 0, "", "Once upon a time there was a router that", chat=False),
    Ask("generate-2", 1, "", "The best way to boil an egg is", chat=False, stream=True),
]


class Fleet(msgspec.Struct):
    """What was started, with its addresses."""

    real: bool
    store: str
    workers: list[str]
    routers: list[str]


def model() -> Path | None:
    """The model file, if llama.cpp and the model are installed."""
    if find_spec("xllamacpp") is None:
        return None
    return next(MODEL_FOLDER.glob("*/*.gguf"), None)


def free_ports(preferred: int, count: int) -> list[int]:
    """Ports nobody listens on: `preferred` and those after it where they are free."""
    with contextlib.ExitStack() as held:

        def take(port: int) -> int | None:
            probe = held.enter_context(socket.socket())
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return None
            return int(probe.getsockname()[1])

        return [take(preferred + i) or take(0) or 0 for i in range(count)]


class Demo:
    def __init__(self, children: Children, client: aiohttp.ClientSession) -> None:
        self._children = children
        self._client = client
        # Settings of the user's own routers are not meant for these.
        self._environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("TRACE_ROUTER_") and name != "REDIS_URL"
        }

    async def start(self, model_path: Path | None) -> Fleet:
        """Start everything and wait until it is ready. Raises ChildFailed."""
        store = self._python("store", "-m", "router", "store", "--port", "0")
        workers = {
            f"http://127.0.0.1:{port}": self._worker(f"worker-{number}", port, model_path)
            for number, port in enumerate(free_ports(WORKER_PORT, 2))
        }
        store_url = await self._printed_url(store)
        for url, child in workers.items():
            await self._answering(f"{url}/health", child)
        routers = {
            f"http://127.0.0.1:{port}": self._router(number, port, workers, store_url)
            for number, port in enumerate(free_ports(ROUTER_PORT, 2))
        }
        for url, child in routers.items():
            await self._answering(f"{url}/readiness", child)
        return Fleet(model_path is not None, store_url, list(workers), list(routers))

    def _python(self, name: str, *arguments: str) -> Child:
        return self._children.start(name, [sys.executable, *arguments], self._environment)

    def _worker(self, name: str, port: int, model_path: Path | None) -> Child:
        if model_path is not None:
            return self._python(name, "-m", "deploy.llama_worker", str(model_path), str(port))
        return self._python(
            name,
            *("-m", "tests.sim", "--port", str(port), "--model", MODEL, "--enable-cache-report"),
            *("--prefill-tokens-per-second", "500", "--token-seconds", "0.01"),
        )

    def _router(self, number: int, port: int, workers: Iterable[str], store: str) -> Child:
        name = f"router-{number}"
        return self._python(
            name,
            *("-m", "router", "--host", "127.0.0.1", "--port", str(port), "--router-id", name),
            *("--worker-urls", *workers, "--policy", "cache_aware", "--redis-url", store),
            *("--drain-secs", "0", "--shutdown-grace-period-secs", "2"),
            *("--policy-seed", str(SEEDS[number])),
        )

    async def _printed_url(self, store: Child) -> str:
        def printed() -> list[str]:
            return [line for line in store.log().splitlines() if line.startswith("redis://")]

        async def ready() -> bool:
            return bool(printed())

        await self._children.until(ready, store, START_SECONDS)
        return printed()[0]

    async def _answering(self, url: str, child: Child) -> None:
        await self._children.until(lambda: self._says_ok(url), child, START_SECONDS)

    async def _says_ok(self, url: str) -> bool:
        try:
            async with self._client.get(url) as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    async def send(self, ask: Ask, fleet: Fleet) -> None:
        """Send one request and read its answer to the end. Raises ChildFailed if it is none."""
        path, body = request_of(ask, fleet.real)
        url = fleet.routers[ask.router] + path
        headers = {"X-Request-Id": ask.request_id}
        async with self._client.post(url, json=body, headers=headers) as response:
            answer = await response.text()
        if response.status != 200:
            raise ChildFailed(f"{ask.request_id}: {response.status} from {url}: {answer[:500]}")

    async def trace(self, request_id: str, router: str) -> dict[str, object]:
        """The finished trace of `request_id` as `router` tells it."""
        async with asyncio.timeout(5):
            while True:
                async with self._client.get(f"{router}/v1/traces/{request_id}") as response:
                    trace = msgspec.json.decode(await response.read(), type=dict[str, object])
                if trace.get("status") in ENDED:
                    return trace
                await asyncio.sleep(0.02)


def request_of(ask: Ask, real: bool) -> tuple[str, dict[str, object]]:
    """Path and body. llama.cpp has no /generate; its /v1/completions takes the same prompt."""
    if not ask.chat and not real:
        sampling = {"max_new_tokens": MAX_TOKENS, "temperature": 0}
        body = {"text": ask.question, "sampling_params": sampling, "stream": ask.stream}
        return "/generate", body
    settings = {"max_tokens": MAX_TOKENS, "temperature": 0, "stream": ask.stream}
    if not ask.chat:
        return "/v1/completions", {"model": MODEL, "prompt": ask.question, **settings}
    messages = [
        {"role": "system", "content": ask.prefix},
        {"role": "user", "content": ask.question},
    ]
    return "/v1/chat/completions", {"model": MODEL, "messages": messages, **settings}


def row(ask: Ask, fleet: Fleet, trace: dict[str, object]) -> list[str]:
    port, other = (":" + fleet.routers[i].rpartition(":")[2] for i in (ask.router, 1 - ask.router))
    ttft, hit = trace.get("ttft_seconds"), trace["cache_hit_rate"]
    decision = trace.get("decision")
    return [
        ask.request_id,
        f"{trace.get('route')}{' (stream)' if ask.stream else ''}",
        port,
        other,
        str(trace["node_id"]),
        str(decision["reason"]) if isinstance(decision, dict) else "-",
        str(trace["status"]),
        f"{ttft * 1000:.0f} ms" if isinstance(ttft, float | int) else "-",
        f"{hit:.0%}" if isinstance(hit, float | int) else "unknown",
    ]


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        yield "  ".join(f"{cell:<{w}}" for cell, w in zip(cells, widths, strict=True)).rstrip()


HEADINGS: Final = [
    *("request id", "route", "asked at", "told by", "worker", "reason", "status", "TTFT"),
    "cache hit",
]


def addresses(fleet: Fleet) -> Iterator[str]:
    yield f"routers  {'  '.join(fleet.routers)}"
    yield f"workers  {'  '.join(fleet.workers)}"
    yield f"store    {fleet.store}"


def suggestions(fleet: Fleet) -> Iterator[str]:
    a, b = fleet.routers
    path, body = request_of(msgspec.structs.replace(ASKS[0], stream=False), fleet.real)
    question = shlex.quote(msgspec.json.encode(body).decode())
    yield f"curl {a}{path} -H 'X-Request-Id: mine' -H 'Content-Type: application/json' -d {question}"
    yield f"curl {b}/v1/traces/mine"
    yield f"curl '{b}/v1/traces?limit=3'"
    yield f"curl {a}/v1/traces/stats"
    yield f"curl {a}/metrics"
    yield f"a browser: {a}/ui"


def say(*lines: str) -> None:
    print(*lines, sep="\n", flush=True)


async def run(once: bool, simulated: bool) -> None:
    """The whole demo. Raises ChildFailed when a part fails."""
    model_path = None if simulated else model()
    if model_path is not None:
        say(f"Starting two llama.cpp workers with {model_path.stem}, a store and two routers ...")
    else:
        why = "as asked" if simulated else "llama.cpp or its model is not installed"
        say(f"Starting two SIMULATED workers ({why}), a store and two routers ...")
    timeout = aiohttp.ClientTimeout(total=120)
    async with Children() as children, aiohttp.ClientSession(timeout=timeout) as client:
        demo = Demo(children, client)
        fleet = await demo.start(model_path)
        say(
            "",
            *addresses(fleet),
            "",
            f"Sending {len(ASKS)} requests, in turn through both routers.",
        )
        if fleet.real:
            say("(llama.cpp has no /generate: /v1/completions stands in for it.)")
        rows = []
        for ask in ASKS:
            await demo.send(ask, fleet)
            rows.append(
                row(ask, fleet, await demo.trace(ask.request_id, fleet.routers[1 - ask.router]))
            )
        say("Each trace, as told by the router that did not serve the request:", "")
        say(*table([HEADINGS, *rows]), "")
        if once:
            return
        say("All of it stays up. Try:", "", *(f"  {line}" for line in suggestions(fleet)), "")
        say(f"Logs are in {children.folder}. Ctrl-C ends everything.")
        while True:
            children.check()
            await asyncio.sleep(0.5)


async def run_until_asked_to_end(once: bool, simulated: bool) -> None:
    task = asyncio.current_task()
    assert task is not None
    asked_to_end = False

    def end() -> None:
        nonlocal asked_to_end
        if not asked_to_end:  # again would cut the cleaning up short
            asked_to_end = True
            say("", "Ending everything ...")
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, end)
    try:
        await run(once, simulated)
    except asyncio.CancelledError:
        if not asked_to_end:
            raise


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m deploy.demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end after the table")
    parser.add_argument("--simulated", action="store_true", help="simulated workers, no model")
    asked = parser.parse_args(arguments)
    try:
        asyncio.run(run_until_asked_to_end(asked.once, asked.simulated))
    except (ChildFailed, aiohttp.ClientError, TimeoutError) as error:
        print(f"demo: {error!r}" if not str(error) else f"demo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
