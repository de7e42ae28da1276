"""The routes that read a prompt and generate nothing: embeddings, classes, scores, tokens."""

from __future__ import annotations

import hashlib
import time

from tests.sim import shapes
from tests.sim.bodies import prompts_in
from tests.sim.call import BadRequest, Call
from tests.sim.engine import Job, Prompt, decode
from tests.sim.generating import fail_if_asked, finished
from tests.sim.send import Answer, json_answer


async def _read(call: Call, prompts: list[Prompt]) -> list[Job]:
    """Prefill `prompts` and generate nothing."""
    fail_if_asked(call)
    rid = call.rid()
    jobs = [call.submit(rid, prompt, 0, index) for index, prompt in enumerate(prompts)]
    await finished(call, jobs)
    return jobs


def _numbers(job: Job, count: int) -> list[float]:
    """Made-up figures that depend on the prompt alone."""
    digest = hashlib.sha256(repr(job.prompt.tokens).encode()).digest()
    return [byte / 255 for byte in digest[:count]]


async def embeddings(call: Call) -> Answer:
    value = call.body.get("input", call.body.get("text"))
    jobs = await _read(call, prompts_in(value, "input")[0])
    data = [
        {"object": "embedding", "index": job.index, "embedding": _numbers(job, 8)} for job in jobs
    ]
    usage = shapes.usage(jobs, cache_report=False)
    return json_answer(
        {"object": "list", "data": data, "model": call.model, "usage": usage},
    )


async def encode_natively(call: Call) -> Answer:
    """`/encode` and `/classify`: the native shape, with `meta_info`."""
    jobs = await _read(call, prompts_in(call.body.get("text", call.body.get("input")), "text")[0])
    now = call.worker.pacer.now()
    results = [
        {"embedding": _numbers(job, 8), "meta_info": shapes.meta_info(job, now, metrics=False)}
        for job in jobs
    ]
    return json_answer(results if len(results) > 1 else results[0])


async def classify(call: Call) -> Answer:
    jobs = await _read(call, prompts_in(call.body.get("input"), "input")[0])
    data = []
    for job in jobs:
        share = _numbers(job, 1)[0]
        label = "LABEL_0" if share >= 0.5 else "LABEL_1"
        entry = {"index": job.index, "label": label, "probs": [share, 1 - share], "num_classes": 2}
        data.append(entry)
    return json_answer(
        {
            "id": f"classify-{call.rid()}",
            "object": "list",
            "created": int(time.time()),
            "model": call.model,
            "data": data,
            "usage": shapes.usage(jobs, cache_report=False),
        }
    )


async def rerank(call: Call) -> Answer:
    query, documents = call.body.get("query"), call.body.get("documents")
    if not isinstance(query, str) or not isinstance(documents, list):
        raise BadRequest("expected a query and a list of documents")
    jobs = await _read(call, [Prompt.of(f"{query}\n{document}") for document in documents])
    results = [
        {"score": _numbers(job, 1)[0], "document": document, "index": job.index, "meta_info": None}
        for job, document in zip(jobs, documents, strict=True)
    ]
    return json_answer(sorted(results, key=lambda result: -result["score"]))


async def score(call: Call) -> Answer:
    query, items = call.body.get("query"), call.body.get("items")
    if not isinstance(items, list):
        raise BadRequest("expected a query and a list of items")
    jobs = await _read(call, [Prompt.of(f"{query}\n{item}") for item in items])
    scores = [_numbers(job, 2) for job in jobs]
    usage = shapes.usage(jobs, cache_report=False)
    return json_answer({"scores": scores, "model": call.model, "usage": usage, "object": "scoring"})


async def tokenize(call: Call) -> Answer:
    prompts, many = prompts_in(call.body.get("prompt", call.body.get("text")), "prompt")
    lists = [list(prompt.tokens) for prompt in prompts]
    counts = [len(tokens) for tokens in lists]
    return json_answer(
        {
            "tokens": lists if many else lists[0],
            "count": counts if many else counts[0],
            "max_model_len": 1 << 20,
        }
    )


async def detokenize(call: Call) -> Answer:
    tokens = call.body.get("tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
        raise BadRequest("tokens: expected a list of integers")
    return json_answer({"text": decode(tokens)})
