"""What orchestrators, balancers and clients ask of the router itself. No worker is contacted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal, Protocol

import msgspec
from aiohttp import web

from router.api.about import TEXT, About
from router.api.http import json_response, text_response
from router.api.routing import Route
from router.core.worker import Worker
from router.errors import ModelNotFound, NoWorker
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


class ModelList(msgspec.Struct):
    """`/v1/models`, in OpenAI's shape."""

    data: list[Model]
    object: str = "list"


class ServerInfo(msgspec.Struct):
    """As sglang-router tells it."""

    workers_count: int
    version: str
    router_manager: bool = True
    routers_count: int = 1


LIVE: Final = About(summary="Whether this process lives", answers={200: TEXT})
READINESS: Final = About(
    summary="Whether new requests should come here", answers={200: Ready, 503: NotReady}
)
GENERATES: Final = About(summary="Whether a worker is healthy", answers={200: TEXT, 503: TEXT})
MODELS: Final = About(
    summary="The models that the workers serve", answers={200: ModelList}, errors=(NoWorker,)
)
MODEL: Final = About(
    summary="One of the models that the workers serve",
    answers={200: Model},
    errors=(ModelNotFound,),
    path={"model": {"type": "string", "description": "The name, slashes included"}},
)
SERVER_INFO: Final = About(summary="This router", answers={200: ServerInfo})


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
            Route("GET", "/health", self.live, "open", LIVE),
            Route("GET", "/liveness", self.live, "open", LIVE),
            Route("GET", "/readiness", self.readiness, "open", READINESS),
            Route("GET", "/health_generate", self.health_generate, "open", GENERATES),
            Route("GET", "/v1/models", self.models, "open", MODELS),
            Route("GET", "/v1/models/{model...}", self.model, "open", MODEL),
            Route("GET", "/get_server_info", self.server_info, "open", SERVER_INFO),
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
        served = self._served()
        if not served:
            raise NoWorker("No models available")
        return json_response(msgspec.json.encode(ModelList([Model(name) for name in served])))

    async def model(self, request: web.BaseRequest, params: dict[str, str]) -> web.Response:
        name = params["model"]
        if name not in self._served():
            raise ModelNotFound(f"The model {name[:200]!r} is not served here")
        return json_response(msgspec.json.encode(Model(name)))

    def _served(self) -> Sequence[str]:
        if self._models is not None:
            return self._models.names
        return sorted({name for w in self._fleet.workers for name in models_of(w)})

    async def server_info(self, request: web.BaseRequest, params: dict[str, str]) -> web.Response:
        told = ServerInfo(len(self._fleet.workers), self._version)
        return json_response(msgspec.json.encode(told))


def models_of(worker: Worker) -> tuple[str, ...]:
    if worker.model_ids:
        return worker.model_ids
    return () if worker.model_id is None else (worker.model_id,)
