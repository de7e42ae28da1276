"""Active health checks against real sockets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from router.core.health import Health, HealthSettings
from router.core.worker import Worker
from router.upstream.prober import Prober, ProberSettings
from tests.waiting import PATIENCE_SECONDS, until

MODELS = {"object": "list", "data": [{"id": "m1", "owned_by": "sglang"}, {"id": "lora"}]}


class Engine:
    """A worker's server whose answers a test changes as it goes. Paths without one are 404."""

    def __init__(self) -> None:
        self.answers: dict[str, object] = {"/health": 200, "/v1/models": MODELS}
        self.asked: list[str] = []
        self.keys: list[str | None] = []
        self.hanging = False
        self.hanging_on: set[str] = set()
        self.server = "uvicorn"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        self.keys.append(request.headers.get("Authorization"))
        if self.hanging or request.path in self.hanging_on:
            await asyncio.sleep(60)
        answer = self.answers.get(request.path, 404)
        headers = {"Server": self.server}
        if isinstance(answer, int):
            return web.Response(status=answer, headers=headers)
        if isinstance(answer, bytes):
            response = web.StreamResponse(headers=headers)
            await response.prepare(request)
            for start in range(0, len(answer), 7):
                await response.write(answer[start : start + 7])
                await asyncio.sleep(0)
            return response
        return web.json_response(answer, headers=headers)

    def count(self, path: str) -> int:
        return self.asked.count(path)


@asynccontextmanager
async def serving(engine: Engine, port: int | None = None) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", engine.handle)
    server = TestServer(app, port=port)
    await server.start_server()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        await server.close()


def worker(url: str, failure_threshold: int = 3) -> Worker:
    settings = HealthSettings(failure_threshold=failure_threshold)
    return Worker(url, "worker-0", health=Health(settings))


@asynccontextmanager
async def probing(
    *workers: Worker,
    interval: float = 60,
    patience: float = PATIENCE_SECONDS,
    restarted: Callable[[Worker], None] = lambda _worker: None,
) -> AsyncIterator[Prober]:
    prober = Prober(
        ProberSettings(interval_seconds=interval, timeout_seconds=patience, endpoint="/health"),
        Random(1),
        restarted=restarted,
    )
    await prober.start(workers)
    try:
        yield prober
    finally:
        await prober.close()


async def test_after_the_first_round_a_good_worker_is_healthy_and_known() -> None:
    engine = Engine()
    async with serving(engine) as url, probing(one := worker(url)) as prober:
        assert not one.healthy
        await prober.first_round(PATIENCE_SECONDS)
        assert one.healthy
        assert one.health.reason == "/health answered 200"
        assert (one.model_id, one.model_ids, one.engine) == ("m1", ("m1", "lora"), "sglang")


async def test_workers_that_cannot_be_reached_do_not_hold_up_the_first_round(caplog) -> None:
    engine, hanging = Engine(), Engine()
    hanging.hanging = True
    async with serving(engine) as good, serving(hanging) as silent:
        refused = worker(f"http://127.0.0.1:{unused_port()}")
        async with probing(one := worker(good), two := worker(silent), refused) as prober:
            await until(lambda: one.healthy and "connect" in refused.health.reason.lower())
            await prober.first_round(0.3)
            assert one.healthy
            assert not two.healthy
            assert not refused.healthy
    [warning] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warning == f"1 workers did not answer within 0.3 s: {silent}"


async def test_a_router_without_workers_starts_at_once() -> None:
    async with probing() as prober:
        await prober.first_round(PATIENCE_SECONDS)


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_a_worker_without_the_path_asked_is_alive(status: int) -> None:
    engine = Engine()
    engine.answers["/health"] = status
    async with serving(engine) as url, probing(one := worker(url)) as prober:
        await prober.first_round(PATIENCE_SECONDS)
        assert one.healthy


@pytest.mark.parametrize("status", [400, 401, 500, 502, 503, 302])
async def test_any_other_answer_but_2xx_is_a_failed_check(status: int) -> None:
    engine = Engine()
    engine.answers["/health"] = status
    async with serving(engine) as url, probing(one := worker(url)) as prober:
        await prober.first_round(PATIENCE_SECONDS)
        assert not one.healthy
        assert one.health.reason == f"/health answered {status}"


async def test_a_worker_that_hangs_fails_its_check_in_time() -> None:
    engine = Engine()
    engine.hanging = True
    async with serving(engine) as url, probing(one := worker(url), patience=0.3) as prober:
        await prober.first_round(PATIENCE_SECONDS)
        assert one.health.reason == "no answer to /health in 0.3 s"


