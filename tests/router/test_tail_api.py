"""The live tail over HTTP: what is said, to whom, and how it ends."""

from __future__ import annotations

import asyncio

import aiohttp
import msgspec
import pytest

from router.app import App
from tests.running import call, running, sim_worker
from tests.tailing import tailing
from tests.waiting import until
from tracking.tail import Tail


def url(app: App) -> str:
    return f"http://127.0.0.1:{app.port}"


def tail_of(app: App) -> Tail:
    assert app.tracker is not None
    return app.tracker.tail


async def generate(app: App, request_id: str, **headers: str) -> None:
    body = {"text": "hello", "sampling_params": {"max_new_tokens": 2}}
    answer = await call(
        app, "POST", "/generate", body, headers={"X-Request-Id": request_id, **headers}
    )
    assert answer.status == 200


async def test_a_request_is_told_from_its_beginning_to_its_end():
    async with sim_worker() as worker, running(worker.url, enable_request_tracking=True) as app:
        async with tailing(url(app)) as tail:
            await generate(app, "one")
            event = await tail.until("one", "completed")
            assert event.data["node_id"] == "worker-0"
            assert "attempts" not in event.data
            listed = (await call(app, "GET", "/v1/traces?limit=1")).body
            assert msgspec.json.decode(listed) == [event.data]
            assert all(one.id for one in tail.events)


async def test_its_head_is_that_of_an_event_stream_and_echoes_the_request_id():
    async with running(enable_request_tracking=True) as app:
        async with tailing(url(app), headers={"X-Request-Id": "my-tail"}) as tail:
            headers = tail.response.headers
            assert headers["Content-Type"] == "text/event-stream"
            assert headers["Cache-Control"] == "no-store"
            assert headers["X-Request-Id"] == "my-tail"
        head = await call(app, "HEAD", "/v1/traces/stream")
        assert (head.status, head.headers["Content-Type"]) == (200, "text/event-stream")


@pytest.mark.parametrize(
    "query",
    ["status=completed&node_id=worker-0", "reason=only_candidate&http_status=2xx&status=completed"],
)
async def test_filters_hold_back_what_was_not_asked_for(query):
    async with sim_worker() as worker, running(worker.url, enable_request_tracking=True) as app:
        async with tailing(url(app), query) as tail:
            for number in range(3):
                await generate(app, f"r{number}")
            await tail.until("r2", "completed")
            assert [one.data["request_id"] for one in tail.events] == ["r0", "r1", "r2"]


@pytest.mark.parametrize("how", ["header", "parameter"])
async def test_a_client_that_comes_back_hears_what_it_missed(how):
    async with sim_worker() as worker, running(worker.url, enable_request_tracking=True) as app:
        async with tailing(url(app), "status=completed") as tail:
            await generate(app, "before")
            last = (await tail.until("before", "completed")).id
        await generate(app, "missed")
        headers = {"Last-Event-ID": last} if how == "header" else {}
        query = "status=completed" + ("" if how == "header" else f"&last_event_id={last}")
        async with tailing(url(app), query, headers) as tail:
            await generate(app, "after")
            await tail.until("after", "completed")
            assert [one.data["request_id"] for one in tail.events] == ["missed", "after"]


async def test_one_whose_place_is_unknown_is_told_so():
    async with running(enable_request_tracking=True) as app:
        async with tailing(url(app), "last_event_id=1-1") as tail:
            event = await tail.next()
            assert (event.name, event.data) == ("dropped", {"count": None})


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("limit=3", "limit"),
        ("since=5m", "since"),
        ("status=odd", "status"),
        ("last_event_id=x", "last_event_id"),
    ],
)
async def test_a_wrong_parameter_is_refused_by_name(query, named):
    async with running(enable_request_tracking=True) as app:
        answer = await call(app, "GET", f"/v1/traces/stream?{query}")
        assert answer.status == 400
        assert named in answer.text


async def test_it_is_guarded_by_the_key_and_off_with_tracking():
    async with running(enable_request_tracking=True, api_key="k") as app:
        assert (await call(app, "GET", "/v1/traces/stream")).status == 401
    async with running() as app:
        answer = await call(app, "GET", "/v1/traces/stream")
        assert answer.status == 501
        assert "Request tracking is not enabled" in answer.text


async def test_a_store_that_is_away_is_503():
    async with running(enable_request_tracking=True, redis_url="redis://127.0.0.1:1/0") as app:
        assert (await call(app, "GET", "/v1/traces/stream")).status == 503


async def test_a_client_that_leaves_is_forgotten():
    async with running(enable_request_tracking=True) as app:
        async with tailing(url(app)):
            assert tail_of(app).listeners == 1
        await until(lambda: tail_of(app).listeners == 0)


async def test_a_router_that_stops_ends_its_tails_cleanly():
    async with running(enable_request_tracking=True) as app:
        async with tailing(url(app)) as tail:
            stopping = asyncio.create_task(app.stop(asyncio.Event()))
            assert await tail.read() is None
            with pytest.raises(aiohttp.ClientConnectionError):
                await call(app, "GET", "/v1/traces/stream")
            await stopping
