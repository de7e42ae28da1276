"""GET /metrics over real HTTP, as on a port of its own."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import TestClient

from router.api.http import simple_handler
from router.api.metrics import MetricsApi
from router.metrics import Metrics, Sources


@pytest.fixture
async def client(aiohttp_raw_server, aiohttp_client):
    sources = Sources(
        workers=list, open_requests=lambda: 5, queued_requests=lambda: 0, store=lambda: None
    )
    routes = MetricsApi(Metrics(sources, version="1.2.3")).routes()
    return await aiohttp_client(await aiohttp_raw_server(simple_handler(routes)))


async def test_a_scrape_is_text(client: TestClient) -> None:
    answer = await client.get("/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "smg_http_connections_active 5.0\n" in await answer.text()


async def test_a_scrape_that_asks_for_openmetrics_gets_it(client: TestClient) -> None:
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    answer = await client.get("/metrics", headers=accept)
    assert answer.content_type == "application/openmetrics-text"
    assert (await answer.text()).endswith("# EOF\n")


async def test_a_scrape_may_carry_parameters(client: TestClient) -> None:
    assert (await client.get("/metrics?x=1")).status == 200


async def test_nothing_else_is_served_there(client: TestClient) -> None:
    answer = await client.get("/generate")
    assert answer.status == 404
    assert answer.headers["X-SMG-Error-Code"] == "not_found"
