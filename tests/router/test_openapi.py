"""GET /openapi.json is made of the routes: what is answered here is there, and nothing else."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from aiohttp import web

from router.api.openapi import document
from router.api.routing import Route
from router.core.paths import GENERATION
from tests.running import call, running
from tracking.query import PARAMETERS


async def told(**settings: object) -> dict[str, Any]:
    async with running(**settings) as app:
        answer = await call(app, "GET", "/openapi.json")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    whole: dict[str, Any] = json.loads(answer.body)
    return whole


async def test_it_is_open_and_says_where_a_key_is_asked_for() -> None:
    paths = (await told(api_key="user", admin_api_key="admin"))["paths"]
    needs = {
        f"{method} {path}": next(iter(operation["security"][0]))
        for path, methods in paths.items()
        for method, operation in methods.items()
        if "security" in operation
    }
    assert needs["get /v1/traces"] == needs["post /generate"] == "key"
    assert needs["delete /v1/traces"] == needs["get /workers"] == "admin"
    assert "get /health" not in needs
    assert "security" not in json.dumps((await told())["paths"])


async def test_every_inference_path_is_there_and_metrics_only_where_they_are_served() -> None:
    paths = (await told())["paths"]
    assert {path for path in paths if paths[path].get("post", {}).get("tags") == ["inference"]} == (
        GENERATION
    )
    assert "/metrics" in paths
    assert "/metrics" not in (await told(prometheus_port=0, prometheus_host="127.0.0.1"))["paths"]


async def test_the_parameters_of_the_list_are_those_that_are_read() -> None:
    listed = (await told())["paths"]["/v1/traces"]["get"]["parameters"]
    assert [parameter["name"] for parameter in listed] == list(PARAMETERS)
    status = next(parameter for parameter in listed if parameter["name"] == "status")
    assert status["schema"]["enum"][0] == "queued"


async def test_every_reference_leads_somewhere() -> None:
    whole = await told()
    named = {
        f"#/components/{kind}/{name}"
        for kind, things in whole["components"].items()
        for name in things
    }

    def references(part: object) -> set[str]:
        if isinstance(part, dict):
            own = {part["$ref"]} if isinstance(part.get("$ref"), str) else set()
            return own.union(*map(references, part.values()))
        return set().union(*map(references, part)) if isinstance(part, list) else set()

    assert references(whole) <= named
    names = [o["operationId"] for methods in whole["paths"].values() for o in methods.values()]
    assert len(names) == len(set(names))
    for path, methods in whole["paths"].items():
        for operation in methods.values():
            asked = [p["name"] for p in operation.get("parameters", ()) if p.get("in") == "path"]
            assert re.findall(r"{([^}]*)}", path) == asked


def test_a_route_that_says_nothing_of_itself_is_refused() -> None:
    async def handler(request: web.BaseRequest, params: dict[str, str]) -> web.Response:
        raise AssertionError

    with pytest.raises(ValueError, match="GET /new says nothing of itself"):
        document([Route("GET", "/new", handler, "open")], [], "1", lambda level: False)
