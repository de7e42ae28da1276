"""The first code that sees a request: who is asking, for what, and under which id.

Every answer leaves through here with its `X-Request-Id`, and every error in the OpenAI shape. Two
ways in: `forward` for what goes on to a worker, and `__call__`, aiohttp's handler, for the router's
own endpoints, which are looked up in a table.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from aiohttp import web

from router.api.access import Access
from router.api.connection import ClientConnection, Serving
from router.api.cors import Cors, lines
from router.api.disaggregated import run_of
from router.api.forwarding import Forwarding
from router.api.guest import SERVER_NAME
from router.api.http import error_response, method_not_allowed
from router.api.incoming import Incoming
from router.api.inference import Run
from router.api.refusal import Refused
from router.api.request import Request
from router.api.request_log import RequestLog
from router.api.routing import Match, MethodNotAllowed, RouteTable, check_path, split_target
from router.clock import Clock
from router.core.ids import request_identity, uuid7, w3c_trace_id
from router.core.kept import keep
from router.core.paths import Forwarded, ForwardPaths
from router.errors import BadRequest, InternalError, NotFound, RouterError
from router.metrics.record import Metrics
from router.telemetry.spans import Spans

log = logging.getLogger("router.requests")

UNKNOWN_ROUTE = "unknown"
READING = ("GET", "HEAD")
TRACED = ("POST", "GET", "PUT", "PATCH", "DELETE", "HEAD")


class Place:
    """What a request's target asks for: `target` and `path` for a worker, where it is `forwarded`."""

    __slots__ = ("forwarded", "path", "target")

    def __init__(self, target: str, path: str, forwarded: Forwarded | None) -> None:
        self.target = target
        self.path = path
        self.forwarded = forwarded


class Dispatcher:
    """See the module."""

    def __init__(
        self,
        *,
        table: RouteTable,
        paths: ForwardPaths,
        forwarding: Forwarding,
        access: Access,
        request_id_headers: Sequence[str],
        cors: Cors | None,
        metrics: Metrics,
        request_log: RequestLog,
        clock: Clock,
        random_bits: Callable[[int], int],
        spans: Spans | None = None,
    ) -> None:
        self._table = table
        self._paths = paths
        self._forwarding = forwarding
        self._access = access
        self._guarded = access.asks("key")
        lowered = (name.lower() for name in request_id_headers)
        self._id_headers = ["x-request-id", *(name for name in lowered if name != "x-request-id")]
        self._places: dict[bytes, Place] = {}
        self._cors = cors
        self._metrics = metrics
        self._request_log = request_log
        self._clock = clock
        self._random_bits = random_bits
        self._spans = spans

    # -- to a worker -----------------------------------------------------------------------

    def forward(self, request: Request, client: ClientConnection) -> Serving | None:
        """Send a request to a worker; None for requests that are not for workers."""
        place = self._places.get(request.target)
        if place is None:
            place = self._find(request.target)
        if place.forwarded is None or request.method not in TRACED:
            return None
        return self._begin(request, client, place, place.forwarded)

    def _find(self, asked: bytes) -> Place:
        """Where this target leads to. Most requests have one of a few, so that is kept."""
        target = asked.decode("utf-8", "surrogateescape")
        place = Place(target, "", None)
        try:
            path, _ = split_target(target)
        except BadRequest:
            return place
        forwarded = self._paths.find(path)
        if forwarded is not None and not target.startswith("/"):
            target = target[target.index(path) :]
        place = Place(target, path, forwarded)
        keep(self._places, asked, place, len(asked))
        return place

    def _begin(
        self,
        request: Request,
        client: ClientConnection,
        place: Place,
        forwarded: Forwarded,
    ) -> Serving:
        arrived = self._clock.now()
        arrived_us = self._clock.unix_us(arrived)
        key = uuid7(arrived_us, self._random_bits)
        headers, method = request.headers, request.method
        request_id, replaced = self._identify(headers, key)
        id_line = b"X-Request-Id: " + request_id.encode()
        own = id_line + b"\r\n"
        if replaced is not None:
            own += b"X-Request-Id-Replaced: 1\r\n"
        if self._cors is not None:
            own += lines(self._cors.headers(headers.get("origin")))
        try:
            if not forwarded.generates:  # else it is a path that we know, letter for letter
                check_path(place.path)
            if self._guarded:
                self._access.check("key", headers.get("authorization"))
        except RouterError as error:
            self._count(method, forwarded.label, error.status, error.code, arrived, request_id)
            return Refused(client, request, error, own)
        asked = request.asked
        ids = None if self._spans is None else self._spans.begin(asked.traceparent or "")
        incoming = Incoming(
            request,
            client,
            place.target,
            place.path,
            forwarded.label,
            forwarded.generates or method in READING,
            request_id,
            key,
            w3c_trace_id(asked.traceparent) if ids is None else ids.trace_id,
            asked.trace_label,
            ids,
            id_line,
            own,
            arrived,
            arrived_us,
        )
        shared = self._forwarding
        pairs = shared.pairs
        return Run(shared, incoming) if pairs is None else run_of(shared, incoming, pairs)

    # -- our own endpoints -----------------------------------------------------------------

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        arrived = self._clock.now()
        key = uuid7(self._clock.unix_us(arrived), self._random_bits)
        request_id, replaced = self._identify(request.headers, key)
        route, method = UNKNOWN_ROUTE, request.method
        try:
            path, _ = split_target(request.raw_path)
            preflight = None if self._cors is None else self._cors.preflight(request)
            if preflight is not None:
                response: web.StreamResponse = preflight
            else:
                found = self._table.match(method, path)
                if isinstance(found, Match):
                    route = found.route.name
                    self._access.check(found.route.access, request.headers.get("Authorization"))
                    response = await found.route.handler(request, found.params)
                elif isinstance(found, MethodNotAllowed):
                    response = method_not_allowed(found.allowed)
                elif self._paths.find(path) is not None:  # `forward` left it: TRACE, OPTIONS, ...
                    response = method_not_allowed(TRACED)
                else:
                    raise NotFound(f"no such path: {path[:200]}")
            self._count(method, route, response.status, "", arrived, request_id)
        except RouterError as error:
            response = error_response(error)
            self._count(method, route, error.status, error.code, arrived, request_id)
        except ConnectionError:
            raise
        except Exception:
            log.exception("request %s to %s crashed", request_id, request.raw_path[:200])
            response = error_response(InternalError("internal error"))
            self._count(method, route, 500, InternalError.code, arrived, request_id)
        if not response.prepared:
            response.headers["X-Request-Id"] = request_id
            if replaced is not None:
                response.headers["X-Request-Id-Replaced"] = "1"
            response.headers["Server"] = SERVER_NAME
            if self._cors is not None:
                response.headers.update(self._cors.headers(request.headers.get("Origin")))
        return response

    # -- both ------------------------------------------------------------------------------

    def _identify(self, headers: Mapping[str, str], key: str) -> tuple[str, str | None]:
        request_id, replaced = request_identity(headers, self._id_headers, key)
        if replaced is not None:
            self._request_log.renamed(replaced, request_id)
        return request_id, replaced

    def _count(
        self,
        method: str,
        route: str,
        status: int,
        code: str,
        arrived: float,
        request_id: str,
    ) -> None:
        elapsed = self._clock.now() - arrived
        self._metrics.request_received(route, method).answered(status, code, elapsed)
        self._request_log.answered(request_id, method, route, status, code, elapsed)
