"""`--api-key`: who may ask for what, and which key reaches the worker."""

from __future__ import annotations

import pytest

from tests.fleets import Fleet, body, error_of, headers_of, metric, post
from tests.raw_tcp import RawConnection, RawResponse

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
FLEET = {
    "workers": 1,
    "switches": ["--api-key=worker-secret"],
    "flags": ["--api-key=client-secret", "--worker-api-key=worker-secret"],
    "key": "client-secret",
}
KEY = "Authorization: Bearer client-secret\r\n"
WRONG = {
    "none": "",
    "wrong": "Authorization: Bearer other\r\n",
    "the workers": "Authorization: Bearer worker-secret\r\n",
    "basic": "Authorization: Basic client-secret\r\n",
    "empty": "Authorization: Bearer \r\n",
    "longer": "Authorization: Bearer client-secret2\r\n",
}


async def ask(running: Fleet, method: str, path: str, headers: str = "") -> RawResponse:
    async with await RawConnection.connect(running.router.port) as client:
        await client.send(
            f"{method} {path} HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n{headers}\r\n".encode()
        )
        return await client.read_response()


@pytest.mark.parametrize("which", WRONG)
async def test_without_the_key_it_is_a_401_that_reaches_no_worker_and_leaves_no_trace(
    shared: Fleet, which: str
):
    name = f"denied-{which.replace(' ', '-')}"
    answer = await post(shared.router, "/generate", body(), request_id=name, headers=WRONG[which])
    assert answer.status == 401
    assert (answer.header("www-authenticate") or "Bearer").startswith("Bearer")
    error = error_of(answer)
    assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
    assert await shared.received() == []
    assert (await ask(shared, "GET", f"/v1/traces/{name}", KEY)).status == 404


async def test_refusals_are_counted(shared: Fleet):
    name, labels = "smg_http_responses_total", {"status_code": "401"}
    before = await metric(shared.router, name, **labels)
    await post(shared.router, "/generate", body())
    assert await metric(shared.router, name, **labels) == before + 1


async def test_with_the_key_the_worker_gets_its_own(shared: Fleet):
    answer = await post(shared.router, "/generate", body(), request_id="ok", headers=KEY)
    assert answer.status == 200
    (record,) = await shared.received()
    sent = [value for name, value in headers_of(record) if name == "authorization"]
    assert sent == ["Bearer worker-secret"]
    assert (await ask(shared, "GET", "/v1/traces/ok", KEY)).status == 200


@pytest.mark.parametrize("path", ["/health", "/liveness", "/readiness", "/metrics"])
async def test_probes_and_metrics_are_open(shared: Fleet, path: str):
    assert (await ask(shared, "GET", path)).status == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/traces"),
        ("GET", "/v1/traces/stats"),
        ("GET", "/v1/traces/x"),
        ("POST", "/v1/traces/batch"),
        ("DELETE", "/v1/traces"),
        ("DELETE", "/v1/traces/x"),
        ("POST", "/v1/unheard-of"),
    ],
)
async def test_everything_else_needs_the_key(shared: Fleet, method: str, path: str):
    assert (await ask(shared, method, path)).status == 401
    assert (await ask(shared, method, path, KEY)).status not in (401, 403)


async def test_no_key_is_ever_logged(shared: Fleet):
    await post(shared.router, "/generate", body(), headers=KEY)
    await post(shared.router, "/generate", body(), headers=WRONG["wrong"])
    assert "secret" not in shared.router.log()
