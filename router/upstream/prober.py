"""Active health checks, and what a worker says it serves.

Each worker has a task of its own, so that one that hangs delays nobody. A healthy worker is asked
every interval; any other one every second, so that a worker which finishes loading is taken at
once. Not on the path of requests: the client here is aiohttp's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

import aiohttp
import msgspec

from router.core.worker import Worker
from router.tasks import Tasks

log = logging.getLogger("router.health")

EAGER_SECONDS: Final = 1.0
JITTER: Final = 0.1  # share of the interval: replicas must not all ask at the same moment
MAX_BODY_BYTES: Final = 1 << 20
# It speaks HTTP but knows no such path: alive as far as anyone can tell.
NO_SUCH_PATH: Final = frozenset((404, 405, 501))


class ProberSettings(msgspec.Struct, frozen=True, kw_only=True):
    interval_seconds: float
    timeout_seconds: float
    endpoint: str


class ServedModel(msgspec.Struct):
    id: str


class ServedModels(msgspec.Struct):
    """`GET /v1/models`."""

    data: list[ServedModel]


class ModelInfo(msgspec.Struct):
    """`GET /get_model_info` of SGLang."""

    served_model_name: str | None = None
    model_path: str | None = None


class Prober:
    """Asks workers how they are and tells their `health`. `start`, `add` and `remove`, `close`."""

    def __init__(self, settings: ProberSettings, random: Random) -> None:
        self._settings = settings
        self._random = random
        self._tasks = Tasks()
        self._running: dict[Worker, Callable[[], bool]] = {}
        self._asked: dict[Worker, asyncio.Event] = {}
        self._session: aiohttp.ClientSession | None = None

    async def start(self, workers: Sequence[Worker]) -> None:
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=self._settings.timeout_seconds),
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
        )
        for worker in workers:
            self.add(worker)

    def add(self, worker: Worker) -> None:
        self._asked[worker] = asyncio.Event()
        self._running[worker] = self._tasks.spawn(self._watch(worker), f"check {worker.url}")

    def remove(self, worker: Worker) -> None:
        self._asked.pop(worker, None)
        cancel = self._running.pop(worker, None)
        if cancel is not None:
            cancel()

    async def first_round(self, deadline_seconds: float) -> None:
        """Wait until every worker has been asked once, at most so long."""
        waits = [event.wait() for event in self._asked.values()]
        if not waits:
            return
        try:
            await asyncio.wait_for(asyncio.gather(*waits), deadline_seconds)
        except TimeoutError:
            log.warning("not every worker has answered within %g s", deadline_seconds)

    async def close(self) -> None:
        await self._tasks.cancel()
        if self._session is not None:
            await self._session.close()

    async def _watch(self, worker: Worker) -> None:
        while True:
            was_healthy = worker.healthy and worker.model_id is not None
            if worker.health.enabled:
                await self._check(worker)
            if worker.healthy and not was_healthy:
                await self._learn(worker)
            if (asked := self._asked.get(worker)) is not None:
                asked.set()
            interval = self._settings.interval_seconds
            if not worker.healthy:
                interval = min(interval, EAGER_SECONDS)
            await asyncio.sleep(interval * (1 + self._random.uniform(-JITTER, JITTER)))

    async def _check(self, worker: Worker) -> None:
        try:
            status, _ = await self._get(worker, self._settings.endpoint)
        except TimeoutError:
            limit = self._settings.timeout_seconds
            worker.health.probe_failed(f"no answer to {self._settings.endpoint} in {limit:g} s")
        except (aiohttp.ClientError, OSError) as error:
            worker.health.probe_failed(str(error) or type(error).__name__)
        else:
            if 200 <= status < 300:
                worker.health.probe_succeeded()
            elif status in NO_SUCH_PATH:
                worker.health.probe_succeeded(
                    f"it answers, but has no {self._settings.endpoint} ({status})"
                )
            else:
                worker.health.probe_failed(f"{self._settings.endpoint} answered {status}")

    async def _learn(self, worker: Worker) -> None:
        """Model names, as far as the worker tells them. Nothing depends on them but labels."""
        for path, parse in (("/v1/models", _served), ("/get_model_info", _model_info)):
            try:
                status, body = await self._get(worker, path)
                names = parse(body) if status == 200 else ()
            except (aiohttp.ClientError, OSError, TimeoutError, msgspec.DecodeError):
                continue
            if names:
                worker.model_ids = names
                worker.model_id = names[0]
                return

    async def _get(self, worker: Worker, path: str) -> tuple[int, bytes]:
        assert self._session is not None
        headers = {"Authorization": f"Bearer {worker.api_key}"} if worker.api_key else {}
        async with self._session.get(
            worker.url.rstrip("/") + path, headers=headers, allow_redirects=False
        ) as response:
            return response.status, await response.content.read(MAX_BODY_BYTES)


def _served(body: bytes) -> tuple[str, ...]:
    return tuple(model.id for model in msgspec.json.decode(body, type=ServedModels).data)


def _model_info(body: bytes) -> tuple[str, ...]:
    info = msgspec.json.decode(body, type=ModelInfo)
    name = info.served_model_name or info.model_path
    return () if name is None else (name,)
