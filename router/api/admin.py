"""What clients ask of the workers through the router: model info, loads, metrics, cache flush."""

from __future__ import annotations

from functools import partial
from typing import Final, Literal

import msgspec
from aiohttp import web

from router.api.about import TEXT as PLAIN_TEXT
from router.api.about import About, JsonObject
from router.api.engine_metrics import merge
from router.api.http import json_response, text_response
from router.api.routing import Route, split_target
from router.caches import Caches
from router.core.engines import EngineLoad, total
from router.core.worker import Worker
from router.errors import RouterError, UpstreamError
from router.fleet import Fleet
from router.metrics import Metrics
from router.upstream.control import Control, ControlFailed, Reply, of_each
from router.upstream.engines import METRICS_BYTES, flush, loads_of

NOT_THERE: Final = (404, 405)
TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"


class NoWorkers(RouterError):
    status, code = 503, "no_workers"


class WorkerLoad(msgspec.Struct, omit_defaults=True):
    """One worker in `GET /get_loads`: tokens, -1 where unknown, and what its engine tells besides."""

    worker: str
    load: int
    engine: str | None = None
    running: int | None = None
    waiting: int | None = None
    token_capacity: int | None = None


class WorkerLoads(msgspec.Struct):
    workers: list[WorkerLoad]


class NotFlushed(msgspec.Struct):
    worker: str
    error: str


class Flushed(msgspec.Struct, omit_defaults=True):
    """`successful` and `failed` only where some failed."""

    status: Literal["success", "partial_success"]
    message: str
    workers_flushed: int
    total_http_workers: int
    total_workers: int
    successful: list[str] | None = None
    failed: list[NotFlushed] | None = None


MODEL_INFO: Final = About(
    summary="What a healthy worker says of its model",
    answers={200: JsonObject},
    errors=(NoWorkers, UpstreamError),
)
ENGINE_METRICS: Final = About(
    summary="The metrics of all workers on one page", answers={200: PLAIN_TEXT, 500: PLAIN_TEXT}
)
LOADS: Final = About(summary="Tokens at each worker", answers={200: WorkerLoads})
FLUSH: Final = About(
    summary="Every worker drops its prefix cache", answers={200: Flushed, 206: Flushed}
)


class AdminApi:
    """Each call asks workers, together and for at most a few seconds."""

    def __init__(self, fleet: Fleet, control: Control, caches: Caches, metrics: Metrics) -> None:
        self._fleet = fleet
        self._control = control
        self._caches = caches
        self._metrics = metrics

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/get_model_info", self.model_info, "open", MODEL_INFO),
            Route("GET", "/model_info", self.model_info, "open", MODEL_INFO),
            Route("GET", "/engine_metrics", self.engine_metrics, "open", ENGINE_METRICS),
            Route("GET", "/get_loads", self.loads, "admin", LOADS),
            Route("POST", "/flush_cache", self.flush_cache, "admin", FLUSH),
        ]

    async def model_info(self, request: web.BaseRequest, params: dict[str, str]) -> web.Response:
        """That of the first healthy worker that answers; it may know either of the two paths."""
        asked, _ = split_target(request.raw_path)
        paths = sorted(("/get_model_info", "/model_info"), key=lambda path: path != asked)
        failure: ControlFailed | None = None
        for worker in [worker for worker in self._fleet.engines if worker.healthy]:
            try:
                reply = await self._control.call(worker, "GET", paths[0])
                if reply.status in NOT_THERE:
                    reply = await self._control.call(worker, "GET", paths[1])
            except ControlFailed as error:
                failure = error
            else:
                headers = {"Content-Type": reply.content_type}
                return json_response(reply.body, reply.status, headers)
        if failure is not None:
            raise UpstreamError(f"no worker told its model: {failure}")
        raise NoWorkers("No workers are available")

    async def loads(self, request: web.BaseRequest, params: dict[str, str]) -> web.Response:
        """What each worker has to do, by its engine's own account."""
        said = await of_each(self._fleet.engines, partial(loads_of, self._control))
        workers = [
            self._load(target, loads)
            for engine, loads in said
            for target in self._fleet.ranks(engine)
        ]
        return json_response(msgspec.json.encode(WorkerLoads(workers)))

    def _load(self, worker: Worker, loads: list[EngineLoad] | ControlFailed) -> WorkerLoad:
        label = self._metrics.worker_label(worker)
        if isinstance(loads, ControlFailed):
            return WorkerLoad(label, -1, worker.engine)
        if worker.rank is not None:
            loads = [load for load in loads if load.dp_rank == worker.rank]
        whole = total(loads)
        return WorkerLoad(
            label,
            -1 if whole.used_tokens is None else whole.used_tokens,
            worker.engine,
            whole.running,
            whole.waiting,
            whole.token_capacity,
        )

    async def flush_cache(self, request: web.BaseRequest, params: dict[str, str]) -> web.Response:
        """Every worker drops its prefix cache; the policy no longer counts on what was there."""
        workers = self._fleet.engines
        answers = await of_each(workers, partial(flush, self._control))
        flushed = [worker for worker, answer in answers if answer is None]
        failed = [(worker, str(a)) for worker, a in answers if isinstance(a, ControlFailed)]
        for engine in flushed:
            for target in self._fleet.ranks(engine):
                self._caches.lost(target, "flushed")
        told = Flushed(
            status="partial_success" if failed else "success",
            message=flush_message(len(flushed), len(failed)),
            workers_flushed=len(flushed),
            total_http_workers=len(workers),
            total_workers=len(workers),
        )
        if failed:
            label = self._metrics.engine_label
            told.successful = [label(worker) for worker in flushed]
            told.failed = [NotFlushed(label(worker), error) for worker, error in failed]
        return json_response(msgspec.json.encode(told), 206 if failed else 200)

    async def engine_metrics(
        self, request: web.BaseRequest, params: dict[str, str]
    ) -> web.Response:
        """The workers' own metrics on one page, each sample with its worker."""
        workers = self._fleet.engines
        if not workers:
            return text_response("No available workers", 500)
        pages = [
            (self._metrics.engine_label(worker), reply.body.decode("utf-8", "replace"))
            for worker, reply in await of_each(workers, self._metrics_of)
            if isinstance(reply, Reply)
        ]
        if not pages:
            return text_response("All backend requests failed", 500)
        return web.Response(body=merge(pages).encode(), headers={"Content-Type": TEXT})

    async def _metrics_of(self, worker: Worker) -> Reply:
        reply = await self._control.call(worker, "GET", "/metrics", max_bytes=METRICS_BYTES)
        if reply.status != 200:
            raise ControlFailed(f"/metrics answered {reply.status}")
        return reply


def flush_message(flushed: int, failed: int) -> str:
    if failed:
        return f"Cache flush partially completed: {flushed} succeeded, {failed} failed"
    if flushed == 0:
        return "No HTTP workers available for cache flush"
    return f"Successfully flushed cache on all {flushed} HTTP workers"
