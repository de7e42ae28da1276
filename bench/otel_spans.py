"""What a span costs through OpenTelemetry's SDK. Run by `bench.store` in an environment with it.

A request is one span with the facts of a trace as attributes and a child for its attempt, batched by
the SDK's own processor and encoded as OTLP; the bytes go nowhere, so HTTP and the collector are not
in the figures.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

REQUESTS = 20_000
RATE = 1000


class Nowhere(SpanExporter):  # type: ignore[misc]
    encoded = 0

    def export(self, spans: Sequence[Any]) -> Any:
        Nowhere.encoded += len(encode_spans(spans).SerializeToString())
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass


def request(tracer: Any, number: int) -> None:
    facts: dict[str, Any] = {
        "request_id": f"req-{number:020}", "node_id": f"worker-{number % 8}",
        "worker_url": "http://10.0.0.5:30005", "routing_policy": "cache_aware",
        "route": "/v1/chat/completions", "model": "Qwen/Qwen3-32B", "stream": True,
        "queue_size": 3, "session_id": f"user-{number % 5000}", "queue_seconds": 0.000123,
        "decision.reason": "cached", "decision.candidates": [f"worker-{n}" for n in range(8)],
        "decision.loads": [3.0] * 8, "decision.matched": [0.83] * 8,
    }  # fmt: skip
    span = tracer.start_span("request", attributes=facts)
    with tracer.start_as_current_span("attempt", attributes={"node_id": "worker-5"}):
        pass
    span.set_attributes(
        {
            "http_status": 200, "input_tokens": 1234, "output_tokens": 321, "cached_tokens": 1024,
            "cache_hit_rate": 0.8298, "ttft_seconds": 0.234567, "finish_reason": "stop",
        }
    )  # fmt: skip
    span.end()


def main() -> None:
    provider = TracerProvider()
    processor = BatchSpanProcessor(Nowhere(), schedule_delay_millis=1000, max_queue_size=8192)
    provider.add_span_processor(processor)
    tracer = provider.get_tracer("bench")
    for number in range(500):
        request(tracer, number)
    processor.force_flush()
    began, used, count = time.monotonic(), time.process_time(), 0
    while count < REQUESTS:
        while count < (time.monotonic() - began) * RATE and count < REQUESTS:
            request(tracer, count)
            count += 1
        time.sleep(0.001)
    processor.force_flush()
    spent = time.process_time() - used
    figures = {
        "requests per second": RATE,
        "cpu µs per request": round(spent / REQUESTS * 1e6, 1),
        "OTLP bytes per request": round(Nowhere.encoded / (REQUESTS + 500)),
    }
    json.dump({"request and attempt as spans, batched, encoded": figures}, sys.stdout)


if __name__ == "__main__":
    main()
