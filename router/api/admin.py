"""What clients ask of the workers through the router: model info, loads, metrics, cache flush."""

from __future__ import annotations

from functools import partial
from typing import Final

import msgspec
from aiohttp import web

from router.api.engine_metrics import merge
from router.api.http import json_response, text_response
from router.api.routing import Route, split_target
from router.caches import Caches
from router.core.worker import Worker
from router.errors import RouterError, UpstreamError
from router.fleet import Fleet
from router.metrics import Metrics
from router.upstream.control import Control, ControlFailed, Reply, of_each

METRICS_BYTES: Final = 16 << 20
NOT_THERE: Final = (404, 405)
TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"


class NoWorkers(RouterError):
    status, code = 503, "no_workers"


class Load(msgspec.Struct):
    """One rank of `GET /get_load`; `num_total_tokens` is what `/v1/loads` says instead."""

    num_tokens: int | None = None
    num_total_tokens: int | None = None
    num_used_tokens: int | None = None


class Loads(msgspec.Struct):
    """`GET /v1/loads`."""

    loads: list[Load]


class AdminApi:
    """Each call asks workers, together and for at most a few seconds."""

    def __init__(self, fleet: Fleet, control: Control, caches: Caches, metrics: Metrics) -> None:
        self._fleet = fleet
        self._control = control
        self._caches = caches
        self._metrics = metrics

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/get_model_info", self.model_info, "open"),
            Route("GET", "/model_info", self.model_info, "open"),
            Route("GET", "/engine_metrics", self.engine_metrics, "open"),
            Route("GET", "/get_loads", self.loads, "admin"),
            Route("POST", "/flush_cache", self.flush_cache, "admin"),
        ]

    async def model_info(self, request: web.BaseRequest, params: dict[str, str]) -> web.Response:
        """That of the first healthy worker that answers; it may know either of the two paths."""
        asked, _ = split_target(request.raw_path)
        paths = sorted(("/get_model_info", "/model_info"), key=lambda path: path != asked)
        failure: ControlFailed | None = None
        for worker in [worker for worker in self._fleet.workers if worker.healthy]:
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
        """Tokens at each worker; -1 for one that does not say."""
        said = await of_each(self._fleet.workers, self._load)
        workers = [
            {
                "worker": self._metrics.worker_label(worker),
                "load": -1 if isinstance(load, ControlFailed) else load,
            }
            for worker, load in said
        ]
        return json_response(msgspec.json.encode({"workers": workers}))

    async def _load(self, worker: Worker) -> int:
        reply = await self._control.call(worker, "GET", "/get_load")
        try:
            if reply.status in NOT_THERE:
                reply = await self._control.call_good(worker, "GET", "/v1/loads")
                ranks = msgspec.json.decode(reply.body, type=Loads).loads
            else:
                given = msgspec.json.decode(reply.body, type=list[Load] | Load)
                ranks = given if isinstance(given, list) else [given]
        except msgspec.DecodeError as error:
            raise ControlFailed(f"its load is not understood: {error}") from None
        known = [tokens for rank in ranks if (tokens := tokens_of(rank)) is not None]
        if not known:
            raise ControlFailed("it does not tell its load in tokens")
        return sum(known)

    async def flush_cache(self, request: web.BaseRequest, params: dict[str, str]) -> web.Response:
        """Every worker drops its prefix cache; the policy no longer counts on what was there."""
        workers = list(self._fleet.workers)
        post = partial(self._control.call_good, method="POST", path="/flush_cache")
        answers = await of_each(workers, post)
        flushed = [worker for worker, answer in answers if isinstance(answer, Reply)]
        failed = [(worker, str(a)) for worker, a in answers if isinstance(a, ControlFailed)]
        for worker in flushed:
            self._caches.lost(worker, "flushed")
        told: dict[str, object] = {
            "status": "partial_success" if failed else "success",
            "message": flush_message(len(flushed), len(failed)),
            "workers_flushed": len(flushed),
            "total_http_workers": len(workers),
            "total_workers": len(workers),
        }
        if failed:
            label = self._metrics.worker_label
            told["successful"] = [label(worker) for worker in flushed]
            told["failed"] = [{"worker": label(w), "error": error} for w, error in failed]
        return json_response(msgspec.json.encode(told), 206 if failed else 200)

    async def engine_metrics(
        self, request: web.BaseRequest, params: dict[str, str]
    ) -> web.Response:
        """The workers' own metrics on one page, each sample with its worker."""
        workers = list(self._fleet.workers)
        if not workers:
            return text_response("No available workers", 500)
        pages = [
            (self._metrics.worker_label(worker), reply.body.decode("utf-8", "replace"))
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


def tokens_of(rank: Load) -> int | None:
    said = (rank.num_tokens, rank.num_total_tokens, rank.num_used_tokens)
    return next((tokens for tokens in said if tokens is not None), None)


def flush_message(flushed: int, failed: int) -> str:
    if failed:
        return f"Cache flush partially completed: {flushed} succeeded, {failed} failed"
    if flushed == 0:
        return "No HTTP workers available for cache flush"
    return f"Successfully flushed cache on all {flushed} HTTP workers"
