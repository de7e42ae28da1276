"""Traces as a router makes them of chat requests: eight workers, cache_aware, sessions, a receipt."""

from __future__ import annotations

from tracking.lifecycle import LiveTrace
from tracking.trace import (
    Attempt,
    Candidate,
    Decision,
    EngineReport,
)

WORKERS = 8


def started(number: int, arrived_us: int) -> LiveTrace:
    """A request that was sent to its worker."""
    key = "0198a1c2-%04x-7abc-8def-%012x" % (number & 0xFFFF, number)
    node, url = f"worker-{number % WORKERS}", f"http://10.0.0.{number % WORKERS}:30005"
    live = LiveTrace(key, f"req-{number:020}", "cache_aware", arrived_us)
    live.node_id, live.worker_url, live.queue_size = node, url, 3
    live.route, live.method = "/v1/chat/completions", "POST"
    live.model, live.stream = "Qwen/Qwen3-32B", True
    live.cache_hit_rate, live.cache_source, live.predicted_cached_tokens = 0.81, "predicted", 1000
    live.queue_seconds = 0.000123
    live.router_id, live.trace_id = "router-7c9f-12-ab34cd", "%032x" % number
    live.session_id = f"user-{number % 5000}"
    live.attempts = [Attempt(node, url, live.timestamp)]
    live.decision = Decision(
        "cache_aware", "cached", "exact", WORKERS,
        [
            Candidate(f"worker-{n}", f"http://10.0.0.{n}:30005", n == number % WORKERS,
                      {"load": 3.0, "matched": 0.83})
            for n in range(WORKERS)
        ],
        0.012, 0.000045,
    )  # fmt: skip
    live.prefix_hashes = ["%016x" % (number * 7 + n) for n in range(3)]
    live.move("routed")
    return live


def finished(live: LiveTrace) -> LiveTrace:
    """The same request when its answer was delivered."""
    live.move("processing")
    live.http_status, live.completion_time = 200, live.timestamp
    live.input_tokens, live.output_tokens, live.cached_tokens = 1234, 321, 1024
    live.cache_hit_rate, live.cache_source = 0.8298, "engine"
    live.ttft_seconds, live.duration_seconds = 0.234567, 3.456789
    live.engine_request_id = "chatcmpl-" + live.request_id  # as vLLM does with the id it gets
    live.engine = EngineReport(finish_reason="stop", e2e_latency=3.45)
    live.attempts[0].duration_seconds = 3.4567
    live.attempts[0].http_status = 200
    live.move("completed")
    return live
