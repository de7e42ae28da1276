"""The routes that generate: `/generate`, chat, completions, responses; at once or as a stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from tests.sim import pairing, shapes
from tests.sim.bodies import conversation, count, prompts_in
from tests.sim.call import BadRequest, Call
from tests.sim.engine import Job, Prompt
from tests.sim.send import SSE, Answer, json_answer
from tests.sim.shapes import DONE, Json, frame


class Chunk(Protocol):
    """The choice of a stream chunk, with the text from output token `start` on."""

    def __call__(self, job: Job, start: int, *, last: bool) -> Json: ...


SPLIT = ("/generate", "/v1/chat/completions", "/v1/completions", "/v1/responses")


async def finished(call: Call, jobs: list[Job]) -> None:
    """Until every job has said all."""
    try:
        await pairing.begin(call)
    except pairing.TransferFailed as error:
        raise BadRequest(f"KVTransferError: {error}", 500) from None
    for job in jobs:
        await call.worker.pacer.finished(job, abort_after=call.abort_after)
    pairing.hand_over(call)


async def _news(call: Call, jobs: list[Job]) -> AsyncGenerator[Job, None]:
    """A job each time it has a new token or has ended, until all have."""
    await pairing.begin(call)
    if len(jobs) == 1:
        async for _ in call.worker.pacer.news(jobs[0], abort_after=call.abort_after):
            yield jobs[0]
        pairing.hand_over(call)
        return
    news: asyncio.Queue[Job] = asyncio.Queue()

    async def follow(job: Job) -> None:
        async for _ in call.worker.pacer.news(job, abort_after=call.abort_after):
            news.put_nowait(job)
            await news.join()  # the job stands still until it was shown as it is

    tasks = [asyncio.create_task(follow(job)) for job in jobs]
    try:
        open_jobs = len(jobs)
        while open_jobs:
            job = await news.get()
            yield job
            open_jobs -= job.finish is not None
            news.task_done()
        pairing.hand_over(call)
    finally:
        for task in tasks:
            task.cancel()


def _error_due(call: Call, job: Job) -> bool:
    """Whether the stream is to break instead of showing the newest token."""
    fault = call.fault
    return fault is not None and fault.kind == "error_frame" and job.emitted > fault.after_events


def fail_if_asked(call: Call) -> None:
    if call.fault and call.fault.kind == "error_frame":
        raise BadRequest("Simulated engine error.", 500)


async def generate(call: Call) -> Answer:
    body, worker = call.body, call.worker
    value = body.get("text") if body.get("text") is not None else body.get("input_ids")
    prompts, batch = prompts_in(value, "text or input_ids")
    params = body.get("sampling_params") or {}
    params_list = params if isinstance(params, list) else [params] * len(prompts)
    rids = body.get("rid")
    if len(params_list) != len(prompts) or (isinstance(rids, list) and len(rids) != len(prompts)):
        raise BadRequest("sampling_params and rid must be as many as the prompts")
    base = call.rid()
    jobs = []
    for index, (prompt, settings) in enumerate(zip(prompts, params_list, strict=True)):
        if not isinstance(settings, dict):
            raise BadRequest("sampling_params: expected an object")
        rid = str(rids[index]) if isinstance(rids, list) else f"{base}_{index}" if batch else base
        jobs.append(call.submit(rid, prompt, count(settings, "max_new_tokens"), index))
    if body.get("stream"):
        return Answer(_generate_stream(call, jobs, batch), 200, SSE)
    fail_if_asked(call)
    await finished(call, jobs)
    now = worker.pacer.now()
    results = [
        with_logprobs(call, job, shapes.generated(job, now, metrics=worker.config.metrics))
        for job in jobs
    ]
    return json_answer(results if batch else results[0])


async def _generate_stream(call: Call, jobs: list[Job], batch: bool) -> AsyncGenerator[bytes, None]:
    worker = call.worker
    shown = dict.fromkeys(jobs, 0)
    async with aclosing(_news(call, jobs)) as news:
        async for job in news:
            if _error_due(call, job):
                yield frame(shapes.stream_error("Simulated engine error."))
                break
            start = shown[job] if worker.config.incremental_output else 0
            shown[job] = job.emitted
            message = shapes.generated(
                job, worker.pacer.now(), metrics=worker.config.metrics, start=start
            )
            with_logprobs(call, job, message)
            yield frame({**message, "index": job.index} if batch else message)
    yield DONE


def with_logprobs(call: Call, job: Job, message: Json) -> Json:
    """The answer with the input's logprobs, where they are asked for."""
    meta = message["meta_info"]
    if call.body.get("return_logprob") and isinstance(meta, dict):
        meta["input_token_logprobs"] = pairing.input_logprobs(call, job.prompt.tokens)
    return message


def with_params(call: Call, answer: Json) -> Json:
    """The answer, with the place of the cache where it is a vLLM prefill worker's."""
    if call.worker.config.part == "vllm-prefill":
        answer["kv_transfer_params"] = pairing.transfer_params(call)
    return answer


