"""The trace view over real HTTP: shapes, headers and refusals of the contract, section 3."""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import BytesIO
from urllib.parse import quote

import msgspec
import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient
from yarl import URL

from router.api.http import simple_handler
from router.api.traces import TracesApi
from tests.running import call, running
from tracking.query import TraceQuery
from tracking.stats_query import PLAIN, StatsQuery
from tracking.values import encode_cursor
from tracking.view import Found, Page, Partial, StoreState, StoreUnavailable

NOON_US = 1_767_268_800_123_456  # 2026-01-01T12:00:00.123456Z
ENDPOINTS = [
    ("GET", "/v1/traces"),
    ("GET", "/v1/traces?limit=0"),
    ("DELETE", "/v1/traces"),
    ("GET", "/v1/traces/stats"),
    ("GET", "/v1/traces/req-1"),
    ("GET", "/v1/traces/export"),
    ("DELETE", "/v1/traces/req-1"),
    ("POST", "/v1/traces/batch"),
]


def record(number: int, **more: object) -> dict[str, object]:
    return {
        "request_id": f"req-{number}",
        "node_id": f"worker-{number % 2}",
        "worker_url": "http://localhost:30005",
        "routing_policy": "cache_aware",
        "status": "completed",
        "timestamp": "2025-07-28T10:26:31.123Z",
        "cache_hit_rate": None,
        "queue_size": 0,
    } | more


class FakeView:
    """Seven traces, `req-1` the oldest, in memory."""

    def __init__(self) -> None:
        self.traces = {f"req-{n}": msgspec.json.encode(record(n)) for n in range(1, 8)}
        self.down = False
        self.partial: Partial | None = None
        self.asked: list[Sequence[str]] = []
        self.stats_asked: StatsQuery | None = None

    def check(self) -> None:
        if self.down:
            raise StoreUnavailable

    async def get(self, ids: Sequence[str]) -> Found:
        self.check()
        self.asked.append(ids)
        return Found([self.traces.get(each) for each in ids])

    async def list(self, query: TraceQuery) -> Page:
        self.check()
        below = query.cursor[0] if query.cursor else 8
        matches = [
            n
            for n in range(below - 1, 0, -1)
            if query.node_id is None or query.node_id == f"worker-{n % 2}"
        ]
        page = matches[: query.limit]
        more = len(matches) > len(page)
        return Page(
            rows=[self.traces[f"req-{n}"] for n in page],
            next_cursor=encode_cursor(page[-1], "key") if more else None,
            partial=self.partial,
        )

    async def stats(self, asked: StatsQuery = PLAIN) -> bytes:
        self.check()
        self.stats_asked = asked
        return b'{"total_requests":7}'

    async def delete(self, record_id: str | None) -> int:
        self.check()
        ids = list(self.traces) if record_id is None else [record_id]
        return sum(self.traces.pop(each, None) is not None for each in ids)

    async def delete_session(self, session_id: str) -> int:
        self.check()
        return sum(
            self.traces.pop(f"req-{n}", None) is not None for n in (2, 3) if session_id == "s"
        )

    def state(self) -> StoreState:
        return StoreState(kind="redis", state="up", buffered=0, buffered_bytes=0, dropped=0)


@pytest.fixture
def view() -> FakeView:
    return FakeView()


@pytest.fixture
def connect(aiohttp_raw_server, aiohttp_client):
    async def connect(view: FakeView | None) -> TestClient:
        routes = [
            route._replace(access="open") for route in TracesApi(view, lambda: NOON_US).routes()
        ]
        return await aiohttp_client(await aiohttp_raw_server(simple_handler(routes)))

    return connect


@pytest.fixture
async def client(connect, view: FakeView) -> TestClient:
    return await connect(view)


async def ids(answer: ClientResponse) -> list[str]:
    assert answer.status == 200
    assert answer.content_type == "application/json"
    found = await answer.json()
    assert isinstance(found, list)
    return [each["request_id"] for each in found]


async def error(answer: ClientResponse) -> dict[str, object]:
    """The error object; its code is in the header as well."""
    body = await answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "code", "param"}
    assert answer.headers["X-SMG-Error-Code"] == body["error"]["code"]
    return dict(body["error"])


