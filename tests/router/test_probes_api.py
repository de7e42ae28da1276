"""What orchestrators and clients ask of the router itself, over real HTTP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from aiohttp.test_utils import TestClient
from yarl import URL

from router.api.http import simple_handler
from router.api.probes import ProbesApi
from router.core.health import Health, HealthSettings
from router.core.worker import Worker
from router.fleet import Fleet
from tracking.view import StoreState

Probe = Callable[[str], Awaitable[tuple[int, str, str]]]


def worker(number: int, model: str | None = None) -> Worker:
    """A healthy worker that one failed check makes unhealthy."""
    health = Health(HealthSettings(failure_threshold=1))
    made = Worker(f"http://localhost:{number}", f"worker-{number}", health=health)
    made.model_id = model
    health.probe_succeeded()
    return made


class FakeFleet:
    def __init__(self) -> None:
        self.workers = [worker(1), worker(2)]
        self.draining = False

    @property
    def serves(self) -> bool:
        return Fleet(self.workers).serves


@pytest.fixture
def fleet() -> FakeFleet:
    return FakeFleet()


@pytest.fixture
def store() -> StoreState:
    return StoreState(kind="redis", state="up", buffered=0, buffered_bytes=0, dropped=0)


@pytest.fixture
async def client(fleet: FakeFleet, store: StoreState, aiohttp_raw_server, aiohttp_client):
    api = ProbesApi(fleet, lambda: store, "1.2.3")
    return await aiohttp_client(await aiohttp_raw_server(simple_handler(api.routes())))


@pytest.mark.parametrize("path", ["/health", "/liveness"])
async def test_a_router_without_workers_is_alive(
    client: TestClient, fleet: FakeFleet, path: str
) -> None:
    fleet.workers = []
    answer = await client.get(path)
    assert (answer.status, answer.content_type, await answer.text()) == (200, "text/plain", "OK")


async def test_a_probe_may_use_head(client: TestClient) -> None:
    answer = await client.head("/readiness")
    assert (answer.status, await answer.read()) == (200, b"")


async def test_another_method_is_told_what_is_allowed(client: TestClient) -> None:
    answer = await client.post("/health")
    assert answer.status == 405
    assert answer.headers["Allow"] == "GET, HEAD"
    assert (await answer.json())["error"]["code"] == "method_not_allowed"


async def test_ready_counts_workers(client: TestClient, fleet: FakeFleet) -> None:
    fleet.workers[0].health.probe_failed("refused")
    answer = await client.get("/readiness")
    assert answer.status == 200
    assert answer.content_type == "application/json"
    assert await answer.json() == {
        "status": "ready",
        "healthy_workers": 1,
        "total_workers": 2,
        "store": "up",
    }


async def test_not_ready_without_a_healthy_worker(client: TestClient, fleet: FakeFleet) -> None:
    for each in fleet.workers:
        each.health.probe_failed("refused")
    answer = await client.get("/readiness")
    assert answer.status == 503
    assert await answer.json() == {
        "status": "not ready",
        "reason": "insufficient healthy workers",
    }


async def test_not_ready_while_draining_but_alive(client: TestClient, fleet: FakeFleet) -> None:
    fleet.draining = True
    answer = await client.get("/readiness")
    assert answer.status == 503
    assert await answer.json() == {"status": "not ready", "reason": "draining"}
    assert (await client.get("/health")).status == 200


async def test_a_store_that_is_down_leaves_the_router_ready(
    client: TestClient, store: StoreState
) -> None:
    store.state = "down"
    answer = await client.get("/readiness")
    assert answer.status == 200
    assert (await answer.json())["store"] == "degraded"


def test_without_tracing_readiness_says_that_the_store_is_off(fleet: FakeFleet) -> None:
    ready = ProbesApi(fleet, lambda: None, "1").ready()
    assert getattr(ready, "store", None) == "off"


async def test_health_generate_follows_the_health_of_workers(
    client: TestClient, fleet: FakeFleet
) -> None:
    answer = await client.get("/health_generate")
    assert (answer.status, await answer.text()) == (
        200,
        "At least one router has healthy workers",
    )
    fleet.workers = []
    answer = await client.get("/health_generate")
    assert (answer.status, await answer.text()) == (
        503,
        "No routers with healthy workers available",
    )


async def test_models_are_those_of_the_workers_each_once_also_of_unhealthy_ones(
    client: TestClient, fleet: FakeFleet
) -> None:
    fleet.workers = [worker(1, "m2"), worker(2, "m1"), worker(3, "m2"), worker(4)]
    fleet.workers[0].model_ids = ("m2", "adapter")
    for each in fleet.workers:
        each.health.probe_failed("refused")
    answer = await client.get("/v1/models")
    assert answer.status == 200
    assert answer.content_type == "application/json"
    assert await answer.json() == {
        "object": "list",
        "data": [
            {"id": name, "object": "model", "created": 0, "owned_by": "local"}
            for name in ("adapter", "m1", "m2")
        ],
    }


async def test_no_model_known_is_503(client: TestClient) -> None:
    answer = await client.get("/v1/models")
    assert answer.status == 503
    assert (await answer.json())["error"] == {
        "message": "No models available",
        "type": "server_error",
        "code": "no_available_workers",
        "param": None,
    }


async def test_server_info_is_the_routers_own(client: TestClient) -> None:
    answer = await client.get("/get_server_info")
    assert await answer.json() == {
        "router_manager": True,
        "routers_count": 1,
        "workers_count": 2,
        "version": "1.2.3",
    }


def test_a_listener_without_keys_takes_no_route_that_needs_one(fleet: FakeFleet) -> None:
    health = ProbesApi(fleet, lambda: None, "1").routes()[0]
    with pytest.raises(ValueError, match="GET /health"):
        simple_handler([health._replace(access="key")])


@pytest.mark.parametrize("name", ["m1", "meta-llama/Llama-3", "m%2D2"])
async def test_one_model_is_asked_by_its_name_slashes_included(
    client: TestClient, fleet: FakeFleet, name: str
) -> None:
    fleet.workers = [worker(1, "m1"), worker(2, "meta-llama/Llama-3"), worker(3, "m-2")]
    answer = await client.get(URL(f"/v1/models/{name}", encoded=True))
    assert answer.status == 200
    assert (await answer.json())["id"] == name.replace("%2D", "-")


async def test_a_model_nobody_serves_is_not_found(client: TestClient, fleet: FakeFleet) -> None:
    fleet.workers = [worker(1, "m1")]
    for path in ("/v1/models/m2", "/v1/models/m1/more"):
        answer = await client.get(path)
        assert answer.status == 404
        assert (await answer.json())["error"]["code"] == "model_not_found"
