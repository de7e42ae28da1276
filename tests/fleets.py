"""A small fleet for end-to-end tests, and the two facts that every test ends with.

    async with fleet(processes, workers=2, flags=["--sse-error-frames"]) as running:
        answer = await running.generate("hello", request_id="one")
        assert (await running.ended("one"))["status"] == "completed"

When a test leaves its fleet in peace, nothing may be in flight anywhere and every trace must have
ended: `settled`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

import aiohttp
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from tests.processes import Json, Processes, RedisProcess, RouterProcess, SimWorker, free_port
from tests.raw_tcp import RawConnection, RawResponse
from tests.waiting import PATIENCE_SECONDS, POLL_SECONDS

TERMINAL = {"completed", "failed", "cancelled", "rejected", "lost"}
# Gauges that are 0 when no request is in flight.
AT_REST = ("smg_http_connections_active", "smg_worker_requests_active", "trace_router_queue_depth")


def body(text: str = "hello", *, tokens: int = 3, stream: bool = False, **more: object) -> bytes:
    """A `/generate` request. `sim=` names a fault of the simulated worker for this request only."""
    params = {"max_new_tokens": tokens, "temperature": 0}
    return msgspec.json.encode({"text": text, "sampling_params": params, "stream": stream, **more})


def chat_body(
    text: str = "hello", *, tokens: int = 3, stream: bool = False, **more: object
) -> bytes:
    messages = [{"role": "user", "content": text}]
    given = {"model": "sim-model", "messages": messages, "max_tokens": tokens, "stream": stream}
    return msgspec.json.encode(given | more)


async def post(
    router: RouterProcess,
    path: str,
    content: bytes,
    *,
    request_id: str | None = None,
    headers: str = "",
    seconds: float = PATIENCE_SECONDS,
) -> RawResponse:
    """One request over a connection of its own. Raises EOFError when the answer is cut."""
    if request_id is not None:
        headers += f"X-Request-Id: {request_id}\r\n"
    async with await RawConnection.connect(router.port) as connection:
        await connection.post(path, content, headers)
        return await connection.read_response(seconds=seconds)


def error_of(answer: RawResponse) -> Json:
    """The error object of an answer; fails unless it has OpenAI's shape."""
    given = msgspec.json.decode(answer.body, type=dict[str, Json])["error"]
    assert set(given) == {"message", "type", "code", "param"}
    assert answer.header("x-request-id")
    return given


def error_type(trace: Json) -> str:
    """`error.type` of a trace that has an error."""
    return str(msgspec.convert(trace["error"], Json)["type"])


def attempts(trace: Json) -> list[Json]:
    return msgspec.convert(trace["attempts"], list[Json])


def headers_of(record: Json) -> list[tuple[str, str]]:
    """Header fields as a worker received them, names in lower case."""
    given = msgspec.convert(record["headers"], list[tuple[str, str]])
    return [(name.lower(), value) for name, value in given]


