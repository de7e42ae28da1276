"""`tracking.client`: one and the same for asyncio and for scripts, against routers that run."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest

from router.app import App
from tests.processes import free_port
from tests.raw_tcp import RawConnection, ScriptedServer
from tests.running import call, running, sim_worker
from tracking.client import (
    ClientError,
    FullTrace,
    NotFound,
    Notice,
    PartialAnswer,
    Refused,
    SyncTraceClient,
    TraceClient,
    Unreachable,
)

KINDS = pytest.mark.parametrize("kind", [TraceClient, SyncTraceClient])
Kind = type[TraceClient] | type[SyncTraceClient]


class Asking:
    """Either client, to be awaited."""

    def __init__(self, client: TraceClient | SyncTraceClient) -> None:
        self.client = client

    async def __call__(self, method: str, *given: Any, **settings: Any) -> Any:
        ask = getattr(self.client, method)
        if isinstance(self.client, SyncTraceClient):
            return await asyncio.to_thread(ask, *given, **settings)
        return await ask(*given, **settings)

    async def all(self, method: str, *given: Any, count: int | None = None, **settings: Any) -> Any:
        """The items of an iterator, the first `count`."""
        ask = getattr(self.client, method)
        if isinstance(self.client, SyncTraceClient):
            return await asyncio.to_thread(lambda: [*islice(ask(*given, **settings), count)])
        found: list[Any] = []
        async with aclosing(ask(*given, **settings)) as items:
            async for item in items:
                found.append(item)
                if len(found) == count:
                    break
        return found


@asynccontextmanager
async def asking(kind: Kind, *urls: str, **settings: Any) -> AsyncIterator[Asking]:
    client = kind(*urls, timeout_seconds=5, **settings)
    if isinstance(client, TraceClient):
        async with client:
            yield Asking(client)
    else:
        yield Asking(client)


def url(app: App) -> str:
    return f"http://127.0.0.1:{app.port}"


async def generate(app: App, request_id: str, *, key: str | None = None, **headers: str) -> None:
    body = {"text": "hi", "sampling_params": {"max_new_tokens": 1}}
    sent = {"X-Request-Id": request_id, **{k.replace("_", "-"): v for k, v in headers.items()}}
    assert (await call(app, "POST", "/generate", body, key=key, headers=sent)).status == 200


@pytest.fixture
async def app() -> AsyncIterator[App]:
    """A router with thirty traces, r-00 to r-29."""
    async with sim_worker() as worker, running(worker.url, enable_request_tracking=True) as started:
        for number in range(30):
            await generate(started, f"r-{number:02}")
        yield started


@KINDS
async def test_a_trace_is_whole_and_an_id_that_nobody_knows_is_not_found(app: App, kind: Kind):
    async with asking(kind, url(app)) as ask:
        trace = await ask("get", "r-07")
        assert isinstance(trace, FullTrace)
        assert (trace.request_id, trace.status, trace.node_id) == ("r-07", "completed", "worker-0")
        assert trace.decision is not None
        assert trace.decision.reason == "only_candidate"
        assert [attempt.node_id for attempt in trace.attempts] == ["worker-0"]
        with pytest.raises(NotFound, match="no-such") as raised:
            await ask("get", "no-such")
        assert isinstance(raised.value, LookupError)
        assert raised.value.status == 404


@KINDS
async def test_a_batch_may_be_of_any_size_and_keeps_the_order_asked(app: App, kind: Kind):
    async with asking(kind, url(app)) as ask:
        ids = ["r-20", *(f"unknown-{n}" for n in range(1500)), "r-03"]
        assert [trace.request_id for trace in await ask("batch", ids)] == ["r-20", "r-03"]


@KINDS
async def test_lists_go_through_all_pages_newest_first(app: App, kind: Kind):
    async with asking(kind, url(app)) as ask:
        pages = await ask.all("pages", limit=12)
        assert [len(page.rows) for page in pages] == [12, 12, 6]
        listed = [trace.request_id for trace in await ask.all("list")]
        assert listed == [f"r-{number:02}" for number in reversed(range(30))]
        assert [row["request_id"] for page in pages for row in page.rows] == listed
        assert len(await ask.all("list", limit=7)) == 7
        assert (await ask.all("list", limit=1, detail=True))[0].attempts != []


@KINDS
async def test_filters_are_python_values_and_rows_are_plain_dictionaries(app: App, kind: Kind):
    async with asking(kind, url(app)) as ask:
        rows = await ask.all(
            "rows", fields=["request_id", "stream"], request_id_prefix="r-0", stream=False, limit=2
        )
        assert rows == [
            {"request_id": "r-09", "stream": False},
            {"request_id": "r-08", "stream": False},
        ]
        now = datetime.now(UTC)
        assert len(await ask.all("list", since=now - timedelta(hours=1))) == 30
        assert await ask.all("list", until=timedelta(hours=1)) == []
        assert await ask.all("list", min_duration_seconds=1e3) == []
        with pytest.raises(Refused, match="unknown parameter 'nodes'") as raised:
            await ask.all("list", nodes="worker-0")
        assert (raised.value.status, raised.value.code) == (400, "bad_request")


@KINDS
async def test_stats_and_deletion(kind: Kind):
    async with (
        sim_worker() as worker,
        running(worker.url, enable_request_tracking=True, api_key="k", admin_api_key="a") as app,
    ):
        for request_id in ("one", "two", "three"):
            await generate(app, request_id, key="k")
        async with asking(kind, url(app), api_key="k") as ask:
            stats = await ask("stats")
            assert (stats.total_requests, stats.active_traces) == (3, 3)
            assert stats.requests_per_status == {"completed": 3}
            assert stats.config.ttl_seconds == 3600
            assert stats.window is None
            window = (await ask("stats", window="15m", by=["node", "model"])).window
            assert (window.total.requests, window.total.error_rate) == (3, 0)
            assert window.total.duration_seconds.count == 3
            assert window.by["node"]["worker-0"] == window.total
            assert (await ask("stats", by="policy")).window.by["policy"].keys() == {"cache_aware"}
            with pytest.raises(Refused) as raised:
                await ask("delete", "one")
            assert raised.value.status in (401, 403)
        async with asking(kind, url(app), api_key="a") as ask:
            assert await ask("delete", "one") == 1
            with pytest.raises(NotFound):
                await ask("delete", "one")
            await generate(app, "four", key="a", X_Session_Id="chat")
            assert await ask("delete_session", "chat") == 1
            assert await ask("delete_session", "chat") == 0
            assert await ask("clear") == 2
        async with asking(kind, url(app)) as ask:
            with pytest.raises(Refused) as raised:
                await ask("stats")
            assert (raised.value.status, raised.value.code) == (401, "invalid_api_key")


@KINDS
async def test_a_replica_that_cannot_answer_is_passed_over_and_not_asked_first_again(
    app: App, kind: Kind
):
    async def away(connection: RawConnection) -> None:
        await connection.read_until(b"\r\n\r\n")
        await connection.send(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy")

    gone = f"http://127.0.0.1:{free_port()}"
    async with ScriptedServer(away) as busy, asking(kind, gone, busy.url, url(app)) as ask:
        assert (await ask("get", "r-00")).request_id == "r-00"
        assert (await ask("get", "r-01")).request_id == "r-01"
        assert busy.connections == 1


@KINDS
async def test_when_none_can_answer_the_reasons_are_told(kind: Kind):
    urls = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    async with asking(kind, *urls) as ask:
        with pytest.raises(Unreachable) as raised:
            await ask("stats")
        assert all(one in str(raised.value) for one in urls)


async def answer(connection: RawConnection, body: bytes, headers: str = "") -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    await connection.send(head.encode() + body)


@KINDS
async def test_fields_of_a_newer_router_are_skipped_and_a_partial_list_is_a_warning(kind: Kind):
    row = {
        **{"request_id": "r", "node_id": "n", "worker_url": "u:1", "routing_policy": "p"},
        **{"status": "completed", "timestamp": "t", "cache_hit_rate": None, "queue_size": 0},
        "of_tomorrow": {"x": 1},
    }

    async def newer(connection: RawConnection) -> None:
        await connection.read_until(b"\r\n\r\n")
        await answer(
            connection, msgspec.json.encode([row]), "X-Trace-Partial: store-unavailable\r\n"
        )

    async with ScriptedServer(newer) as server, asking(kind, server.url) as ask:
        with pytest.warns(PartialAnswer):
            (trace,) = await ask.all("list")
        assert trace.request_id == "r"


@KINDS
async def test_an_export_is_whole_or_an_error_and_a_file_appears_when_it_is_whole(
    app: App, kind: Kind, tmp_path: Path
):
    async with asking(kind, url(app)) as ask:
        data = b"".join(await ask.all("export", request_id_prefix="r-1"))
        assert [msgspec.json.decode(line)["request_id"] for line in data.splitlines()] == [
            f"r-1{number}" for number in reversed(range(10))
        ]
        file = tmp_path / "all.csv"
        size = await ask("export_to", file, "csv", order="asc")
        assert size == file.stat().st_size
        assert len(file.read_text().splitlines()) == 31

    async def cut(connection: RawConnection) -> None:
        await connection.read_until(b"\r\n\r\n")
        await connection.send(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhalf,\r\n"
        )

    async with ScriptedServer(cut) as server, asking(kind, server.url) as ask:
        with pytest.raises(ClientError, match="cut off"):
            await ask("export_to", tmp_path / "half.csv", "csv")
    assert os.listdir(tmp_path) == ["all.csv"]


@KINDS
async def test_a_tail_tells_what_happens_to_requests(app: App, kind: Kind):
    async with asking(kind, url(app)) as ask:
        wanted = {"status": "completed", "request_id_prefix": "live-"}
        told = asyncio.ensure_future(ask.all("tail", count=2, **wanted))
        number = 0
        while not told.done():
            await generate(app, f"live-{number}")
            number += 1
            await asyncio.sleep(0.02)
        traces = await told
        assert len({trace.request_id for trace in traces}) == 2
        assert all(trace.request_id.startswith("live-") for trace in traces)
        assert {trace.status for trace in traces} == {"completed"}


@KINDS
async def test_a_tail_goes_on_where_it_was_over_another_connection(kind: Kind):
    heads: list[bytes] = []

    def event(number: int) -> bytes:
        row = msgspec.json.encode(
            {
                **{"request_id": f"r{number}", "node_id": "n", "worker_url": "u:1"},
                **{"routing_policy": "p", "status": "completed", "timestamp": "t"},
                **{"cache_hit_rate": None, "queue_size": 0},
            }
        )
        return b"event: trace\nid: 7-%d\ndata: %b\n\n" % (number, row)

    async def stream(connection: RawConnection) -> None:
        heads.append(await connection.read_until(b"\r\n\r\n"))
        number = len(heads)
        pieces = [b"retry: 10\n\n", event(number)]
        if number == 2:
            pieces[1:1] = [b'event: dropped\ndata: {"count": 5}\n\n', b"event: new\ndata: {}\n\n"]
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
        await connection.send(b"Transfer-Encoding: chunked\r\n\r\n")
        for piece in pieces:
            await connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        if number == 1:
            await connection.send(b"ff\r\nevent: trace\ndata: cut")  # in the middle of an event

    notices: list[Notice] = []
    async with ScriptedServer(stream) as server, asking(kind, server.url) as ask:
        traces = await ask.all("tail", count=2, on_notice=notices.append, model="m")
    assert [trace.request_id for trace in traces] == ["r1", "r2"]
    assert [notice.what for notice in notices] == ["reconnecting", "dropped"]
    assert notices[1].count == 5
    assert b"model=m" in heads[0]
    assert b"last-event-id" not in heads[0].lower()
    assert b"last-event-id: 7-1\r\n" in heads[1].lower()


@KINDS
async def test_a_tail_that_is_refused_says_why(app: App, kind: Kind):
    async with asking(kind, url(app)) as ask:
        with pytest.raises(Refused, match="unknown parameter 'since'"):
            await ask.all("tail", count=1, since="1h")