async def test_a_worker_that_finishes_loading_is_taken_at_once_despite_a_long_interval() -> None:
    engine = Engine()
    engine.answers["/health"] = 503
    async with serving(engine) as url, probing(one := worker(url)) as prober:
        await prober.first_round(PATIENCE_SECONDS)
        assert not one.healthy
        engine.answers["/health"] = 200
        await until(lambda: one.healthy)
        await until(lambda: one.model_id == "m1")


async def test_a_worker_that_loses_its_health_in_traffic_is_asked_at_once_and_learned_anew() -> (
    None
):
    engine = Engine()
    async with serving(engine) as url, probing(one := worker(url)) as prober:
        await prober.first_round(PATIENCE_SECONDS)
        engine.answers["/v1/models"] = {"data": [{"id": "m2", "owned_by": "vllm"}]}
        for _ in range(3):
            one.health.connect_failed("connection refused")
        assert not one.healthy
        await until(lambda: one.healthy)
        await until(lambda: one.model_id == "m2")
        assert one.engine == "vllm"
        assert engine.count("/health") == 3


async def test_a_worker_that_dies_is_found_out_and_comes_back() -> None:
    engine, port = Engine(), unused_port()
    one = worker(f"http://127.0.0.1:{port}", failure_threshold=1)
    async with probing(one, interval=0.05) as prober:
        async with serving(engine, port):
            await prober.first_round(PATIENCE_SECONDS)
            await until(lambda: one.healthy)
        await until(lambda: not one.healthy)
        async with serving(engine, port):
            await until(lambda: one.healthy)


async def test_a_worker_that_refused_connections_was_started_again_one_that_failed_was_not() -> (
    None
):
    engine = Engine()
    told: list[Worker] = []
    async with serving(engine) as url:
        one = worker(url, failure_threshold=1)
        port = one.port
        async with probing(one, interval=0.05, restarted=told.append) as prober:
            await prober.first_round(PATIENCE_SECONDS)
            engine.answers["/health"] = 503
            await until(lambda: not one.healthy)
            engine.answers["/health"] = 200
            await until(lambda: one.healthy)
            assert told == []
    two = worker(url, failure_threshold=1)
    async with probing(two, interval=0.05, restarted=told.append):
        await until(lambda: "connect" in two.health.reason.lower())
        async with serving(engine, port):
            await until(lambda: two.healthy)
            assert told == [two]


async def test_a_healthy_worker_is_asked_every_interval_but_only_once_what_it_serves() -> None:
    engine = Engine()
    async with serving(engine) as url, probing(one := worker(url), interval=0.02):
        await until(lambda: engine.count("/health") >= 5)
        assert one.healthy
        assert engine.count("/v1/models") == 1


async def test_a_worker_that_did_not_say_what_it_serves_is_asked_again() -> None:
    engine = Engine()
    engine.hanging_on.add("/v1/models")
    async with (
        serving(engine) as url,
        probing(one := worker(url), interval=0.02, patience=1) as prober,
    ):
        await prober.first_round(PATIENCE_SECONDS)
        assert one.healthy
        assert one.model_id is None
        engine.hanging_on.clear()
        await until(lambda: one.model_id == "m1")


async def test_what_was_known_of_a_worker_is_kept_while_it_says_nothing_new() -> None:
    engine = Engine()
    async with serving(engine) as url, probing(one := worker(url)) as prober:
        await prober.first_round(PATIENCE_SECONDS)
        engine.answers["/v1/models"] = 500
        asked = engine.count("/v1/models")
        for _ in range(3):
            one.health.connect_failed("connection refused")
        await until(lambda: engine.count("/get_model_info") == 1)
        assert engine.count("/v1/models") == asked + 1
        assert one.model_id == "m1"


async def test_with_checks_disabled_only_what_it_serves_is_asked() -> None:
    engine = Engine()
    async with (
        serving(engine) as url,
        probing(one := Worker(url, "worker-0"), interval=0.02) as prober,
    ):
        await prober.first_round(PATIENCE_SECONDS)
        assert one.model_id == "m1"
        await asyncio.sleep(0.1)
        assert engine.asked == ["/v1/models", "/server_info", "/get_server_info"]


async def test_with_checks_disabled_a_worker_that_is_still_loading_is_asked_again_soon() -> None:
    engine, port = Engine(), unused_port()
    async with probing(one := Worker(f"http://127.0.0.1:{port}", "worker-0")) as prober:
        await prober.first_round(PATIENCE_SECONDS)
        assert one.model_id is None
        async with serving(engine, port):
            await until(lambda: one.model_id == "m1")


