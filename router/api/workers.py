"""Workers over HTTP: `/workers` as sglang-router 0.3.2 has it, and the calls of its 0.2.1.

Changes are accepted (202) and done behind; `GET /workers/{id}` tells how far they are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Final, Literal
from urllib.parse import parse_qs
from uuid import UUID

import msgspec
from aiohttp import web
from msgspec import Meta

from router.api.about import TEXT, About, Either, asked
from router.api.body import read_body
from router.api.http import json_response, text_response
from router.api.routing import Route, split_target
from router.core.breaker import BreakerState
from router.core.worker import Role, Worker
from router.errors import TooLarge
from router.member import Changes, Details, Job, Member, details_of, target_id
from router.registry import Registry
from tracking.values import Schema

BODY_BYTES: Final = 1 << 20
UNKNOWN_MODEL: Final = "unknown"
WORKER_URL: Final[Schema] = {"type": "string", "format": "worker-url"}


class NewWorker(Details, kw_only=True):
    """`POST /workers`. Of what sglang-router knows and we do not, some is refused, see `refusal`."""

    url: Annotated[str, Meta(extra_json_schema=WORKER_URL)]


class WorkerInfo(msgspec.Struct, omit_defaults=True):
    """A worker as `/workers` shows it. `load` counts all replicas' requests in flight."""

    id: str
    url: str
    node_id: str
    model_id: str
    priority: int
    cost: float
    worker_type: str
    is_healthy: bool
    load: int
    connection_mode: str
    metadata: dict[str, str]
    disable_health_check: bool
    draining: bool
    breaker: BreakerState
    origin: str
    engine: str | None = None
    engine_version: str | None = None
    bootstrap_port: int | None = None
    dp_rank: int | None = None
    dp_size: int | None = None
    job_status: Job | None = None


class Counts(msgspec.Struct):
    """Of workers, by their type."""

    prefill_count: int
    decode_count: int
    regular_count: int


class WorkerList(msgspec.Struct):
    workers: list[WorkerInfo]
    total: int
    stats: Counts


class Accepted(msgspec.Struct, omit_defaults=True):
    """Done behind; `url` and `location` are those of a new worker."""

    status: Literal["accepted"]
    worker_id: str
    message: str
    url: str | None = None
    location: str | None = None


class Refused(msgspec.Struct):
    """As sglang-router says no."""

    error: str
    code: str


class Urls(msgspec.Struct):
    urls: list[str]


ID: Final[Mapping[str, Schema]] = {"id": {"type": "string", "format": "uuid"}}
URL: Final = asked("the worker's URL", WORKER_URL)
REFUSED: Final[Mapping[int, object]] = {400: Refused, 404: Refused}
SHOW_ALL: Final = About(summary="All workers", answers={200: WorkerList})
CREATE: Final = About(
    summary="Add a worker",
    answers={202: Accepted, 400: Either(Refused, TEXT), 422: TEXT},
    errors=(TooLarge,),
    body=NewWorker,
    headers={"Location": "where it will be"},
)
SHOW: Final = About(summary="A worker", answers={200: WorkerInfo, **REFUSED}, path=ID)
UPDATE: Final = About(
    summary="Change a worker",
    answers={202: Accepted, 422: TEXT, **REFUSED},
    errors=(TooLarge,),
    body=Changes,
    path=ID,
)
DELETE: Final = About(
    summary="Remove a worker, once its requests have ended",
    answers={202: Accepted, **REFUSED},
    path=ID,
)
LEGACY_ADD: Final = About(
    summary="Add a worker, and wait until it is healthy",
    answers={200: TEXT, 400: TEXT},
    query={"url": URL, "api_key": asked("the key that it asks for")},
    required=("url",),
)
LEGACY_REMOVE: Final = About(
    summary="Remove a worker",
    answers={200: TEXT, 400: TEXT},
    query={"url": URL},
    required=("url",),
)
LEGACY_LIST: Final = About(summary="The URLs of all workers", answers={200: Urls})


