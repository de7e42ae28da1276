"""POST /abort_request at any replica: passed on to the worker that has the request.

The worker is found through the trace, by the client's request id, the engine's, or the record's
key. An id that no trace knows is told to every worker, as SGLang does with its own processes.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Annotated, Final

import msgspec
from aiohttp import web
from msgspec import Meta

from router.api.about import About
from router.api.access import Access
from router.api.body import read_body
from router.api.http import json_response
from router.api.routing import Route
from router.core.worker import Worker
from router.errors import BadRequest, TooLarge
from router.fleet import Fleet
from router.upstream.abort import ask_to_abort
from router.upstream.control import Control, ControlFailed, of_each
from tracking.trace import Status
from tracking.view import StoreUnavailable, TraceView

log = logging.getLogger("router.abort")

BODY_BYTES: Final = 1 << 20
RUNNING: Final = ("routed", "processing")


class AbortRequest(msgspec.Struct):
    """SGLang's own body; its other fields mean nothing here."""

    rid: str | None = None
    abort_all: bool = False


class Known(msgspec.Struct):
    """What is read of a trace."""

    status: Status
    worker_url: str
    engine_request_id: str | None = None
    prefill_worker_url: str | None = None


# One of the two must be said.
NAMED: Final = {"required": ["rid"], "properties": {"rid": {"type": "string", "minLength": 1}}}
ALL: Final = {"required": ["abort_all"], "properties": {"abort_all": {"const": True}}}


class Aborted(msgspec.Struct):
    workers_told: int


ABOUT: Final = About(
    summary="End a request at its worker",
    answers={200: Aborted},
    errors=(TooLarge,),
    body=Annotated[AbortRequest, Meta(extra_json_schema={"anyOf": [NAMED, ALL]})],
)


class AbortApi:
    """`traces` is None where tracking is off: then every id is unknown."""

    def __init__(
        self, fleet: Fleet, control: Control, traces: TraceView | None, access: Access
    ) -> None:
        self._fleet = fleet
        self._control = control
        self._traces = traces
        self._access = access

    def routes(self) -> list[Route]:
        return [Route("POST", "/abort_request", self.abort, "key", ABOUT)]

    async def abort(self, request: web.BaseRequest, params: dict[str, str]) -> web.Response:
        """200 with the number of workers that took it; who asks learns no more, as with SGLang."""
        body = await read_body(request, BODY_BYTES)
        try:
            asked = msgspec.json.decode(body, type=AbortRequest)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadRequest(f'expected {{"rid": "..."}}: {error}', param="rid") from None
        rid: str | None = None
        if asked.abort_all:
            # Everybody's requests end: more than a client may do.
            self._access.check("admin", request.headers.get("Authorization"))
            workers = self._fleet.engines
        elif not asked.rid:
            # SGLang matches ids by their beginning: an empty one would mean all of them.
            raise BadRequest("rid must be the id of a request", param="rid")
        else:
            rid, workers = await self._whom_to_ask(asked.rid)
        ask = partial(ask_to_abort, self._control, rid=rid)
        told = await of_each(workers, ask)
        failed = [worker.node_id for worker, said in told if isinstance(said, ControlFailed)]
        if failed:
            log.warning("abort not taken by %s", ", ".join(failed[:8]))
        return json_response(msgspec.json.encode(Aborted(len(told) - len(failed))))

    async def _whom_to_ask(self, rid: str) -> tuple[str, list[Worker]]:
        """The id under which workers know the request, and which of them to tell."""
        trace = await self._trace(rid)
        everyone = self._fleet.engines
        if trace is None:
            return rid, everyone
        if trace.status not in RUNNING:
            return rid, []
        worker = self._fleet.by_url(trace.worker_url.partition("@")[0])
        if worker is None:  # added at another replica only, or removed: somebody may have it
            return trace.engine_request_id or rid, everyone
        prefill = self._fleet.by_url(trace.prefill_worker_url or "")
        both = [worker] if prefill is None else [prefill, worker]
        return trace.engine_request_id or rid, both

    async def _trace(self, rid: str) -> Known | None:
        if self._traces is None:
            return None
        try:
            (record,) = (await self._traces.get([rid])).records
        except StoreUnavailable:
            return None
        return None if record is None else msgspec.json.decode(record, type=Known)