class TestById:
    async def test_the_object_is_answered_as_stored(
        self, client: TestClient, view: FakeView
    ) -> None:
        answer = await client.get("/v1/traces/req-3")
        assert answer.status == 200
        assert answer.content_type == "application/json"
        assert await answer.read() == view.traces["req-3"]

    async def test_an_unknown_id_is_404_and_named(self, client: TestClient) -> None:
        answer = await client.get("/v1/traces/nobody")
        assert answer.status == 404
        said = await error(answer)
        assert "nobody" in str(said["message"])
        assert (said["code"], said["type"]) == ("not_found", "not_found_error")

    async def test_a_hostile_id_is_escaped_where_it_is_named(self, client: TestClient) -> None:
        sent = quote('<\u00fc"\ufeff>', safe="")
        answer = await client.get(URL(f"/v1/traces/{sent}", encoded=True))
        assert answer.status == 404
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert (await error(answer))["message"] == "no trace with id '<\\xfc\"\\ufeff>'"

    async def test_an_endless_id_is_named_in_part(self, client: TestClient) -> None:
        answer = await client.get("/v1/traces/" + "x" * 2000)
        assert answer.status == 404
        assert len(str((await error(answer))["message"])) < 200

    @pytest.mark.parametrize("reserved", ["export", "stream"])
    async def test_paths_to_come_are_not_ids(
        self, client: TestClient, view: FakeView, reserved: str
    ) -> None:
        view.traces[reserved] = b"{}"
        assert (await client.get(f"/v1/traces/{reserved}")).status == 404

    async def test_a_path_with_an_encoded_slash_is_400(self, client: TestClient) -> None:
        answer = await client.get(URL("/v1/traces/a%2fb", encoded=True))
        assert answer.status == 400


class TestList:
    async def test_it_is_an_array_newest_first(self, client: TestClient) -> None:
        assert await ids(await client.get("/v1/traces")) == [f"req-{n}" for n in range(7, 0, -1)]

    async def test_nothing_to_show_is_an_empty_array(
        self, client: TestClient, view: FakeView
    ) -> None:
        answer = await client.get("/v1/traces?node_id=worker-9")
        assert await answer.read() == b"[]"

    async def test_the_last_page_has_no_link(self, client: TestClient) -> None:
        assert "Link" not in (await client.get("/v1/traces?limit=7")).headers

    async def test_links_lead_through_all_pages_under_the_same_filter(
        self, client: TestClient
    ) -> None:
        seen, pages, path = [], 0, URL("/v1/traces?limit=1&node_id=worker-1")
        while True:
            answer = await client.get(path)
            seen += await ids(answer)
            pages += 1
            if "next" not in answer.links:
                break
            assert answer.links["next"]["rel"] == "next"
            following = answer.links["next"]["url"]
            assert isinstance(following, URL)
            assert following.query["node_id"] == "worker-1"
            path = following.relative()
        assert seen == ["req-7", "req-5", "req-3", "req-1"]
        assert pages == 4

    async def test_the_link_holds_one_cursor(self, client: TestClient) -> None:
        answer = await client.get(
            "/v1/traces", params={"cursor": encode_cursor(5, "k"), "limit": 1}
        )
        assert answer.headers["Link"] == (
            f'</v1/traces?limit=1&cursor={encode_cursor(4, "key")}>; rel="next"'
        )

    async def test_the_link_names_the_moment_that_an_age_meant(self, client: TestClient) -> None:
        exact = "2026-01-01T11:00:00.000001Z"
        answer = await client.get("/v1/traces", params={"since": "15m", "until": exact, "limit": 1})
        following = answer.links["next"]["url"]
        assert isinstance(following, URL)
        assert following.query["since"] == "2026-01-01T11:45:00.123Z"
        assert following.query["until"] == exact

    @pytest.mark.parametrize("partial", ["store-unavailable", "scan-budget"])
    async def test_a_page_that_lacks_records_says_why(
        self, client: TestClient, view: FakeView, partial: Partial
    ) -> None:
        view.partial = partial
        answer = await client.get("/v1/traces?limit=2")
        assert answer.status == 200
        assert answer.headers["X-Trace-Partial"] == partial
        assert "next" in answer.links

    async def test_a_whole_page_does_not_say_partial(self, client: TestClient) -> None:
        assert "X-Trace-Partial" not in (await client.get("/v1/traces")).headers

    @pytest.mark.parametrize(
        ("query", "parameter", "allowed"),
        [
            ("limit=0", "limit", "1000"),
            ("limit=1001", "limit", "1000"),
            ("limit=ten", "limit", "1000"),
            ("status=done", "status", "completed"),
            ("cursor=!!", "cursor", "Link"),
            ("colour=red", "colour", "node_id"),
        ],
    )
    async def test_a_bad_parameter_is_400_and_named_with_what_is_allowed(
        self, client: TestClient, query: str, parameter: str, allowed: str
    ) -> None:
        answer = await client.get(f"/v1/traces?{query}")
        assert answer.status == 400
        said = await error(answer)
        assert said["param"] == parameter
        assert parameter in str(said["message"])
        assert allowed in str(said["message"])

    async def test_head_answers_the_headers_of_get(self, client: TestClient) -> None:
        answer = await client.head("/v1/traces?limit=1")
        assert (answer.status, await answer.read()) == (200, b"")
        assert "next" in answer.links


