"""Workers, requests and policies without a router, for tests of choices."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from random import Random

import msgspec

from router.core.asked import Asked
from router.core.facts import RequestFacts, read_facts
from router.core.worker import Worker
from router.policies import Choice, Policy, PolicyConfig, build_policy
from router.policies.receipt import receipt
from tracking.trace import Decision, EngineReport, Trace


def fleet(*in_flight: int) -> list[Worker]:
    """worker-0, worker-1, ... with so many requests each."""
    workers = [Worker(f"http://10.0.0.{i}:30000", f"worker-{i}") for i in range(len(in_flight))]
    for worker, load in zip(workers, in_flight, strict=True):
        worker.in_flight = load
    return workers


def prompt(
    text: str, model: str | None = None, headers: Mapping[str, str] | None = None
) -> RequestFacts:
    body = json.dumps({"text": text, "model": model}).encode()
    return read_facts(
        "/generate", body, Asked({"content-type": "application/json", **(headers or {})})
    )


def built(name: str, seed: int = 1, **settings: object) -> Policy:
    config = msgspec.convert({**msgspec.to_builtins(PolicyConfig()), **settings}, PolicyConfig)
    return build_policy(name, config, Random(seed))


def picks(chooser: Policy, workers: Sequence[Worker], texts: Sequence[str]) -> list[str]:
    return [chooser.choose(prompt(text), workers, 0.0).worker.node_id for text in texts]


def shown(choice: Choice, candidates: Sequence[Worker]) -> Decision:
    """The whole receipt."""
    return receipt(choice, candidates, policy="p", decision_seconds=0.0, limit=None)


def ended(
    node_id: str,
    *,
    prefill_tokens: int | None = None,
    predicted_cached_tokens: int | None = None,
    cached_tokens: int | None = None,
    input_tokens: int | None = None,
    output_tokens: int | None = None,
    ttft_seconds: float | None = None,
    duration_seconds: float | None = None,
    e2e_latency: float | None = None,
) -> Trace:
    """The trace of a request that `node_id` has answered whole."""
    return Trace(
        request_id="r",
        node_id=node_id,
        worker_url="http://10.0.0.1:30000",
        routing_policy="p",
        status="completed",
        timestamp="2026-01-01T00:00:00.000Z",
        cache_hit_rate=None,
        queue_size=0,
        prefill_tokens=prefill_tokens,
        predicted_cached_tokens=predicted_cached_tokens,
        cached_tokens=cached_tokens,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        ttft_seconds=ttft_seconds,
        duration_seconds=duration_seconds,
        engine=None if e2e_latency is None else EngineReport(e2e_latency=e2e_latency),
    )
