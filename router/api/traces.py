"""The trace view over HTTP: `/v1/traces` and what is below it.

Handlers raise RouterError; whoever dispatches turns it into an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from urllib.parse import urlencode

import msgspec
from aiohttp import web

from router.api.about import About, Either, JsonObject
from router.api.access import Level
from router.api.body import read_body
from router.api.http import json_response
from router.api.routing import Handler, Route
from router.errors import BadRequest, NotFound, StoreDown, TooLarge, TracingOff
from tracking.client.results import Deleted, FullTrace, Stats
from tracking.query import PARAMETERS, QueryError, TraceQuery, parse_query
from tracking.stats_query import PARAMETERS as STATS_PARAMETERS
from tracking.stats_query import parse_stats
from tracking.trace import rfc3339
from tracking.view import StoreUnavailable, TraceView

MAX_BATCH: Final = 1000
MAX_BATCH_BYTES: Final = 1 << 20
RETRY_AFTER_SECONDS: Final = 2.0
# Never ids of requests: these are, or will be, paths of their own.
RESERVED: Final = frozenset({"batch", "export", "stats", "stream"})


class BatchRequest(msgspec.Struct):
    """Body of POST /v1/traces/batch."""

    request_ids: list[str]


AWAY: Final = (TracingOff, StoreDown)
MANY: Final = About(
    summary="Traces, newest first",
    answers={200: Either(list[FullTrace], list[JsonObject])},
    errors=AWAY,
    query=PARAMETERS,
    headers={
        "Link": 'the next page, rel="next"; absent on the last',
        "X-Trace-Partial": "why the page may lack traces: store-unavailable or scan-budget",
    },
)
DELETE_MANY: Final = About(
    summary="Delete all traces, or a session's",
    answers={200: Deleted},
    errors=AWAY,
    query={"session_id": PARAMETERS["session_id"]},
)
STATS: Final = About(
    summary="Counts, and rates and percentiles of a window",
    answers={200: Stats},
    errors=AWAY,
    query=STATS_PARAMETERS,
)
BATCH: Final = About(
    summary="The traces of some ids, in their order; unknown ones are left out",
    answers={200: list[FullTrace]},
    errors=(*AWAY, TooLarge),
    body=BatchRequest | list[str],
)
ONE: Final = About(
    summary="A trace by request id, record key or the engine's id",
    answers={200: FullTrace},
    errors=(*AWAY, NotFound),
)
DELETE: Final = About(summary="Delete a trace", answers={200: Deleted}, errors=(*AWAY, NotFound))


class TracesApi:
    """Answers from a TraceView; None where tracing is off. `unix_us` tells the fleet's time."""

    def __init__(self, view: TraceView | None, unix_us: Callable[[], int]) -> None:
        self._view = view
        self._unix_us = unix_us

    def routes(self) -> list[Route]:
        # Where nothing is tracked there is nothing to guard, and that it is so is the better answer.
        deletes: Level = "admin" if self._view is None else "delete"
        return [
            Route("GET", "/v1/traces", told(self.page), "key", MANY),
            Route("DELETE", "/v1/traces", told(self.delete_many), deletes, DELETE_MANY),
            Route("GET", "/v1/traces/stats", told(self.stats), "key", STATS),
            Route("POST", "/v1/traces/batch", told(self.batch), "key", BATCH),
            Route("GET", "/v1/traces/{request_id}", told(self.get), "key", ONE),
            Route("DELETE", "/v1/traces/{request_id}", told(self.delete), deletes, DELETE),
        ]

    @property
    def view(self) -> TraceView:
        if self._view is None:
            raise TracingOff("Request tracking is not enabled")
        return self._view

    async def page(self, request: web.BaseRequest, params: dict[str, str]) -> web.Response:
        view = self.view
        asked = list(request.query.items())
        query = parse_query(asked, self._unix_us())
        found = await view.list(query)
        headers = {}
        if found.next_cursor is not None:
            headers["Link"] = next_link(asked, query, found.next_cursor)
        if found.partial is not None:
            headers["X-Trace-Partial"] = found.partial
        return json_response(json_array(found.rows), headers=headers)

    async def stats(self, request: web.BaseRequest, params: dict[str, str]) -> web.Response:
        view = self.view
        asked = parse_stats(list(request.query.items()))
        return json_response(await view.stats(asked))

    async def get(self, request: web.BaseRequest, params: dict[str, str]) -> web.Response:
        view = self.view
        request_id = params["request_id"]
        if request_id in RESERVED:
            raise no_such_trace(request_id)
        found = await view.get([request_id])
        record = found.records[0]
        if record is None:
            raise no_such_trace(request_id)
        return json_response(record)

    async def batch(self, request: web.BaseRequest, params: dict[str, str]) -> web.Response:
        view = self.view
        ids = batch_ids(await read_body(request, MAX_BATCH_BYTES))
        found = await view.get(ids)
        return json_response(json_array([r for r in found.records if r is not None]))

    async def delete(self, request: web.BaseRequest, params: dict[str, str]) -> web.Response:
        view = self.view
        deleted = await view.delete(params["request_id"])
        if deleted == 0:
            raise no_such_trace(params["request_id"])
        return json_response(b'{"deleted":%d}' % deleted)

    async def delete_many(self, request: web.BaseRequest, params: dict[str, str]) -> web.Response:
        view = self.view
        # Whoever sends a filter means to keep the rest, so no other is ignored.
        asked = parse_query(list(request.query.items()), self._unix_us(), allowed=("session_id",))
        if asked.session_id is None:
            deleted = await view.delete(None)
        else:
            deleted = await view.delete_session(asked.session_id)
        return json_response(b'{"deleted":%d}' % deleted)


def told(handler: Handler) -> Handler:
    """`handler`, with what goes wrong in the view told to the client."""

    async def handle(request: web.BaseRequest, params: dict[str, str]) -> web.StreamResponse:
        try:
            return await handler(request, params)
        except QueryError as error:
            raise BadRequest(str(error), param=error.parameter) from None
        except StoreUnavailable as error:
            down = StoreDown("the trace store cannot be reached; requests are still served")
            down.retry_after_seconds = RETRY_AFTER_SECONDS
            raise down from error

    return handle


def batch_ids(body: bytes) -> list[str]:
    """The ids asked for, from an object or a bare array. Raises BadRequest."""
    try:
        asked = msgspec.json.decode(body, type=BatchRequest | list[str])
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, nested without end
        raise BadRequest(
            f'expected {{"request_ids": [strings]}} or an array of strings: {error}',
            param="request_ids",
        ) from None
    ids = asked.request_ids if isinstance(asked, BatchRequest) else asked
    if len(ids) > MAX_BATCH:
        raise BadRequest(f"at most {MAX_BATCH} ids, got {len(ids)}", param="request_ids")
    return ids


def next_link(asked: list[tuple[str, str]], query: TraceQuery, cursor: str) -> str:
    """The next page, under the caller's own parameters; what was an age is the moment it meant."""
    moments = {"since": query.since_us, "until": query.until_us}
    kept = [
        (name, text if (us := moments.get(name)) is None or us % 1000 else rfc3339(us))
        for name, text in asked
        if name != "cursor"
    ]
    return f'</v1/traces?{urlencode([*kept, ("cursor", cursor)])}>; rel="next"'


def no_such_trace(request_id: str) -> NotFound:
    shown = request_id if len(request_id) <= 128 else request_id[:128] + "..."
    return NotFound(f"no trace with id {shown!a}")


def json_array(records: list[bytes]) -> bytes:
    return b"[%b]" % b",".join(records)