async def chat(call: Call) -> Answer:
    body = call.body
    prompt = Prompt.of(conversation(body.get("messages")))
    limit = count(body, "max_completion_tokens", "max_tokens")
    rid = call.rid()
    jobs = [call.submit(rid, prompt, limit, index) for index in range(count(body, "n") or 1)]
    head: Json = {"id": rid, "object": "chat.completion", "created": int(time.time())}
    head["model"] = call.model
    if body.get("stream"):
        head["object"] = "chat.completion.chunk"
        return Answer(_openai_stream(call, head, jobs, _chat_chunk, roles=True), 200, SSE)
    fail_if_asked(call)
    await finished(call, jobs)
    answer = head | {
        "choices": [shapes.chat_choice(job) for job in jobs],
        "usage": shapes.usage(jobs, cache_report=call.worker.config.cache_report),
        "metadata": {"weight_version": "default"},
    }
    return json_answer(with_params(call, answer))


async def completions(call: Call) -> Answer:
    body = call.body
    prompts, _ = prompts_in(body.get("prompt"), "prompt")
    limit = count(body, "max_tokens")
    copies = count(body, "n") or 1
    rid = call.rid()
    jobs = [
        call.submit(rid, prompt, limit, position * copies + copy)
        for position, prompt in enumerate(prompts)
        for copy in range(copies)
    ]
    head: Json = {"id": rid, "object": "text_completion", "created": int(time.time())}
    head["model"] = call.model
    if body.get("stream"):
        return Answer(_openai_stream(call, head, jobs, _completion_chunk, roles=False), 200, SSE)
    fail_if_asked(call)
    await finished(call, jobs)
    answer = head | {
        "choices": [shapes.completion_choice(job, job.text()) for job in jobs],
        "usage": shapes.usage(jobs, cache_report=call.worker.config.cache_report),
        "metadata": {"weight_version": "default"},
    }
    return json_answer(with_params(call, answer))


def _chat_chunk(job: Job, start: int, *, last: bool) -> Json:
    return shapes.chat_delta(job, {} if last else {"content": job.text(start)}, last=last)


def _completion_chunk(job: Job, start: int, *, last: bool) -> Json:
    return shapes.completion_choice(job, "" if last else job.text(start), last=last)


async def _openai_stream(
    call: Call, head: Json, jobs: list[Job], chunk: Chunk, *, roles: bool
) -> AsyncGenerator[bytes, None]:
    """Role chunks (chat), a chunk a token, a chunk that ends each choice, the usage if asked."""
    greeted: set[Job] = set()
    async with aclosing(_news(call, jobs)) as news:
        async for job in news:
            if _error_due(call, job):
                yield frame(shapes.stream_error("Simulated engine error."))
                yield DONE
                return
            if roles and job not in greeted:
                greeted.add(job)
                delta: Json = {"role": "assistant", "content": ""}
                yield frame(head | {"choices": [shapes.chat_delta(job, delta)], "usage": None})
            if job.emitted and job.finish != "abort":
                choice = chunk(job, job.emitted - 1, last=False)
                yield frame(head | {"choices": [choice], "usage": None})
            if job.finish:
                choice = chunk(job, job.emitted, last=True)
                yield frame(head | {"choices": [choice], "usage": None})
    options = call.body.get("stream_options")
    if isinstance(options, dict) and options.get("include_usage"):
        usage = shapes.usage(jobs, cache_report=call.worker.config.cache_report)
        yield frame(head | {"choices": [], "usage": usage})
    yield DONE


async def responses(call: Call) -> Answer:
    body = call.body
    given = body.get("input")
    text = given if isinstance(given, str) else conversation(given)
    rid = f"resp_{call.rid()}"
    job = call.submit(rid, Prompt.of(text), count(body, "max_output_tokens"))
    created = int(time.time())
    if body.get("stream"):
        return Answer(_responses_stream(call, rid, created, job), 200, SSE)
    fail_if_asked(call)
    await finished(call, [job])
    return json_answer(shapes.response_object(rid, str(call.model), created, [job]))


async def _responses_stream(
    call: Call, rid: str, created: int, job: Job
) -> AsyncGenerator[bytes, None]:
    def event(kind: str, **fields: object) -> bytes:
        return frame({"type": kind, **fields}, kind)

    model = str(call.model)
    yield event("response.created", response=shapes.response_object(rid, model, created, []))
    async with aclosing(_news(call, [job])) as news:
        async for _ in news:
            if _error_due(call, job):
                yield frame(shapes.stream_error("Simulated engine error."))
                yield DONE
                return
            if job.emitted and job.finish != "abort":
                yield event("response.output_text.delta", delta=job.text(job.emitted - 1))
    yield event("response.completed", response=shapes.response_object(rid, model, created, [job]))