class TestBatch:
    @pytest.mark.parametrize("bare", [True, False])
    async def test_the_answer_is_an_array_in_the_order_asked(
        self, client: TestClient, bare: bool
    ) -> None:
        asked = ["req-2", "req-6", "req-1"]
        answer = await client.post(
            "/v1/traces/batch", json=asked if bare else {"request_ids": asked}
        )
        assert await ids(answer) == asked

    async def test_ids_not_found_are_absent(self, client: TestClient) -> None:
        answer = await client.post("/v1/traces/batch", json=["gone", "req-1", "stats"])
        assert await ids(answer) == ["req-1"]

    async def test_an_id_asked_twice_is_answered_twice(self, client: TestClient) -> None:
        answer = await client.post("/v1/traces/batch", json=["req-1", "req-2", "req-1"])
        assert await ids(answer) == ["req-1", "req-2", "req-1"]

    async def test_no_ids_are_an_empty_array(self, client: TestClient) -> None:
        answer = await client.post("/v1/traces/batch", json={"request_ids": []})
        assert await answer.read() == b"[]"

    async def test_the_content_type_of_the_question_does_not_matter(
        self, client: TestClient
    ) -> None:
        answer = await client.post(
            "/v1/traces/batch",
            data=b'["req-1"]',
            headers={"Content-Type": "application/x-www-form-urlencoded"},
        )
        assert await ids(answer) == ["req-1"]

    async def test_a_thousand_ids_are_taken(self, client: TestClient, view: FakeView) -> None:
        answer = await client.post("/v1/traces/batch", json=["x" * 128] * 1000)
        assert await ids(answer) == []
        assert len(view.asked[0]) == 1000

    async def test_one_more_is_400_and_reaches_no_store(
        self, client: TestClient, view: FakeView
    ) -> None:
        answer = await client.post("/v1/traces/batch", json=["req-1"] * 1001)
        assert answer.status == 400
        assert "1000" in str((await error(answer))["message"])
        assert view.asked == []

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{}",
            b"null",
            b"[1]",
            b'["a", null]',
            b'{"request_ids": "a"}',
            b'{"request_ids": null}',
            b'{"request_ids": [["a"]]}',
            b'{"ids": ["a"]}',
            b'["a"',
            b'["\xff"]',
            b'["\\ud800"]',
            b'{"deep": ' + b"[" * 100_000,
        ],
        ids=lambda body: body[:24].decode("ascii", "replace"),
    )
    async def test_anything_but_a_list_of_strings_is_400(
        self, client: TestClient, body: bytes
    ) -> None:
        answer = await client.post("/v1/traces/batch", data=body)
        assert answer.status == 400
        assert (await error(answer))["param"] == "request_ids"

    async def test_a_body_without_end_is_413_and_can_be_read(self, client: TestClient) -> None:
        answer = await client.post("/v1/traces/batch", data=BytesIO(b" " * 5_000_000))
        assert answer.status == 413
        told = await error(answer)
        assert told["code"] == "request_too_large"
        assert "--max-payload-size" not in str(told["message"])  # it is another limit


class TestStats:
    async def test_the_object_is_answered_as_the_view_gives_it(self, client: TestClient) -> None:
        answer = await client.get("/v1/traces/stats")
        assert (answer.status, answer.content_type) == (200, "application/json")
        assert await answer.json() == {"total_requests": 7}

    async def test_a_window_and_names_are_asked_for(
        self, client: TestClient, view: FakeView
    ) -> None:
        await client.get("/v1/traces/stats")
        assert view.stats_asked == StatsQuery()
        await client.get("/v1/traces/stats?window=15m&by=model,node")
        assert view.stats_asked == StatsQuery(window_seconds=900, by=("node", "model"))

    @pytest.mark.parametrize(
        ("query", "parameter", "allowed"),
        [
            ("limit=5", "limit", "window, by"),
            ("window=", "window", "15m"),
            ("window=0s", "window", "15m"),
            ("window=32d", "window", "31d"),
            ("window=15m&window=15m", "window", "once"),
            ("by=colour", "by", "node, model, policy, route"),
            ("by=", "by", "node, model, policy, route"),
        ],
    )
    async def test_a_bad_parameter_is_400_and_named_with_what_is_allowed(
        self, client: TestClient, query: str, parameter: str, allowed: str
    ) -> None:
        answer = await client.get(f"/v1/traces/stats?{query}")
        assert answer.status == 400
        said = await error(answer)
        assert said["param"] == parameter
        assert parameter in str(said["message"])
        assert allowed in str(said["message"])