async def test_the_workers_own_key_is_sent() -> None:
    engine = Engine()
    async with serving(engine) as url:
        one = Worker(url, "worker-0", api_key="wk-1", health=Health())
        async with probing(one) as prober:
            await prober.first_round(PATIENCE_SECONDS)
    assert engine.count("/v1/models") == 1
    assert set(engine.keys) == {"Bearer wk-1"}


@pytest.mark.parametrize(
    ("answers", "names", "engine"),
    [
        ({"/v1/models": {"data": [{"id": "a", "owned_by": "vllm"}]}}, ("a",), "vllm"),
        ({"/v1/models": {"data": [{"id": "a", "owned_by": "llamacpp"}]}}, ("a",), "llama.cpp"),
        ({"/v1/models": {"data": [{"id": "a", "owned_by": "me"}]}}, ("a",), None),
        (
            {"/model_info": {"served_model_name": "s", "model_path": "/p"}},
            ("s",),
            "sglang",
        ),
        ({"/get_model_info": {"model_path": "/p"}}, ("/p",), "sglang"),
        ({"/v1/models": {"data": []}, "/model_info": {"model_path": "/p"}}, ("/p",), "sglang"),
        ({"/v1/models": [1], "/model_info": {"model_path": "/p"}}, ("/p",), "sglang"),
        ({"/v1/models": b'{"data": [{"id": "in many pieces"}]}'}, ("in many pieces",), None),
        ({"/v1/models": b"\xff not json"}, (), None),
        ({"/v1/models": {"data": [{"id": 7}]}}, (), None),
        ({"/model_info": {"model_path": None}}, (), None),
        ({}, (), None),
    ],
)
async def test_what_a_worker_serves_is_read_from_what_it_has(answers, names, engine) -> None:
    made = Engine()
    made.answers = {"/health": 200, **answers}
    async with serving(made) as url, probing(one := worker(url)) as prober:
        await prober.first_round(PATIENCE_SECONDS)
        assert (one.model_ids, one.engine) == (names, engine)
        assert one.model_id == (names[0] if names else None)


async def test_llama_cpp_is_known_by_its_server_header() -> None:
    engine = Engine()
    engine.server = "llama.cpp"
    engine.answers["/v1/models"] = {"data": [{"id": "a"}]}
    async with serving(engine) as url, probing(one := worker(url)) as prober:
        await prober.first_round(PATIENCE_SECONDS)
        assert one.engine == "llama.cpp"


async def test_the_version_is_asked_where_this_kind_of_engine_tells_it() -> None:
    engine = Engine()
    engine.answers["/get_server_info"] = {"version": "0.4.6"}  # an old one: no /server_info
    async with serving(engine) as url, probing(one := worker(url)) as prober:
        await prober.first_round(PATIENCE_SECONDS)
        assert (one.engine, one.engine_version) == ("sglang", "0.4.6")
        engine.answers["/get_server_info"] = {"version": "0.5.23"}
        one.health.probe_failed("it was replaced")
        one.health.probe_failed("it was replaced")
        one.health.probe_failed("it was replaced")
        await until(lambda: one.engine_version == "0.5.23")


async def test_an_endless_answer_is_cut() -> None:
    cut = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 65536)
        finally:
            cut.set()

    app = web.Application()
    app.router.add_get("/health", endless)
    server = TestServer(app)
    await server.start_server()
    async with probing(
        one := worker(f"http://127.0.0.1:{server.port}"), patience=PATIENCE_SECONDS
    ) as prober:
        await prober.first_round(PATIENCE_SECONDS)
        assert one.healthy
        await asyncio.wait_for(cut.wait(), PATIENCE_SECONDS)
    await server.close()


async def test_a_removed_worker_is_asked_no_more_and_an_added_one_is() -> None:
    first, second = Engine(), Engine()
    async with serving(first) as here, serving(second) as there:
        one, two = worker(here), worker(there)
        async with probing(one, interval=0.02) as prober:
            await prober.first_round(PATIENCE_SECONDS)
            prober.add(two)
            prober.remove(one)
            prober.remove(one)
            assert one.listeners == []
            asked = len(first.asked)
            await until(lambda: two.healthy)
            await prober.first_round(PATIENCE_SECONDS)
            await until(lambda: second.count("/health") >= 3)
            assert len(first.asked) == asked


async def test_a_redirect_is_not_followed() -> None:
    elsewhere = Engine()

    async def away(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound(f"{target}/health")

    app = web.Application()
    app.router.add_get("/health", away)
    server = TestServer(app)
    await server.start_server()
    async with serving(elsewhere) as target:
        async with probing(one := worker(f"http://127.0.0.1:{server.port}")) as prober:
            await prober.first_round(PATIENCE_SECONDS)
            assert one.health.reason == "/health answered 302"
    await server.close()
    assert elsewhere.asked == []
