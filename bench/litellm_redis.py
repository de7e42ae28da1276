"""What LiteLLM's router spends on Redis for a request. Run by `bench.store` in an environment with it.

    python bench/litellm_redis.py unix:///path/of/socket

LiteLLM leaves no record of a request in Redis; what it does write there for each, on demand, is the whole
answer (`cache_responses`). Measured against the same router without Redis; answers are mocked, so nothing
else is in the figures.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it looks for prices on the internet

import litellm
import redis
from litellm import Router

REQUESTS = 400
AT_ONCE = 8
ROUNDS = 3


def router(**settings: Any) -> Any:
    deployments = [
        {
            "model_name": "mock",
            "litellm_params": {
                "model": "openai/mock",
                "api_key": "none",
                "api_base": f"http://127.0.0.1:{port}/v1",
                "mock_response": "w " * 100,
            },
        }
        for port in (1, 2)
    ]
    return Router(model_list=deployments, **settings)


async def ask(one: Any, first: int, count: int) -> None:
    async def some(offset: int) -> None:
        for number in range(first + offset, first + count, AT_ONCE):
            message = {"role": "user", "content": f"{number} " + "hello " * 100}
            await one.acompletion(model="mock", messages=[message])

    await asyncio.gather(*(some(offset) for offset in range(AT_ONCE)))
    await asyncio.sleep(0.5)  # what it does afterwards


async def cost(one: Any, server: Any) -> tuple[float, float]:
    """CPU µs of a request: of this process, of Redis; the least of some rounds."""
    found = []
    await ask(one, 0, 50)
    for number in range(1, ROUNDS + 1):
        before, used = redis_us(server), time.process_time()
        await ask(one, number * 10_000, REQUESTS)
        spent = (time.process_time() - used) / REQUESTS * 1e6
        found.append((spent, (redis_us(server) - before) / REQUESTS))
    return min(one for one, _ in found), min(one for _, one in found)


def redis_us(server: Any) -> float:
    info = server.info("cpu")
    return float(info["used_cpu_user"] + info["used_cpu_sys"]) * 1e6


async def main(url: str) -> None:
    server = redis.Redis.from_url(url)
    base, nothing = await cost(router(), server)
    spent, of_redis = await cost(router(redis_url=url, cache_responses=True), server)
    figures = {
        "answers kept in Redis": {
            "router cpu µs per request": round(spent - base),
            "redis cpu µs per request": round(of_redis - nothing, 1),
            "the rest of its router, cpu µs per request": round(base),
        }
    }
    print()
    json.dump(figures, sys.stdout)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    litellm.suppress_debug_info = True
    asyncio.run(main(sys.argv[1]))
