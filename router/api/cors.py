"""Calls from browsers (`--cors-allowed-origins`). Without any origin none of this is in force."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from aiohttp import web

METHODS: Final = "GET, POST, PUT, DELETE"
MAX_AGE_SECONDS: Final = 600


class Cors:
    """`origins` may hold `*`, which is every origin. Credentials (cookies) are never allowed."""

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = frozenset(origin.rstrip("/").lower() for origin in origins)

    def headers(self, origin: str | None) -> dict[str, str]:
        """What the answer to a request with this `Origin` must say, so that a page may read it."""
        if "*" in self._origins:
            allowed: str | None = "*" if origin is not None else None
            told = {}
        else:
            allowed = origin if origin is not None and origin.lower() in self._origins else None
            told = {"Vary": "Origin"}  # also where it is not allowed: caches must tell them apart
        if allowed is not None:
            told["Access-Control-Allow-Origin"] = allowed
            told["Access-Control-Expose-Headers"] = "*"
        return told

    def preflight(self, request: web.BaseRequest) -> web.Response | None:
        """The answer to a browser's question whether it may; None for any other request."""
        if request.method != "OPTIONS" or "Access-Control-Request-Method" not in request.headers:
            return None
        told = self.headers(request.headers.get("Origin"))
        if "Access-Control-Allow-Origin" not in told:
            return web.Response(status=403, headers=told)
        told["Access-Control-Allow-Methods"] = METHODS
        told["Access-Control-Max-Age"] = str(MAX_AGE_SECONDS)
        asked = request.headers.get("Access-Control-Request-Headers")
        if asked is not None:  # by name: `*` would leave out Authorization
            told["Access-Control-Allow-Headers"] = asked
        return web.Response(status=204, headers=told)


def lines(headers: dict[str, str]) -> bytes:
    """As header lines of a raw head."""
    told = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return told.encode("utf-8", "surrogateescape")
