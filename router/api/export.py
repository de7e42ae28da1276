"""Export: every trace that matches, streamed page by page at the client's pace."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec
from aiohttp import web

from router.api.about import About, Plain
from router.api.routing import Route
from router.api.streaming import Broken, Streaming, Write
from router.api.traces import told
from router.errors import BadRequest, StoreDown, TracingOff
from tracking.export import FORMATS, Format
from tracking.query import FILTERS, PARAMETERS, Parameter, TraceQuery, parse_query
from tracking.values import decode_cursor, one_of
from tracking.view import Page, StoreUnavailable, TraceView

log = logging.getLogger("router.export")

PAGE_TRACES: Final = 100
SLICE_TRACES: Final = 20  # at a time: a millisecond of the event loop
PATIENCE_SECONDS: Final = 2.0
RETRY_SECONDS: Final = 0.05
ALLOWED: Final = ("format", *FILTERS, "order")
FORMAT: Final = Parameter("the format (default ndjson)", one_of(FORMATS))
ABOUT: Final = About(
    summary="Every match, streamed",
    answers={200: Plain("*/*")},
    errors=(TracingOff, StoreDown),
    query={"format": FORMAT} | {name: PARAMETERS[name] for name in (*FILTERS, "order")},
)


class ExportApi:
    """Exports from a TraceView; None where tracing is off. `unix_us` tells the fleet's time. A store
    may be away for `patience_seconds`."""

    def __init__(
        self,
        view: TraceView | None,
        unix_us: Callable[[], int],
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._view = view
        self._unix_us = unix_us
        self._patience_seconds = patience_seconds

    def routes(self) -> list[Route]:
        return [Route("GET", "/v1/traces/export", told(self.export), "key", ABOUT)]

    async def export(self, request: web.BaseRequest, params: dict[str, str]) -> web.StreamResponse:
        if self._view is None:
            raise TracingOff("Request tracking is not enabled")
        asked = list(request.query.items())
        name, form = format_of([value for name, value in asked if name == "format"])
        now_us = self._unix_us()
        filters = [(name, value) for name, value in asked if name != "format"]
        query = parse_query(filters, now_us, allowed=ALLOWED)
        pages = matches(self._view, bounded(query, now_us, form), self._patience_seconds)
        first = await anext(pages)  # a store that is away is told before the head is out

        async def produce(write: Write) -> None:
            await write(form.begin())
            await share(form, first, write)
            try:
                async for page in pages:
                    await share(form, page, write)
            except StoreUnavailable as error:
                raise Broken("the trace store went away") from error
            await write(form.end())
            if form.left_out:
                log.info("export as %s: %d traces have no place in it", name, form.left_out)

        return Streaming(
            produce,
            {
                "Content-Type": form.content_type,
                "Content-Disposition": f'attachment; filename="traces-{name}.{form.suffix}"',
                "Cache-Control": "no-store",
            },
        )


def format_of(given: list[str]) -> tuple[str, Format]:
    """The format asked for, by its name. Raises BadRequest."""
    name = given[0] if given else "ndjson"
    if len(given) > 1 or name not in FORMATS:
        raise BadRequest(f"parameter 'format' must be one of {', '.join(FORMATS)}", param="format")
    return name, FORMATS[name]()


def bounded(query: TraceQuery, now_us: int, form: Format) -> TraceQuery:
    """`query` for pages of whole traces, of what has arrived by now: so it ends under traffic."""
    return msgspec.structs.replace(
        query,
        limit=PAGE_TRACES,
        detail=True,
        order="asc" if form.ascending else query.order,
        until_us=now_us if query.until_us is None else min(now_us, query.until_us),
    )


async def matches(
    view: TraceView, query: TraceQuery, patience_seconds: float
) -> AsyncIterator[list[bytes]]:
    """Every match, by pages, of which some may be empty. Raises StoreUnavailable where the store has
    not had them all for a while."""
    while True:
        page = await whole_page(view, query, patience_seconds)
        yield page.rows
        if page.next_cursor is None:
            return
        query = msgspec.structs.replace(query, cursor=decode_cursor(page.next_cursor))


async def whole_page(view: TraceView, query: TraceQuery, patience_seconds: float) -> Page:
    """A page from a store that has all. A short outage, or a writer that is busy, only takes time."""
    time = asyncio.get_running_loop().time
    end = time() + patience_seconds
    while True:
        try:
            page = await view.list(query)
        except StoreUnavailable:
            if time() >= end:
                raise
        else:
            if page.partial != "store-unavailable":
                return page
            if time() >= end:
                raise StoreUnavailable("the trace store does not have all traces now")
        await asyncio.sleep(RETRY_SECONDS)


async def share(form: Format, page: list[bytes], write: Write) -> None:
    """Write a page, resting as long as making it takes: requests come first."""
    time = asyncio.get_running_loop().time
    for start in range(0, len(page), SLICE_TRACES):
        started = time()
        body = form.page(page[start : start + SLICE_TRACES])
        spent = time() - started
        if body:
            await write(body)
        await asyncio.sleep(spent)
