"""Traces as a router makes them of chat requests: eight workers, cache_aware, sessions, a receipt."""

from __future__ import annotations

from tracking.lifecycle import LiveTrace
from tracking.trace import (
    Attempt,
    Candidate,
    Decision,
    EngineReport,
    Trace,
    rfc3339,
)

WORKERS = 8


def started(number: int, arrived_us: int) -> LiveTrace:
    """A request that was sent to its worker."""
    key = "0198a1c2-%04x-7abc-8def-%012x" % (number & 0xFFFF, number)
    node, url = f"worker-{number % WORKERS}", f"http://10.0.0.{number % WORKERS}:30005"
    trace = Trace(
        request_id=f"req-{number:020}", node_id=node, worker_url=url,
        routing_policy="cache_aware", status="queued", timestamp=rfc3339(arrived_us),
        cache_hit_rate=0.81, queue_size=3, key=key, route="/v1/chat/completions", method="POST",
        model="Qwen/Qwen3-32B", stream=True, predicted_cached_tokens=1000,
        cache_source="predicted", queue_seconds=0.000123, router_id="router-7c9f-12-ab34cd",
        session_id=f"user-{number % 5000}", trace_id="%032x" % number,
    )  # fmt: skip
    live = LiveTrace(trace, arrived_us)
    live.detail.attempts = [Attempt(node, url, trace.timestamp)]
    live.detail.decision = Decision(
        "cache_aware", "cached", "exact", WORKERS,
        [
            Candidate(f"worker-{n}", f"http://10.0.0.{n}:30005", n == number % WORKERS,
                      {"load": 3.0, "matched": 0.83})
            for n in range(WORKERS)
        ],
        0.012, 0.000045,
    )  # fmt: skip
    live.detail.prefix_hashes = ["%016x" % (number * 7 + n) for n in range(3)]
    live.move("routed")
    return live


def finished(live: LiveTrace) -> LiveTrace:
    """The same request when its answer was delivered."""
    trace = live.trace
    live.move("processing")
    trace.http_status, trace.completion_time = 200, trace.timestamp
    trace.input_tokens, trace.output_tokens, trace.cached_tokens = 1234, 321, 1024
    trace.cache_hit_rate, trace.cache_source = 0.8298, "engine"
    trace.ttft_seconds, trace.duration_seconds = 0.234567, 3.456789
    trace.engine_request_id = "chatcmpl-" + trace.request_id  # as vLLM does with the id it gets
    trace.engine = EngineReport(finish_reason="stop", e2e_latency=3.45)
    live.detail.attempts[0].duration_seconds = 3.4567
    live.detail.attempts[0].http_status = 200
    live.move("completed")
    return live
