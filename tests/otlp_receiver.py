"""`python -m tests.otlp_receiver PORT FILE`: takes OTLP over HTTP as a collector does, in a process of
its own, and writes each span as a line of JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


def main(port: str, file: str) -> None:
    out = Path(file).open("a", buffering=1)

    async def take(request: web.Request) -> web.Response:
        body = ExportTraceServiceRequest.FromString(await request.read())
        for group in body.resource_spans:
            service = [a.value.string_value for a in group.resource.attributes]
            for span in (span for scope in group.scope_spans for span in scope.spans):
                told = {
                    "name": span.name,
                    "trace": span.trace_id.hex(),
                    "span": span.span_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "error": span.status.code == 2,
                    "resource": service,
                }
                out.write(json.dumps(told) + "\n")
        return web.Response()

    async def ready(request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.router.add_post("/v1/traces", take)
    app.router.add_get("/ready", ready)
    with out:
        web.run_app(app, host="127.0.0.1", port=int(port), print=None)


if __name__ == "__main__":
    main(*sys.argv[1:])
