"""The first code that sees a request: who is asking, for what, and under which id.

Every answer leaves through here with its `X-Request-Id`, and every error in the OpenAI shape.
Inference goes on to `inference.forward`; the router's own endpoints are looked up in a table.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from aiohttp import web

from router.api.access import Access
from router.api.cors import Cors, lines
from router.api.forwarding import Forwarding, Incoming
from router.api.http import error_response, method_not_allowed
from router.api.inference import forward
from router.api.record import Opening
from router.api.request_log import RequestLog
from router.api.routing import Match, MethodNotAllowed, RouteTable, check_path, split_target
from router.api.server import SERVER_NAME, ClientConnection
from router.clock import Clock
from router.core.ids import RequestIdentity, label, request_identity, uuid7, w3c_trace_id
from router.core.paths import Forwarded, ForwardPaths
from router.errors import InternalError, NotFound, RouterError
from router.metrics import EndedRequest, Metrics

log = logging.getLogger("router.requests")

UNKNOWN_ROUTE = "unknown"
READING = ("GET", "HEAD")


class Dispatcher:
    """The handler of the server."""

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
    ) -> None:
        self._table = table
        self._paths = paths
        self._forwarding = forwarding
        self._access = access
        self._id_headers = [n for n in request_id_headers if n.lower() != "x-request-id"]
        self._cors = cors
        self._metrics = metrics
        self._request_log = request_log
        self._clock = clock
        self._random_bits = random_bits

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        arrived = self._clock.now()
        key = uuid7(self._clock.unix_us(arrived), self._random_bits)
        identity = request_identity(request.headers, self._id_headers, key)
        if identity.replaced is not None:
            self._request_log.renamed(identity.replaced, identity.request_id)
        route = UNKNOWN_ROUTE
        try:
            path, _ = split_target(request.raw_path)
            forwarded = self._paths.find(path)
            preflight = None if self._cors is None else self._cors.preflight(request)
            if preflight is not None:
                response: web.StreamResponse = preflight
                self._count(request, route, response.status, "", arrived, identity)
            elif forwarded is not None and self._traced(request.method):
                route = forwarded.label
                check_path(path)
                self._access.check("key", request.headers.get("Authorization"))
                response = await self._forward(request, path, forwarded, identity, key, arrived)
            else:
                found = self._table.match(request.method, path)
                if isinstance(found, Match):
                    route = found.route.name
                    self._access.check(found.route.access, request.headers.get("Authorization"))
                    response = await found.route.handler(request, found.params)
                elif isinstance(found, MethodNotAllowed):
                    response = method_not_allowed(found.allowed)
                else:
                    raise NotFound(f"no such path: {path[:200]}")
                self._count(request, route, response.status, "", arrived, identity)
        except RouterError as error:
            response = error_response(error)
            self._count(request, route, error.status, error.code, arrived, identity)
        except ConnectionError:
            raise
        except Exception:
            log.exception("request %s to %s crashed", identity.request_id, request.raw_path[:200])
            response = error_response(InternalError("internal error"))
            self._count(request, route, 500, InternalError.code, arrived, identity)
        if not response.prepared:
            response.headers["X-Request-Id"] = identity.request_id
            if identity.replaced is not None:
                response.headers["X-Request-Id-Replaced"] = "1"
            response.headers["Server"] = SERVER_NAME
            if self._cors is not None:
                response.headers.update(self._cors.headers(request))
        return response

    @staticmethod
    def _traced(method: str) -> bool:
        return method in ("POST", "GET", "PUT", "PATCH", "DELETE", "HEAD")

    async def _forward(
        self,
        request: web.BaseRequest,
        path: str,
        forwarded: Forwarded,
        identity: RequestIdentity,
        key: str,
        arrived: float,
    ) -> web.StreamResponse:
        headers = request.headers
        own = f"X-Request-Id: {identity.request_id}\r\n"
        if identity.replaced is not None:
            own += "X-Request-Id-Replaced: 1\r\n"
        if self._cors is not None:
            own += lines(self._cors.headers(request))
        assert isinstance(request.protocol, ClientConnection)
        target = request.raw_path
        return await forward(
            self._forwarding,
            Incoming(
                http=request,
                client=request.protocol,
                target=target if target.startswith("/") else target[target.index(path) :],
                path=path,
                label=forwarded.label,
                generates=forwarded.generates or request.method in READING,
                opening=Opening(
                    request_id=identity.request_id,
                    key=key,
                    route=path,
                    method=request.method,
                    trace_id=w3c_trace_id(headers.get("traceparent")),
                    session_id=None,
                    label=label(headers.get("X-Trace-Label")),
                ),
                answer_headers=own.encode(),
                arrived=arrived,
            ),
        )

    def _count(
        self,
        request: web.BaseRequest,
        route: str,
        status: int,
        code: str,
        arrived: float,
        identity: RequestIdentity,
    ) -> None:
        self._metrics.request_received(route, request.method)
        elapsed = self._clock.now() - arrived
        self._metrics.request_ended(
            EndedRequest(
                route=route,
                method=request.method,
                duration_seconds=elapsed,
                head_seconds=elapsed,
                http_status=status,
                error_code=code,
            )
        )
        self._request_log.answered(
            identity.request_id, request.method, route, status, code, elapsed
        )
