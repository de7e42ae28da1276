"""Which paths go to a worker, which never do, and what the client hears of it."""

from __future__ import annotations

import pytest

from tests.fleets import Fleet, error_of, metric
from tests.raw_tcp import RawConnection, RawResponse

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
FLEET = {"workers": 1, "flags": ["--forward-paths", "/start_profile"]}

CONTROL = [
    "/update_weights_from_disk",
    "/update_weights",
    "/shutdown",
    "/stop_profile",
    "/release_memory_occupation",
    "/resume_memory_occupation",
    "/pause_generation",
    "/load_lora_adapter",
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/v1/rl/sleep",
    "/set_internal_state",
    "/freeze_gc",
]


async def ask(running: Fleet, path: str, method: str = "POST") -> RawResponse:
    async with await RawConnection.connect(running.router.port) as client:
        await client.send(
            f"{method} {path} HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\n{{}}".encode(
                "latin-1"
            )
        )
        return await client.read_response()


def disguises(path: str) -> list[str]:
    letter = f"%{ord(path[-3]):02x}"
    return [path, path.upper(), path[:-3] + letter + path[-2:], path + "?x=1"]


@pytest.mark.parametrize("path", CONTROL)
async def test_a_control_path_of_a_worker_is_not_found_in_any_disguise(shared: Fleet, path: str):
    for disguise in [*disguises(path), path + "/"]:
        for method in ("POST", "GET", "PUT"):
            answer = await ask(shared, disguise, method)
            assert answer.status == 404, (method, disguise)
            assert error_of(answer)["code"] == "not_found"
    state = await shared.workers[0].state()
    assert state["control_hits"] == []


async def test_a_control_path_that_is_named_passes(shared: Fleet):
    assert (await ask(shared, "/start_profile")).status == 200
    assert (await shared.workers[0].state())["control_hits"] == ["/start_profile"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/../shutdown",
        "/v1/./chat",
        "/v1/%2e%2e/shutdown",
        "//generate",
        "/v1//chat/completions",
        "/v1%2fchat",
        "/v1/%2Fx",
        "/v1\\x",
        "/v1/%5cx",
        "/v1/..",
        "/v1/%zz",
        "/v1/%00",
    ],
)
async def test_a_path_that_others_may_read_differently_is_refused(shared: Fleet, path: str):
    answer = await ask(shared, path)
    assert answer.status == 400
    assert error_of(answer)["type"] == "invalid_request_error"
    assert await shared.workers[0].requests(path) == []


@pytest.mark.parametrize("method", ["POST", "GET", "PUT", "DELETE"])
async def test_an_unknown_path_under_v1_passes_and_its_answer_is_the_workers(
    shared: Fleet, method: str
):
    answer = await ask(shared, "/v1/brand-new/thing?a=1", method)
    assert (answer.status, answer.body) == (404, b'{"detail":"Not Found"}')
    (record,) = await shared.received("/v1/brand-new/thing")
    assert record["method"] == method
    assert record["target"] == "/v1/brand-new/thing?a=1"


async def test_unknown_paths_are_one_series_in_the_metrics(shared: Fleet):
    before = await metric(shared.router, "smg_http_requests_total", path="other")
    for number in range(3):
        await ask(shared, f"/v1/new-{number}")
    after = await metric(shared.router, "smg_http_requests_total", path="other")
    assert after - before == 3


async def test_an_unknown_path_elsewhere_is_not_found(shared: Fleet):
    answer = await ask(shared, "/brand-new")
    assert answer.status == 404
    assert error_of(answer)["type"] == "not_found_error"


async def test_a_known_path_under_another_method_says_which_it_takes(shared: Fleet):
    answer = await ask(shared, "/v1/traces/stats", "POST")
    assert answer.status == 405
    assert answer.header("allow") == "GET, HEAD"
    assert error_of(answer)["code"] == "method_not_allowed"


async def test_an_absolute_target_is_understood(shared: Fleet):
    async with await RawConnection.connect(shared.router.port) as client:
        await client.send(
            b"POST http://some.host/v1/absolute?q=1 HTTP/1.1\r\nHost: some.host\r\n"
            b"Content-Length: 0\r\n\r\n"
        )
        assert (await client.read_response()).status == 404
    (record,) = await shared.received("/v1/absolute")
    assert record["target"] == "/v1/absolute?q=1"
