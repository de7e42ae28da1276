"""Export over HTTP: everything that matches, at the client's pace, or a visible break."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import msgspec
import pytest

from router.api.export import ExportApi
from router.api.server import Listener
from router.app import App
from tests.raw_tcp import RawConnection
from tests.running import Json, call, running, sim_worker
from tests.tracking.traces import live, now_us
from tests.waiting import PATIENCE_SECONDS
from tracking.export import FORMATS
from tracking.query import TraceQuery
from tracking.stats_query import PLAIN, StatsQuery
from tracking.values import encode_cursor
from tracking.view import Found, Page, StoreState, StoreUnavailable


def put(app: App, count: int, prefix: str = "r") -> None:
    assert app.tracker is not None
    for number in range(count):
        node, status = f"worker-{number % 3}", ("completed", "failed")[number % 5 == 0]
        app.tracker.put(
            live(f"{prefix}{number:05}", node=node, status=status, age_seconds=1 + number / 1000)  # type: ignore[arg-type]
        )


async def lines(app: App, query: str = "") -> list[Json]:
    answer = await call(app, "GET", f"/v1/traces/export?{query}")
    assert answer.status == 200, answer.text
    return [msgspec.json.decode(line, type=Json) for line in answer.body.splitlines()]


async def listed(app: App, query: str) -> list[Json]:
    """Every page of the list."""
    found: list[Json] = []
    path: str | None = f"/v1/traces?{query}"
    while path is not None:
        answer = await call(app, "GET", path)
        found += msgspec.json.decode(answer.body, type=list[Json])
        link = answer.headers.get("Link")
        path = None if link is None else link[1 : link.index(">")]
    return found


@pytest.mark.slow
async def test_an_export_has_every_trace_that_the_list_has():
    async with running(enable_request_tracking=True) as app:
        put(app, 3000)
        every = await lines(app)
        assert len(every) == 3000
        assert every == await listed(app, "limit=1000&detail=1")
        assert await lines(app, "order=asc") == every[::-1]
        failed = await lines(app, "status=failed&node_id=worker-1")
        assert failed == await listed(app, "status=failed&node_id=worker-1&limit=1000&detail=1")
        assert len(failed) == 200
        table = await call(app, "GET", "/v1/traces/export?format=csv&status=failed")
        rows = list(csv.DictReader(io.StringIO(table.text, newline="")))
        assert [row["request_id"] for row in rows] == [
            one["request_id"] for one in every if one["status"] == "failed"
        ]


async def test_an_export_has_what_was_sent_a_moment_ago_in_every_format():
    async with sim_worker() as worker, running(worker.url, enable_request_tracking=True) as app:
        body = {"text": "hello", "sampling_params": {"max_new_tokens": 2}}
        await call(app, "POST", "/generate", body, headers={"X-Request-Id": "mine"})
        (trace,) = await lines(app, "status=completed")
        assert trace == (await call(app, "GET", "/v1/traces/mine")).json
        for name, form in FORMATS.items():
            answer = await call(app, "GET", f"/v1/traces/export?format={name}&request_id_prefix=mi")
            assert answer.headers["Content-Type"] == form().content_type
            assert f'filename="traces-{name}.' in answer.headers["Content-Disposition"]
            assert ("input_length" if name == "mooncake" else "mine") in answer.text


async def test_nothing_that_matches_is_an_empty_export():
    async with running(enable_request_tracking=True) as app:
        assert await lines(app) == []
        table = await call(app, "GET", "/v1/traces/export?format=csv")
        assert table.text.count("\n") == 1


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("format=xls", "decisions-csv"),
        ("format=csv&format=ndjson", "format"),
        ("limit=3", "limit"),
        ("status=odd", "status"),
        ("order=up", "order"),
    ],
)
async def test_a_wrong_parameter_is_refused_by_name(query, named):
    async with running(enable_request_tracking=True) as app:
        answer = await call(app, "GET", f"/v1/traces/export?{query}")
        assert answer.status == 400
        assert named in answer.text


async def test_it_is_guarded_by_the_key_and_off_with_tracking_and_503_without_a_store():
    async with running(enable_request_tracking=True, api_key="k") as app:
        assert (await call(app, "GET", "/v1/traces/export")).status == 401
    async with running() as app:
        assert (await call(app, "GET", "/v1/traces/export")).status == 501
    async with running(enable_request_tracking=True, redis_url="redis://127.0.0.1:1/0") as app:
        assert (await call(app, "GET", "/v1/traces/export")).status == 503


# --- how it goes on, and breaks off ------------------------------------------------------------


class Pages:
    """A view with pages without end, unless told to stop; counts what was asked for."""

    def __init__(self, ends_after: int = 10**9) -> None:
        self.asked: list[TraceQuery] = []
        self.ends_after = ends_after
        self.fails: set[int] = set()
        self.partial: set[int] = set()

    async def list(self, query: TraceQuery) -> Page:
        self.asked.append(query)
        if len(self.asked) in self.fails:
            raise StoreUnavailable
        if len(self.asked) in self.partial:  # what this replica knows, which is not all
            return Page([b'{"request_id":"local"}'], None, "store-unavailable")
        more = len(self.asked) < self.ends_after
        row = msgspec.json.encode({"request_id": "r" * 2000})
        return Page(
            [row] * query.limit if len(self.asked) % 2 else [],  # an empty one is no end
            encode_cursor(10**15 - len(self.asked), "key") if more else None,
            "scan-budget" if more else None,
        )

    async def get(self, ids: object) -> Found: ...  # type: ignore[empty-body]
    async def stats(self, asked: StatsQuery = PLAIN) -> bytes: ...  # type: ignore[empty-body]
    async def delete(self, record_id: object) -> int: ...  # type: ignore[empty-body]
    async def delete_session(self, session_id: str) -> int: ...  # type: ignore[empty-body]
    def state(self) -> StoreState: ...  # type: ignore[empty-body]


@asynccontextmanager
async def serving(view: Pages, unix_us: Callable[[], int] = now_us) -> AsyncIterator[int]:
    api = ExportApi(view, unix_us, patience_seconds=0.3)
    listener = Listener(lambda request: api.export(request, {}))
    port = await listener.start("127.0.0.1", 0)
    try:
        yield port
    finally:
        await listener.close(0)


async def test_a_scan_that_must_go_on_goes_on():
    view = Pages(ends_after=9)
    async with serving(view) as port, aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/") as response:
            assert (await response.read()).count(b"\n") == 500
    cursors = [query.cursor for query in view.asked]
    assert cursors == [None] + [(10**15 - n, "key") for n in range(1, 9)]


async def test_a_store_that_is_away_for_a_moment_only_takes_time():
    view = Pages(ends_after=9)
    view.fails, view.partial = {1, 4}, {5}
    async with serving(view) as port, aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/") as response:
            text = await response.text()
    assert "local" not in text
    cursors = [None if query.cursor is None else 10**15 - query.cursor[0] for query in view.asked]
    assert cursors == [None, None, 2, 3, 3, 3, 6, 7, 8]


async def test_what_arrives_later_is_not_asked_for():
    view = Pages(ends_after=3)
    async with (
        serving(view, lambda: 1_700_000_000_000_000) as port,
        aiohttp.ClientSession() as http,
    ):
        async with http.get(f"http://127.0.0.1:{port}/?order=asc") as response:
            await response.read()
        async with http.get(f"http://127.0.0.1:{port}/?until=2001-01-01T00:00:00Z") as response:
            await response.read()
        async with http.get(f"http://127.0.0.1:{port}/?until=2101-01-01T00:00:00Z") as response:
            await response.read()
    assert [query.until_us for query in view.asked] == [
        *[1_700_000_000_000_000] * 3,
        978_307_200_000_000,
        1_700_000_000_000_000,
    ]


async def test_a_client_that_does_not_read_stops_the_reading_of_the_store():
    view = Pages()
    async with serving(view) as port:
        async with await RawConnection.connect(port, receive_buffer=4096) as client:
            await client.get("/?format=ndjson")
            await client.read_until(b"\r\n\r\n")
            before = -1
            async with asyncio.timeout(PATIENCE_SECONDS):
                while before != len(view.asked):
                    before = len(view.asked)
                    await asyncio.sleep(0.3)
            assert before < 100


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
async def test_a_store_that_goes_away_breaks_the_answer_visibly(version):
    view = Pages()
    view.fails, view.partial = set(range(6, 10**4, 2)), set(range(7, 10**4, 2))
    async with serving(view) as port, await RawConnection.connect(port) as client:
        await client.send(f"GET / {version}\r\nHost: test\r\n\r\n".encode())
        with pytest.raises((EOFError, ConnectionResetError)):
            await client.read_response()


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
async def test_a_router_that_stops_breaks_the_answer_visibly(version):
    async with serving(Pages()) as port:
        client = await RawConnection.connect(port)
        await client.send(f"GET / {version}\r\nHost: test\r\n\r\n".encode())
        await client.read_until(b"\r\n\r\n")
    async with client:
        if version == "HTTP/1.0":  # any other end is a whole answer
            with pytest.raises(ConnectionResetError):
                await client.read_to_end()
        else:
            with pytest.raises((EOFError, ConnectionResetError)):
                await client.read_until(b"\r\n0\r\n\r\n")


async def test_an_export_ends_while_requests_keep_coming():
    async with running(enable_request_tracking=True) as app:
        put(app, 500, "before")

        async def traffic() -> None:
            while True:
                app.tracker.put(live())  # type: ignore[union-attr]
                await asyncio.sleep(0.001)

        flowing = asyncio.create_task(traffic())
        for order in ("desc", "asc"):
            found = [str(one["request_id"]) for one in await lines(app, f"order={order}")]
            assert len([name for name in found if name.startswith("before")]) == 500
        flowing.cancel()
