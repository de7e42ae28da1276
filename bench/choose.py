"""What a decision costs: reading the facts of a 16 KB chat request, choosing, writing the receipt.

    python -m bench.choose [--policy cache_aware] [--rounds 2000]

Prints the median and the 99th percentile of single calls in microseconds. Requests are of two
kinds in turn: a prompt nobody has seen, and the next turn of an earlier conversation; each has one
of 500 routing keys. Policies that learn have learned of 32 requests of each worker.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
from statistics import quantiles
from time import perf_counter

from router.core.asked import Asked
from router.core.facts import RequestFacts, read_facts
from router.core.worker import Worker
from router.policies import REGISTRY, Policy, PolicyConfig, build_policy
from router.policies.receipt import receipt
from tracking.trace import Trace

PROMPT_BYTES = 16 * 1024
SYSTEM_PROMPT = "You are a careful assistant. " * 40
ROUTE = "/v1/chat/completions"


def chat(chance: random.Random) -> list[dict[str, str]]:
    words = [f"word{chance.randrange(5000)}" for _ in range(PROMPT_BYTES // 9)]
    text = " ".join(words)[: PROMPT_BYTES - len(SYSTEM_PROMPT)]
    return [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": text}]


def bodies(count: int, chance: random.Random) -> list[bytes]:
    made: list[bytes] = []
    for number in range(count):
        messages = chat(chance)
        if number % 2 and made:
            earlier = json.loads(made[chance.randrange(len(made))])["messages"][:2]
            messages = [*earlier, {"role": "assistant", "content": "Yes."}, *messages[1:]]
            messages[-1]["content"] = "And then?"
        made.append(json.dumps({"model": "m", "stream": True, "messages": messages}).encode())
    return made


def teach(policy: Policy, workers: list[Worker], chance: random.Random) -> None:
    for number in range(32):
        for worker in workers:
            seconds = chance.uniform(0.5, 2.0)
            policy.finished(
                Trace(
                    request_id="r",
                    node_id=worker.node_id,
                    worker_url=worker.url,
                    routing_policy=policy.name,
                    status="completed",
                    timestamp="2026-01-01T00:00:00.000Z",
                    cache_hit_rate=None,
                    queue_size=0,
                    prefill_tokens=4000,
                    input_tokens=4000,
                    output_tokens=100,
                    ttft_seconds=seconds,
                    duration_seconds=2 * seconds,
                ),
                number + seconds,
            )


def report(name: str, seconds: list[float]) -> None:
    cuts = quantiles(seconds, n=100)
    print(f"{name:<44}{cuts[49] * 1e6:8.1f}{cuts[98] * 1e6:8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--policy", choices=[*REGISTRY, "all"], default="cache_aware")
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    sent = bodies(options.rounds, chance)
    gc.collect()
    gc.freeze()

    print(f"{'microseconds':<44}{'p50':>8}{'p99':>8}")
    requests: list[RequestFacts] = []

    reading = []
    for body in sent:
        started = perf_counter()
        headers = {"x-smg-routing-key": f"session-{chance.randrange(500)}"}
        requests.append(
            read_facts(ROUTE, body, Asked({"content-type": "application/json"} | headers))
        )
        reading.append(perf_counter() - started)
    report("read_facts, 16 KB chat", reading)
    for name in REGISTRY if options.policy == "all" else [options.policy]:
        for size in (2, 64, 512):
            workers = [
                Worker(f"http://10.0.{i // 256}.{i % 256}:30000", f"worker-{i}")
                for i in range(size)
            ]
            for worker in workers:
                worker.in_flight = chance.randrange(8)
                worker.own_queued_tokens = chance.randrange(20_000)
            policy = build_policy(name, PolicyConfig(), chance)
            teach(policy, workers, chance)
            choosing, writing = [], []
            for request in requests:
                started = perf_counter()
                choice = policy.choose(request, workers, 0.0)
                chosen = perf_counter()
                receipt(choice, workers, policy=name, decision_seconds=0.0, limit=8)
                choosing.append(chosen - started)
                writing.append(perf_counter() - chosen)
            report(f"{name}: choose among {size}", choosing)
            report(f"{name}: receipt among {size}", writing)


if __name__ == "__main__":
    main()