class WorkersApi:
    """All calls need the admin key, where one is set."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/workers", self.show_all, "admin", SHOW_ALL),
            Route("POST", "/workers", self.create, "admin", CREATE),
            Route("GET", "/workers/{id}", self.show, "admin", SHOW),
            Route("PUT", "/workers/{id}", self.update, "admin", UPDATE),
            Route("DELETE", "/workers/{id}", self.delete, "admin", DELETE),
            Route("POST", "/add_worker", self.legacy_add, "admin", LEGACY_ADD),
            Route("POST", "/remove_worker", self.legacy_remove, "admin", LEGACY_REMOVE),
            Route("GET", "/list_workers", self.legacy_list, "admin", LEGACY_LIST),
        ]

    # -- 0.3.2 -----------------------------------------------------------------------------

    async def show_all(self, request: web.BaseRequest, params: dict[str, str]) -> web.Response:
        members = in_order(self._registry.members)
        workers = [info(m, target) for m in members for target in m.targets or (m.worker,)]
        roles = Counter(worker.worker_type for worker in workers)
        return _json(
            WorkerList(
                workers, len(workers), Counts(roles["prefill"], roles["decode"], roles["regular"])
            )
        )

    async def create(self, request: web.BaseRequest, params: dict[str, str]) -> web.Response:
        body = await read_body(request, BODY_BYTES)
        try:
            new = msgspec.json.decode(body, type=NewWorker)
        except msgspec.ValidationError as error:
            return text_response(f"Failed to deserialize the JSON body: {error}", 422)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return text_response(f"Failed to parse the request body as JSON: {error}", 400)
        if (problem := refusal(new, self._registry.roles)) is not None:
            return _bad(problem)
        try:
            member = await self._registry.add(new.url, details_of(new))
        except ValueError as error:
            return _bad(str(error))
        location = f"/workers/{member.id}"
        return _json(
            Accepted(
                "accepted",
                member.id,
                "Worker addition queued for background processing",
                url=new.url,
                location=location,
            ),
            202,
            {"Location": location},
        )

    async def show(self, request: web.BaseRequest, params: dict[str, str]) -> web.Response:
        found = self._find(params["id"])
        if isinstance(found, web.Response):
            return found
        asked = str(UUID(params["id"]))
        ranks = (rank for rank in found.ranks if target_id(found, rank) == asked)
        return _json(info(found, next(ranks, found.worker)))

    async def update(self, request: web.BaseRequest, params: dict[str, str]) -> web.Response:
        found = self._find(params["id"])
        if isinstance(found, web.Response):
            return found
        body = await read_body(request, BODY_BYTES)
        try:
            self._registry.update(found, msgspec.json.decode(body, type=Changes))
        except msgspec.ValidationError as error:
            return text_response(f"Failed to deserialize the JSON body: {error}", 422)
        except (ValueError, UnicodeDecodeError) as error:
            return _bad(str(error))
        return _accepted(found, "update")

    async def delete(self, request: web.BaseRequest, params: dict[str, str]) -> web.Response:
        found = self._find(params["id"])
        if isinstance(found, web.Response):
            return found
        self._registry.remove(found)
        return _accepted(found, "removal")

    def _find(self, given: str) -> Member | web.Response:
        try:
            member_id = str(UUID(given))
        except ValueError:
            return _bad(f"Invalid worker_id format (expected UUID): {given[:100]}")
        member = self._registry.get(member_id)
        if member is not None:
            return member
        return _json(Refused(f"Worker {member_id} not found", "WORKER_NOT_FOUND"), 404)

    # -- 0.2.1 -----------------------------------------------------------------------------

    async def legacy_add(self, request: web.BaseRequest, params: dict[str, str]) -> web.Response:
        """Answers when the worker is healthy, or has not become so in time."""
        query = parse_qs(split_target(request.raw_path)[1])
        if "url" not in query:
            return text_response("Failed to deserialize query string: missing field `url`", 400)
        url = query["url"][0]
        try:
            member = self._registry.find(url)
            if member is not None and member.joined and not member.worker.draining:
                return text_response(f"Worker {url} already exists", 400)
            if "regular" not in self._registry.roles:
                return text_response("POST /workers takes prefill and decode workers", 400)
            key = query.get("api_key", [None])[0]
            member = await self._registry.add(url, Details(api_key=key))
        except ValueError as error:
            return text_response(str(error), 400)
        await member.settled.wait()
        if member.joined:
            return text_response(f"Worker {url} added successfully")
        reason = "it was removed meanwhile" if member.job is None else member.job.message
        return text_response(f"Health check failed: {reason}", 400)

    async def legacy_remove(self, request: web.BaseRequest, params: dict[str, str]) -> web.Response:
        query = parse_qs(split_target(request.raw_path)[1])
        if "url" not in query:
            return text_response("Failed to deserialize query string: missing field `url`", 400)
        url = query["url"][0]
        try:
            member = self._registry.find(url)
        except ValueError:
            member = None
        if member is None:
            return text_response(f"Worker {url} not found", 400)
        self._registry.remove(member)
        return text_response(f"Worker {url} removed successfully")

    async def legacy_list(self, request: web.BaseRequest, params: dict[str, str]) -> web.Response:
        return _json(Urls([member.url for member in in_order(self._registry.members)]))


def refusal(new: NewWorker, roles: Collection[Role]) -> str | None:
    """What cannot be done, and would mislead if it were only ignored."""
    if new.worker_type not in roles:
        return f"worker_type {new.worker_type!r}: this router takes {' and '.join(roles)} workers"
    return None


def in_order(members: Sequence[Member]) -> list[Member]:
    """By name, numbers by their size: the same at every replica."""

    def by_name(member: Member) -> list[tuple[int, str]]:
        parts = re.split(r"(\d+)", member.worker.node_id)
        return [(int(part) if part.isdigit() else -1, part) for part in parts]

    return sorted(members, key=by_name)


def info(member: Member, worker: Worker) -> WorkerInfo:
    """Of a worker as a whole, or of one of its ranks."""
    whole = worker.rank is None
    return WorkerInfo(
        id=target_id(member, worker),
        url=member.url if whole else f"{member.url}@{worker.rank}",
        node_id=worker.node_id,
        model_id=member.model_id or worker.model_id or UNKNOWN_MODEL,
        priority=member.priority,
        cost=member.cost,
        worker_type=worker.role,
        is_healthy=member.joined and worker.healthy,
        load=sum(target.load for target in member.everything) if whole else worker.load,
        connection_mode="HTTP",
        metadata=member.labels,
        disable_health_check=not worker.health.enabled,
        draining=worker.draining,
        origin=member.origin,
        engine=worker.engine,
        engine_version=worker.engine_version,
        bootstrap_port=worker.bootstrap_port,
        breaker=worker.breaker.state,
        dp_rank=worker.rank,
        dp_size=len(member.ranks) or None,
        job_status=member.job,
    )


def _json(value: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return json_response(msgspec.json.encode(value), status, headers)


def _accepted(member: Member, what: str) -> web.Response:
    return _json(
        Accepted("accepted", member.id, f"Worker {what} queued for background processing"), 202
    )


def _bad(problem: str) -> web.Response:
    return _json(Refused(problem, "BAD_REQUEST"), 400)