class TestDelete:
    async def test_one_is_gone(self, client: TestClient, view: FakeView) -> None:
        answer = await client.delete("/v1/traces/req-2")
        assert (answer.status, await answer.json()) == (200, {"deleted": 1})
        assert "req-2" not in view.traces
        assert len(view.traces) == 6

    async def test_one_that_is_not_there_is_404(self, client: TestClient) -> None:
        answer = await client.delete("/v1/traces/nobody")
        assert answer.status == 404
        assert "nobody" in str((await error(answer))["message"])

    async def test_all_are_gone(self, client: TestClient, view: FakeView) -> None:
        answer = await client.delete("/v1/traces")
        assert (answer.status, await answer.json()) == (200, {"deleted": 7})
        assert view.traces == {}

    async def test_a_session_is_gone(self, client: TestClient, view: FakeView) -> None:
        for session, deleted in (("s", 2), ("s", 0), ("other", 0)):
            answer = await client.delete("/v1/traces", params={"session_id": session})
            assert (answer.status, await answer.json()) == (200, {"deleted": deleted})
        assert len(view.traces) == 5

    @pytest.mark.parametrize(
        ("query", "named"),
        [("session_id=", "session_id"), ("session_id=s&model=m", "model"), ("all=1", "all")],
    )
    async def test_what_is_not_understood_deletes_nothing(
        self, client: TestClient, view: FakeView, query: str, named: str
    ) -> None:
        answer = await client.delete(f"/v1/traces?{query}")
        assert answer.status == 400
        assert (await error(answer))["param"] == named
        assert len(view.traces) == 7

    async def test_a_filter_does_not_delete_the_rest(
        self, client: TestClient, view: FakeView
    ) -> None:
        answer = await client.delete("/v1/traces?node_id=worker-0")
        assert answer.status == 400
        assert (await error(answer))["param"] == "node_id"
        assert len(view.traces) == 7


def test_reading_needs_the_key_and_deleting_one_that_is_set(view: FakeView) -> None:
    access = {(r.method, r.name): r.access for r in TracesApi(view, lambda: NOON_US).routes()}
    assert {level for (method, _), level in access.items() if method == "DELETE"} == {"delete"}
    assert {level for (method, _), level in access.items() if method != "DELETE"} == {"key"}


async def test_without_a_key_deleting_is_501_where_nothing_is_tracked_and_else_403() -> None:
    async with running() as off:
        assert (await call(off, "DELETE", "/v1/traces")).status == 501
        assert (await call(off, "DELETE", "/v1/traces/req-1")).status == 501
    async with running(enable_request_tracking=True) as on:
        assert (await call(on, "DELETE", "/v1/traces")).status == 403
        assert (await call(on, "DELETE", "/v1/traces/req-1")).status == 403


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
async def test_with_tracking_off_every_endpoint_is_501(connect, method: str, path: str) -> None:
    client = await connect(None)
    answer = await client.request(method, path)
    assert answer.status == 501
    assert (await error(answer))["message"] == "Request tracking is not enabled"


@pytest.mark.parametrize(
    ("method", "path"),
    [each for each in ENDPOINTS if each[1] not in ("/v1/traces?limit=0", "/v1/traces/export")],
)
async def test_without_the_store_every_endpoint_is_503_and_says_when_to_ask_again(
    client: TestClient, view: FakeView, method: str, path: str
) -> None:
    view.down = True
    body = json.dumps(["req-1"]) if method == "POST" else None
    answer = await client.request(method, path, data=body)
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert (await error(answer))["code"] == "trace_store_unavailable"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/v1/traces", "GET, HEAD, DELETE"),
        ("GET", "/v1/traces/batch", "POST"),
        ("DELETE", "/v1/traces/stats", "GET, HEAD"),
    ],
)
async def test_another_method_is_405_and_says_which_are_allowed(
    client: TestClient, method: str, path: str, allow: str
) -> None:
    answer = await client.request(method, path)
    assert (answer.status, answer.headers["Allow"]) == (405, allow)
    await error(answer)
