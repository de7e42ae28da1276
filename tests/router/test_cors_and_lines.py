"""What browsers may do, and what the log says of each request, on a router that runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

import pytest

from router.app import App
from tests.running import Answer, call, running, sim_worker

PAGE = "https://ui.example"
BODY = {"text": "hi", "sampling_params": {"max_new_tokens": 1}}


async def preflight(app: App, origin: str, path: str = "/generate") -> Answer:
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    return await call(app, "OPTIONS", path, headers=asked)


def cors(headers: Mapping[str, str]) -> dict[str, str]:
    return {
        name.lower(): value
        for name, value in headers.items()
        if name.lower().startswith("access-control-")
    }


async def test_without_origins_nothing_is_said_to_browsers() -> None:
    async with sim_worker() as worker, running(worker.url) as app:
        for answer in (
            await preflight(app, PAGE),
            await call(app, "GET", "/health", headers={"Origin": PAGE}),
            await call(app, "POST", "/generate", BODY, headers={"Origin": PAGE}),
        ):
            assert cors(answer.headers) == {}
        assert (await preflight(app, PAGE, "/v1/traces")).status == 405


async def test_a_page_of_an_allowed_origin_may_ask_and_read() -> None:
    async with (
        sim_worker() as worker,
        running(worker.url, cors_allowed_origins=(PAGE,), api_key="k") as app,
    ):
        answer = await preflight(app, PAGE)  # browsers send no key with it
        assert answer.status == 204
        assert cors(answer.headers) == {
            "access-control-allow-origin": PAGE,
            "access-control-allow-methods": "GET, POST, PUT, DELETE",
            "access-control-allow-headers": "authorization,content-type",
            "access-control-max-age": "600",
            "access-control-expose-headers": "*",
        }
        for method, path, body, key in (
            ("POST", "/generate", BODY, "k"),
            ("POST", "/generate", BODY, "wrong"),
            ("GET", "/health", None, None),
            ("GET", "/nowhere", None, None),
        ):
            answer = await call(app, method, path, body, key=key, headers={"Origin": PAGE})
            assert cors(answer.headers) == {
                "access-control-allow-origin": PAGE,
                "access-control-expose-headers": "*",
            }
            assert answer.headers["Vary"] == "Origin"


async def test_other_origins_are_told_nothing_and_caches_are_warned() -> None:
    async with sim_worker() as worker, running(worker.url, cors_allowed_origins=(PAGE,)) as app:
        refused = await preflight(app, "https://evil.example")
        assert refused.status == 403
        answer = await call(app, "POST", "/generate", BODY, headers={"Origin": "null"})
        assert answer.status == 200
        for one in (refused, answer):
            assert cors(one.headers) == {}
            assert one.headers["Vary"] == "Origin"


async def test_a_star_allows_every_origin() -> None:
    async with running(cors_allowed_origins=("*",)) as app:
        answer = await preflight(app, "https://any.example")
        assert (answer.status, cors(answer.headers)["access-control-allow-origin"]) == (204, "*")


async def test_each_request_leaves_one_line_at_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "router.requests")
    async with sim_worker() as worker, running(worker.url, api_key="k") as app:
        sent = {"X-Request-Id": "one"}
        assert (await call(app, "POST", "/generate", BODY, key="k", headers=sent)).status == 200
        bad = sent | {"Content-Type": "application/json"}
        assert (await call(app, "POST", "/generate", b"{", key="k", headers=bad)).status == 400
        assert (await call(app, "POST", "/generate", BODY, headers=sent)).status == 401
        await asyncio.sleep(0)
    lines = [
        (record.levelname, {name: fields[name] for name in sorted(fields) if name in SHOWN})
        for record in caplog.records
        if record.getMessage() == "request"
        for fields in [record.fields]  # type: ignore[attr-defined]
    ]
    common = {"id": "one", "route": "/generate"}
    assert lines == [
        ("DEBUG", {"http_status": 200, **common, "node": "worker-0", "status": "completed"}),
        (
            "INFO",
            {"http_status": 400, **common, "node": "none", "status": "rejected"}
            | {"reason": "bad_request"},
        ),
        ("INFO", {"http_status": 401, **common, "reason": "invalid_api_key"}),
    ]


SHOWN = {"id", "route", "node", "status", "http_status", "reason"}
