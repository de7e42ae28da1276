"""Which handler answers a path. Pure look-up: no keys are checked and nothing is answered here.

A path is looked up as the client wrote it. Paths that others might read differently than we do
(dot segments, `//`, encoded slashes) are refused instead of cleaned up: a worker behind us must
never see another path than the one that was checked here.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from aiohttp import web

from router.api.about import About
from router.api.access import Level
from router.errors import BadRequest

Handler = Callable[[web.BaseRequest, dict[str, str]], Awaitable[web.StreamResponse]]

AMBIGUOUS = re.compile(
    r"""
      (?P<slashes>//)
    | (?P<slash>\\|%2f)
    | (?P<backslash>%5c)
    | (?P<dots>/(?:\.|%2e){1,2}(?=/|$))
    | (?P<escape>%(?![0-9a-f]{2}))
    | (?P<character>[^!-~]|[#]|%[01][0-9a-f]|%7f)
    """,
    re.VERBOSE | re.IGNORECASE,
)
AMBIGUITIES = {
    "slashes": "an empty segment (//)",
    "slash": "a backslash or an encoded slash",
    "backslash": "an encoded backslash",
    "dots": "a dot segment",
    "escape": "a broken percent escape",
    "character": "a character that must not be in a path",
}


class Route(NamedTuple):
    """A handler, where it is found, who may call it, and what is to be known of it.

    In `path` a segment `{name}` stands for any one segment, and `{name...}` at its end for one or
    more. A GET route answers HEAD as well.
    """

    method: str
    path: str
    handler: Handler
    access: Level
    about: About | None = None

    @property
    def name(self) -> str:
        """What metrics and traces call this route: its pattern, never a path as sent."""
        return self.path


class Match(NamedTuple):
    """A route, and what its `{name}` segments stand for, decoded."""

    route: Route
    params: dict[str, str]


class MethodNotAllowed(NamedTuple):
    """The path is known, but not under this method; `allowed` goes into the header `Allow`."""

    allowed: tuple[str, ...]


class NotFound(NamedTuple):
    """No route has this path."""


class RouteTable:
    """All routes of a server. Raises ValueError for two routes of one method and path."""

    def __init__(self, routes: Iterable[Route]) -> None:
        by_path: dict[str, dict[str, Route]] = {}
        for route in routes:
            methods = by_path.setdefault(route.path, {})
            for method in ("GET", "HEAD") if route.method == "GET" else (route.method,):
                if method in methods:
                    raise ValueError(f"two routes for {method} {route.path}")
                methods[method] = route
        self._plain = {path: methods for path, methods in by_path.items() if "{" not in path}
        self._patterns = [
            (path.split("/"), methods) for path, methods in by_path.items() if "{" in path
        ]
        # Most requests go to a few plain paths: one look-up, nothing allocated.
        self._exact = {
            (method, path): Match(route, {})
            for path, methods in self._plain.items()
            for method, route in methods.items()
        }

    def match(self, method: str, path: str) -> Match | MethodNotAllowed | NotFound:
        """The route for a path as sent, without its query. Raises BadRequest (`check_path`).

        A path without `{name}` goes before one with; where it has not the method, no other is
        tried.
        """
        found = self._exact.get((method, path))
        if found is not None:
            return found
        check_path(path, ours=True)
        if path in self._plain:
            return MethodNotAllowed(tuple(self._plain[path]))
        sent = path.split("/")
        for pattern, methods in self._patterns:
            params = captured(pattern, sent)
            if params is not None:
                if method not in methods:
                    return MethodNotAllowed(tuple(methods))
                return Match(methods[method], params)
        return NotFound()


def captured(pattern: list[str], sent: list[str]) -> dict[str, str] | None:
    """What the segments sent give to the pattern's names; None where they do not fit."""
    if pattern[-1].endswith("...}") and len(sent) > len(pattern):
        last = len(pattern) - 1
        sent = [*sent[:last], "/".join(sent[last:])]
    if len(pattern) != len(sent):
        return None
    params = {}
    for wanted, segment in zip(pattern, sent, strict=True):
        if wanted.startswith("{"):
            if not segment:
                return None
            params[wanted.strip("{.}")] = decoded(segment)
        elif wanted != segment:
            return None
    return params


def decoded(segment: str) -> str:
    try:
        return unquote(segment, errors="strict")
    except UnicodeDecodeError:
        raise BadRequest("the path is not UTF-8") from None


def check_path(path: str, *, ours: bool = False) -> None:
    """Raises BadRequest for a path that somebody else might take for another one.

    Nobody else reads one of `ours`, so it may have an encoded backslash: ids of requests do.
    """
    for problem in AMBIGUOUS.finditer(path):
        name = problem.lastgroup or ""
        if not (ours and name == "backslash"):
            raise BadRequest(f"the path has {AMBIGUITIES[name]}")


def split_target(target: str) -> tuple[str, str]:
    """Path and query of a request target as sent. Raises BadRequest where there is no path.

    Besides `/path?query` this takes `http://host/path?query`, which servers must understand.
    """
    if not target.startswith("/"):
        try:
            parts = urlsplit(target)
        except ValueError:
            raise BadRequest("malformed request target") from None
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise BadRequest("the request target has no path")
        return parts.path or "/", parts.query
    path, _, query = target.partition("?")
    return path, query