class Fleet:
    """Workers, routers and perhaps a Redis that belong together."""

    def __init__(
        self,
        processes: Processes,
        workers: Sequence[SimWorker],
        routers: Sequence[RouterProcess],
        redis: RedisProcess | None = None,
        key: str | None = None,
        tracked: bool = True,
    ) -> None:
        self.processes = processes
        self.workers = workers
        self.routers = routers
        self.redis = redis
        self._key = key
        self._tracked = tracked

    @property
    def router(self) -> RouterProcess:
        return self.routers[0]

    async def generate(self, text: str = "hello", **settings: object) -> RawResponse:
        """POST /generate; `request_id` is the request's, the rest the body's."""
        request_id = settings.pop("request_id", None)
        assert request_id is None or isinstance(request_id, str)
        return await post(
            self.router,
            "/generate",
            body(text, **settings),  # type: ignore[arg-type]
            request_id=request_id,
        )

    async def trace(self, request_id: str, router: RouterProcess | None = None) -> Json:
        """The trace as it is now. Raises aiohttp.ClientResponseError (404, 503)."""
        return msgspec.convert(await (router or self.router).json(f"/v1/traces/{request_id}"), Json)

    async def reaches(
        self,
        request_id: str,
        statuses: Iterable[str],
        router: RouterProcess | None = None,
        seconds: float = PATIENCE_SECONDS,
    ) -> Json:
        """The trace once it has one of these statuses. Raises TimeoutError."""
        wanted = set(statuses)
        async with asyncio.timeout(seconds):
            while True:
                try:
                    trace = await self.trace(request_id, router)
                except aiohttp.ClientResponseError as error:
                    if error.status != 404:
                        raise
                else:
                    if trace["status"] in wanted:
                        return trace
                await asyncio.sleep(POLL_SECONDS)

    async def ended(self, request_id: str, router: RouterProcess | None = None) -> Json:
        """The trace once it is terminal: a moment after the client has its last byte."""
        return await self.reaches(request_id, TERMINAL, router)

    async def faults(self, *faults: str | Json) -> None:
        """Replace the faults in force at every worker."""
        for worker in self.workers:
            await worker.faults(*faults)

    async def received(self, path: str = "/generate") -> list[Json]:
        """What all workers got, oldest first."""
        every = [record for worker in self.workers for record in await worker.requests(path)]
        return sorted(every, key=lambda record: msgspec.convert(record["arrived_at"], float))

    async def start_over(self) -> None:
        """Kill workers and routers, and start them again."""
        for process in (*self.workers, *self.routers):
            await process.kill()
            await self.processes.restart(process)

    async def settled(self, seconds: float = PATIENCE_SECONDS) -> None:
        """Nothing in flight anywhere, every trace terminal. Raises TimeoutError, AssertionError."""
        for worker in self.workers:
            if worker.returncode is None:
                await worker.wait_free(seconds)
        for router in self.routers:
            if router.returncode is None:
                await self._idle(router, seconds)

    async def _idle(self, router: RouterProcess, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while busy := await in_flight(router):
            assert loop.time() < deadline, f"{router.url} still has {busy}"
            await asyncio.sleep(POLL_SECONDS)
        if not self._tracked:
            return
        open_ = [t for t in await traces(router, key=self._key) if t["status"] not in TERMINAL]
        assert not open_, f"{router.url} shows traces that never end: {open_}"


async def traces(
    router: RouterProcess, query: str = "limit=1000", *, key: str | None = None
) -> list[Json]:
    """A page of the list. Raises aiohttp.ClientResponseError."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"{router.url}/v1/traces?{query}", raise_for_status=True) as response,
    ):
        return msgspec.json.decode(await response.read(), type=list[Json])


Samples = list[tuple[str, dict[str, str], float]]


async def samples(router: RouterProcess) -> Samples:
    """Every series of /metrics: name, labels, value."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{router.url}/metrics", raise_for_status=True) as response,
    ):
        text = await response.text()
    return [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


async def metric(router: RouterProcess, name: str, **labels: str) -> float:
    """The sum over the series of `name` that have these labels."""
    return sum(
        value
        for found, has, value in await samples(router)
        if found == name and labels.items() <= has.items()
    )


async def in_flight(router: RouterProcess) -> list[tuple[str, dict[str, str], float]]:
    """The gauges of the router that are not at rest."""
    return [series for series in await samples(router) if series[0] in AT_REST and series[2]]


@asynccontextmanager
async def fleet(
    processes: Processes,
    *,
    workers: int = 2,
    switches: Sequence[str] = (),
    replicas: int = 1,
    flags: Sequence[str] = (),
    redis: bool = False,
    key: str | None = None,
    tracked: bool = True,
) -> AsyncIterator[Fleet]:
    """Starts a fleet; at the end of the block it must have settled.

    Routers keep their ports when they are restarted. `key` opens the trace view where `flags` set
    one; `tracked` is off where they turn tracking off.
    """
    store = await processes.start(RedisProcess()) if redis else None
    started = await asyncio.gather(*(processes.start(SimWorker(*switches)) for _ in range(workers)))
    urls = [worker.url for worker in started]
    routers = [
        RouterProcess(
            urls,
            "--drain-secs=0",
            *flags,
            redis_url=None if store is None else store.url,
            port=free_port(),
        )
        for _ in range(replicas)
    ]
    await asyncio.gather(*(processes.start(router) for router in routers))
    running = Fleet(processes, started, routers, store, key, tracked)
    yield running
    await running.settled()
