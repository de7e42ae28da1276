"""What orchestrators, balancers and clients ask of the router itself. No worker is contacted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import msgspec
from aiohttp import web

from router.api.http import json_response, text_response
from router.api.routing import Route
from router.core.worker import Worker
from router.errors import NoWorker
from tracking.view import StoreState


class Fleet(Protocol):
    """The workers known here, and whether this router is about to stop."""

    @property
    def workers(self) -> Sequence[Worker]: ...

    @property
    def draining(self) -> bool: ...

    @property
    def serves(self) -> bool: ...


class Models(Protocol):
    """What clients may ask for, where requests are routed by it."""

    @property
    def names(self) -> Sequence[str]: ...


class Ready(msgspec.Struct, tag_field="status", tag="ready"):
    """Traces are not the service: a store that is down leaves the router ready, `degraded`."""

    healthy_workers: int
    total_workers: int
    store: Literal["up", "degraded", "off"]


class NotReady(msgspec.Struct, tag_field="status", tag="not ready"):
    reason: Literal["draining", "insufficient healthy workers"]


class Model(msgspec.Struct):
    """One entry of /v1/models, in OpenAI's shape."""

    id: str
    object: str = "model"
    created: int = 0
    owned_by: str = "local"


class ProbesApi:
    """`store` tells the state of the trace store without I/O, None where tracing is off. Without
    `models` the names are those that the workers list."""

    def __init__(
        self,
        fleet: Fleet,
        store: Callable[[], StoreState | None],
        version: str,
        models: Models | None = None,
    ) -> None:
        self._fleet = fleet
        self._store = store
        self._version = version
        self._models = models

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/health", self.live, "open"),
            Route("GET", "/liveness", self.live, "open"),
            Route("GET", "/readiness", self.readiness, "open"),
            Route("GET", "/health_generate", self.health_generate, "open"),
            Route("GET", "/v1/models", self.models, "open"),
            Route("GET", "/get_server_info", self.server_info, "open"),
        ]

    async def live(self, request: web.BaseRequest, params: dict[str, str]) -> web.Response:
        return text_response("OK")

    async def readiness(self, request: web.BaseRequest, params: dict[str, str]) -> web.Response:
        state = self.ready()
        return json_response(msgspec.json.encode(state), 200 if isinstance(state, Ready) else 503)

    def ready(self) -> Ready | NotReady:
        """Whether new requests should come here."""
        if self._fleet.draining:
            return NotReady("draining")
        workers = self._fleet.workers
        healthy = sum(worker.healthy for worker in workers)
        if not self._fleet.serves:
            return NotReady("insufficient healthy workers")
        store = self._store()
        if store is None:
            return Ready(healthy, len(workers), "off")
        return Ready(healthy, len(workers), "up" if store.state == "up" else "degraded")

    async def health_generate(
        self, request: web.BaseRequest, params: dict[str, str]
    ) -> web.Response:
        if self._fleet.serves:
            return text_response("At least one router has healthy workers")
        return text_response("No routers with healthy workers available", 503)

    async def models(self, request: web.BaseRequest, params: dict[str, str]) -> web.Response:
        if self._models is not None:
            served: Sequence[str] = self._models.names
        else:
            served = sorted({name for w in self._fleet.workers for name in models_of(w)})
        if not served:
            raise NoWorker("No models available")
        return json_response(
            msgspec.json.encode({"object": "list", "data": [Model(name) for name in served]})
        )

    async def server_info(self, request: web.BaseRequest, params: dict[str, str]) -> web.Response:
        return json_response(
            msgspec.json.encode(
                {
                    "router_manager": True,
                    "routers_count": 1,
                    "workers_count": len(self._fleet.workers),
                    "version": self._version,
                }
            )
        )


def models_of(worker: Worker) -> tuple[str, ...]:
    if worker.model_ids:
        return worker.model_ids
    return () if worker.model_id is None else (worker.model_id,)
