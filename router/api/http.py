"""Answers of the router's own endpoints, and what they read of a request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from math import ceil

from aiohttp import web

from router import errors
from router.api.routing import Match, MethodNotAllowed, Route, RouteTable, split_target
from router.errors import RouterError, error_body

ERROR_CODE_HEADER = "X-SMG-Error-Code"


def json_response(
    body: bytes, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """`body` is JSON already."""
    return web.Response(
        body=body,
        status=status,
        headers={"Content-Type": "application/json", "X-Content-Type-Options": "nosniff"}
        | dict(headers or {}),
    )


def text_response(text: str, status: int = 200) -> web.Response:
    return web.Response(text=text, status=status)


def error_response(error: RouterError, headers: Mapping[str, str] | None = None) -> web.Response:
    """An error as the client sees it: OpenAI's shape, its code also in a header."""
    told = {ERROR_CODE_HEADER: error.code}
    if error.retry_after_seconds is not None:
        told["Retry-After"] = retry_after(error.retry_after_seconds)
    body = error_body(error.status, error.code, error.message, param=error.param)
    return json_response(body, error.status, told | dict(headers or {}))


def retry_after(seconds: float) -> str:
    """The value of `Retry-After`."""
    return str(max(1, ceil(seconds)))


def method_not_allowed(allowed: Iterable[str]) -> web.Response:
    """405 with the header `Allow`."""
    methods = ", ".join(allowed)
    return error_response(
        errors.MethodNotAllowed(f"this path takes {methods}"), headers={"Allow": methods}
    )


def simple_handler(
    routes: Iterable[Route],
) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
    """A handler for a server of a few open endpoints, as the one on `--prometheus-port`.

    Raises ValueError for routes that need a key.
    """
    routes = list(routes)
    guarded = [f"{route.method} {route.path}" for route in routes if route.access != "open"]
    if guarded:
        raise ValueError(f"nothing here asks for the key that these need: {guarded}")
    table = RouteTable(routes)

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        try:
            found = table.match(request.method, split_target(request.raw_path)[0])
            if isinstance(found, Match):
                return await found.route.handler(request, found.params)
            if isinstance(found, MethodNotAllowed):
                return method_not_allowed(found.allowed)
            raise errors.NotFound("no such path")
        except RouterError as error:
            return error_response(error)

    return handle
