"""GET /openapi.json: every endpoint, made of what the routes say of themselves (OpenAPI 3.1)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from http import HTTPStatus
from typing import Final

import msgspec
from aiohttp import web

from router.api.about import About, Either, JsonObject, Plain
from router.api.access import Level
from router.api.http import json_response
from router.api.routing import Route
from router.errors import (
    BadRequest,
    ClientGone,
    ErrorBody,
    Forbidden,
    InvalidKey,
    RouterError,
    kinds,
)
from tracking.values import Schema, pattern

ANY: Final = Plain("*/*")
REFS: Final = "#/components/schemas/{name}"
JSON: Final = "application/json"
INTRODUCTION: Final = """\
Requests for workers go through as they come, and each leaves a trace that every replica can show.
Below are the router's own endpoints, and the inference paths that it knows. What is sent to those, and
what they answer, is the worker's; further paths under `/v1/` go through in the same way, and those that
`--forward-paths` names. Paths that steer a worker never do.

A key is needed where `--api-key` or `--admin-api-key` is set; deleting traces needs one to be set.
Errors of the router have OpenAI's shape, and their `code` in the header `X-SMG-Error-Code`. Every answer
has an `X-Request-Id`."""
TAGS: Final = (
    ("inference", "what goes on to a worker"),
    ("traces", "where requests went, why, and how it went"),
    ("workers", "which there are"),
    ("operation", "health, metrics, and what is asked of all workers"),
    ("page", "the page for people"),
)
# What a path must not have is refused (`routing.AMBIGUOUS`).
SEGMENT: Final = pattern(r"[^/.\x00-\x1f\x7f][^/\x00-\x1f\x7f]*")
SENT_ON: Final = {
    "X-Request-Id": "the id of the trace; made up where it is missing or cannot be one",
    "X-Trace-Label": "kept in the trace, to tell experiments apart (64 characters)",
    "X-SMG-Routing-Key": "requests of one key go to one worker, under the policies that know keys",
    "X-SMG-Target-Worker": "the place of the worker in the list, from 0: that one or 503",
}


def document(
    routes: Iterable[Route],
    forwarded: Iterable[str],
    version: str,
    guarded: Callable[[Level], bool],
) -> Schema:
    """The document; `guarded` tells where this router asks for a key. Raises ValueError for a route
    that says nothing of itself."""
    told = [(route, _told(route)) for route in routes]
    shapes = _Shapes(
        [JsonObject]
        + [type_ for _, about in told for type_ in (about.body, *about.answers.values())]
    )
    paths: dict[str, Schema] = defaultdict(dict)
    for route, about in told:
        operation = _operation(route, about, shapes)
        if guarded(route.access):
            operation["security"] = [{"key" if route.access == "key" else "admin": []}]
        paths[_template(route.path)][route.method.lower()] = operation
    ends = (kind for kind in kinds() if kind.outcome is not None and kind is not ClientGone)
    # Workers answer with the same statuses, in shapes of their own.
    answers = _errors([*ends, InvalidKey], shapes, lambda _status: Either(JsonObject, ANY))
    keys: Schema = {"security": [{"key": []}]} if guarded("key") else {}
    for path in sorted(forwarded):
        paths[path]["post"] = _inference(path, answers) | keys
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "llm-trace-router",
            "version": version,
            "description": INTRODUCTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [{"name": name, "description": what} for name, what in TAGS],
        "paths": dict(paths),
        "components": {
            "schemas": shapes.named,
            "parameters": {
                name: {
                    "name": name,
                    "in": "header",
                    "description": help,
                    "schema": {"type": "string"},
                }
                for name, help in SENT_ON.items()
            },
            "responses": answers,
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "--api-key"},
                "admin": {"type": "http", "scheme": "bearer", "description": "--admin-api-key"},
            },
        },
    }


class OpenApi:
    """Serves it; made when it is asked for first, some ms. Of all routes these are not yet its own."""

    def __init__(
        self,
        routes: Sequence[Route],
        forwarded: Iterable[str],
        version: str,
        guarded: Callable[[Level], bool],
    ) -> None:
        self._routes = [*routes, *self.routes()]
        self._forwarded = forwarded
        self._version = version
        self._guarded = guarded

    def routes(self) -> list[Route]:
        about = About(summary="This document", answers={200: JsonObject})
        return [Route("GET", "/openapi.json", self.show, "open", about)]

    async def show(self, request: web.BaseRequest, params: dict[str, str]) -> web.Response:
        return json_response(self._document)

    @cached_property
    def _document(self) -> bytes:
        return msgspec.json.encode(
            document(self._routes, self._forwarded, self._version, self._guarded)
        )


class _Shapes:
    """JSON Schemas of types; those that have a name are told once."""

    def __init__(self, types: Iterable[object]) -> None:
        wanted = [ErrorBody, *(named for type_ in types for named in _types(type_))]
        schemas, self.named = msgspec.json.schema_components(wanted, ref_template=REFS)
        self._schemas = list(zip(wanted, schemas, strict=True))

    def content(self, type_: object) -> Schema:
        """The content of a body."""
        schemas = [self._schema(each) for each in _types(type_)]
        content: Schema = {kind: {} for kind in _media_types(type_)}
        if schemas:
            content[JSON] = {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}
        return content

    def _schema(self, type_: object) -> Schema:
        return next(schema for known, schema in self._schemas if known == type_)


def _parts(type_: object) -> list[object]:
    if isinstance(type_, Either):
        return [*_parts(type_.one), *_parts(type_.other)]
    return [] if type_ is None else [type_]


def _types(type_: object) -> list[object]:
    """The types of JSON that a body is said to have."""
    return [part for part in _parts(type_) if not isinstance(part, Plain)]


def _media_types(type_: object) -> list[str]:
    """What else it is said to be."""
    return [part.media_type for part in _parts(type_) if isinstance(part, Plain)]


def _told(route: Route) -> About:
    if route.about is None:
        raise ValueError(f"{route.method} {route.path} says nothing of itself")
    return route.about


def _operation(route: Route, about: About, shapes: _Shapes) -> Schema:
    operation: Schema = {
        "operationId": _name(route.method, _template(route.path)),
        "summary": about.summary,
        "tags": [_tag(route.path)],
    }
    parameters = [*_path_parameters(_template(route.path), about), *_query_parameters(about)]
    if parameters:
        operation["parameters"] = parameters
    if about.body is not None:
        operation["requestBody"] = {"required": True, "content": shapes.content(about.body)}
    operation["responses"] = {
        **{str(status): _answer(status, type_, about, shapes) for status, type_ in about.answers.items()},
        **_errors([*about.errors, *refusals(route.access)], shapes, about.answers.get),
    }  # fmt: skip
    return operation


def _inference(path: str, answers: Iterable[str]) -> Schema:
    return {
        "operationId": _name("post", path),
        "summary": "Goes on to a worker as it is",
        "tags": ["inference"],
        "parameters": [{"$ref": f"#/components/parameters/{name}"} for name in SENT_ON],
        "requestBody": {"content": {JSON: {"schema": {"type": "object"}}}},
        "responses": {
            "default": {"description": "what the worker answered, untouched"},
            **{status: {"$ref": f"#/components/responses/{status}"} for status in answers},
        },
    }


def refusals(access: Level) -> Iterator[type[RouterError]]:
    """What may happen to a request before its handler sees it."""
    yield BadRequest
    if access != "open":
        yield InvalidKey
    if access == "delete":
        yield Forbidden


def _answer(status: int, type_: object, about: About, shapes: _Shapes) -> Schema:
    answer: Schema = {"description": HTTPStatus(status).phrase}
    if type_ is not None:
        answer["content"] = shapes.content(type_)
    if about.headers and status < 300:
        answer["headers"] = {
            name: {"description": help, "schema": {"type": "string"}}
            for name, help in about.headers.items()
        }
    return answer


def _errors(
    errors: Iterable[type[RouterError]], shapes: _Shapes, others: Callable[[int], object]
) -> dict[str, Schema]:
    """By status, with the codes that it may have; `others` are bodies that it may have as well."""
    codes: dict[int, list[str]] = defaultdict(list)
    for kind in errors:
        if kind.code not in codes[kind.status]:
            codes[kind.status].append(kind.code)
    return {
        str(status): {
            "description": " or ".join(f"`{code}`" for code in names),
            "content": shapes.content(Either(ErrorBody, others(status))),
        }
        for status, names in sorted(codes.items())
    }


def _template(path: str) -> str:
    """OpenAPI has no word for the rest of a path: what may be one or more segments is told as one."""
    return path.replace("...}", "}")


def _path_parameters(path: str, about: About) -> Iterator[Schema]:
    for segment in path.split("/"):
        if segment.startswith("{"):
            name = segment[1:-1]
            schema = about.path.get(name, SEGMENT)
            yield {"name": name, "in": "path", "required": True, "schema": schema}


def _query_parameters(about: About) -> Iterator[Schema]:
    for name, parameter in about.query.items():
        help = parameter.help
        if parameter.allowed != help:
            help += f": {parameter.allowed}"
        told: Schema = {
            "name": name,
            "in": "query",
            "description": help,
            "schema": parameter.schema,
        }
        yield told | ({"required": True} if name in about.required else {})


def _name(method: str, path: str) -> str:
    words = path.replace("-", "_").replace(".", "_").replace("{", "").replace("}", "")
    return method.lower() + words.replace("/", "_")


def _tag(path: str) -> str:
    if path.startswith("/v1/traces"):
        return "traces"
    if path.startswith("/ui"):
        return "page"
    return "workers" if "worker" in path else "operation"
