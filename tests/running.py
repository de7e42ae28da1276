"""A whole router inside the test's own process, on a free port of loopback.

    async with sim_worker() as worker, running(worker.url, api_key="k") as app:
        answer = await call(app, "GET", "/workers", key="k")

No trace store is started unless asked for (`enable_request_tracking=True`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp
import msgspec

from router.api.record import Recorder
from router.app import App
from router.config import Config
from tests.sim.call import WorkerConfig
from tests.sim.worker import Worker
from tests.waiting import PATIENCE_SECONDS, until
from tracking.lifecycle import LiveTrace
from tracking.trace import ErrorType, Status

Json = dict[str, object]
QUICK: Mapping[str, object] = {
    "host": "127.0.0.1",
    "port": 0,
    "enable_request_tracking": False,
    "drain_secs": 0,
    "shutdown_grace_period_secs": 1,
}


@asynccontextmanager
async def running(*worker_urls: str, **settings: object) -> AsyncIterator[App]:
    """A router that serves; `settings` are those of `Config`. At the end of the block nothing may be
    in flight, unless `cut_off`: then the stop ends it."""
    cut_off = settings.pop("cut_off", False)
    given = {**QUICK, "worker_urls": worker_urls, **settings}
    config = Config(**given)  # type: ignore[arg-type]
    app = await asyncio.to_thread(App, config)  # it reads files, as a start may
    try:
        await app.start()
        yield app
        await until(lambda: cut_off or at_rest(app))
    finally:
        now = asyncio.Event()
        now.set()
        await app.stop(now)


class InProcessWorker:
    """A simulated worker in this process."""

    def __init__(self, sim: Worker, port: int, control_port: int) -> None:
        self.sim = sim
        self.url = f"http://127.0.0.1:{port}"
        self.control_port = control_port  # also the bootstrap port of a prefill worker


@asynccontextmanager
async def sim_worker(config: WorkerConfig | None = None) -> AsyncIterator[InProcessWorker]:
    sim = Worker(config or WorkerConfig())
    ports = await sim.start("127.0.0.1", 0, 0)
    try:
        yield InProcessWorker(sim, ports["port"], ports["control_port"])
    finally:
        await sim.close()


class Answer(msgspec.Struct):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Json:
        return msgspec.json.decode(self.body, type=Json)


async def call(
    app: App,
    method: str,
    path: str,
    body: object = None,
    *,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """One request. `body` is bytes, or what becomes JSON."""
    sent = {**(headers or {})}
    if key is not None:
        sent["Authorization"] = f"Bearer {key}"
    data = body if isinstance(body, bytes | None) else msgspec.json.encode(body)
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_SECONDS)) as session,
        session.request(
            method, f"http://127.0.0.1:{app.port}{path}", data=data, headers=sent
        ) as response,
    ):
        return Answer(response.status, response.headers, await response.read())


class Records:
    """The traces of a router, as they are now."""

    def __init__(self, app: App) -> None:
        self.live: dict[str, LiveTrace] = {}
        self._put_on = app._put()
        app.forwarding.recorder = Recorder(self._put, app.clock, "r", "p")

    def _put(self, live: LiveTrace) -> None:
        self.live[live.request_id] = live
        self._put_on(live)

    def status(self, request_id: str) -> Status | None:
        live = self.live.get(request_id)
        return None if live is None else live.status

    def error_type(self, request_id: str) -> ErrorType | None:
        error = self.live[request_id].error
        return None if error is None else error.type


def at_rest(app: App) -> bool:
    """Nothing is in flight anywhere in this router."""
    workers = app.fleet.workers
    return (
        app.forwarding.open_requests == 0
        and len(app.watch) == 0
        and not any(w.in_flight for w in workers)
        and app.gate.counts.waiting == 0
    )
