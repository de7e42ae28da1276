"""SGLang's JSON, as seen from 0.5.23. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from tests.sim.engine import Engine, Job

Json = dict[str, object]

VERSION = "0.5.23"
DONE = b"data: [DONE]\n\n"


def frame(value: object, event: str | None = None) -> bytes:
    head = f"event: {event}\n".encode() if event else b""
    return head + b"data: " + msgspec.json.encode(value) + b"\n\n"


def openai_error(status: int, message: str) -> Json:
    types = {400: "Bad Request", 404: "Not Found", 429: "rate_limit_error", 503: "overloaded_error"}
    return {
        "object": "error",
        "message": message,
        "type": types.get(status, "Internal Server Error"),
        "param": None,
        "code": status,
    }


def native_error(message: str) -> Json:
    return {"error": {"message": message}}


def stream_error(message: str, code: int = 500) -> Json:
    kind = "invalid_request_error" if code < 500 else "internal_server_error"
    return {"error": {"message": message, "type": kind, "code": code, "retryable": code >= 500}}


def finish_reason(job: Job) -> Json | None:
    match job.finish:
        case "length":
            return {"type": "length", "length": job.emitted}
        case "stop":
            return {"type": "stop", "matched": 151645}
        case "abort":
            return {"type": "abort", "message": "Abort by user"}
    return None


class Sizes(msgspec.Struct, frozen=True):
    """The sums a `usage` object is made of."""

    prompt: int
    completion: int
    cached: int

    @classmethod
    def of(cls, jobs: Sequence[Job]) -> Sizes:
        """Of one request; a prompt answered several times counts once."""
        prompts = {id(job.prompt): job for job in reversed(jobs)}
        return cls(
            sum(len(job.prompt.tokens) for job in prompts.values()),
            sum(job.emitted for job in jobs),
            sum(job.cached_tokens for job in prompts.values()),
        )


def usage(jobs: Sequence[Job], *, cache_report: bool) -> Json:
    sizes = Sizes.of(jobs)
    return {
        "prompt_tokens": sizes.prompt,
        "total_tokens": sizes.prompt + sizes.completion,
        "completion_tokens": sizes.completion,
        "prompt_tokens_details": {"cached_tokens": sizes.cached} if cache_report else None,
        "reasoning_tokens": 0,
        "completion_tokens_details": None,
    }


def meta_info(job: Job, now: float, *, metrics: bool) -> Json:
    meta: Json = {
        "id": job.rid,
        "finish_reason": finish_reason(job),
        "prompt_tokens": len(job.prompt.tokens),
        "weight_version": "default",
        "num_retractions": 0,
        "reasoning_tokens": 0,
        "completion_tokens": job.emitted,
        "cached_tokens": job.cached_tokens,
        "cached_tokens_details": {"device": job.cached_tokens, "host": 0},
        "dp_rank": job.dp_rank,
    }
    if metrics and job.prefill_started_at is not None:
        meta["queue_time"] = job.prefill_started_at - job.submitted_at
        if job.first_token_at is not None:
            meta["first_token_latency"] = job.first_token_at - job.submitted_at
            if job.finish and now > job.first_token_at:
                meta["decode_throughput"] = job.emitted / (now - job.first_token_at)
    if job.finish:
        meta["e2e_latency"] = now - job.submitted_at
    return meta


def generated(job: Job, now: float, *, metrics: bool, start: int = 0) -> Json:
    """A `/generate` answer or stream message; `start` > 0 leaves out earlier tokens."""
    return {
        "text": job.text(start),
        "output_ids": job.output_ids(start),
        "meta_info": meta_info(job, now, metrics=metrics),
    }


def chat_choice(job: Job) -> Json:
    return {
        "index": job.index,
        "message": {
            "role": "assistant",
            "content": job.text(),
            "reasoning_content": None,
            "tool_calls": None,
        },
        "logprobs": None,
        "finish_reason": job.finish,
        "matched_stop": 151645 if job.finish == "stop" else None,
    }


def chat_delta(job: Job, delta: Json, *, last: bool = False) -> Json:
    return {
        "index": job.index,
        "delta": delta,
        "logprobs": None,
        "finish_reason": job.finish if last else None,
        "matched_stop": 151645 if last and job.finish == "stop" else None,
    }


def completion_choice(job: Job, text: str, *, last: bool = True) -> Json:
    return {
        "index": job.index,
        "text": text,
        "logprobs": None,
        "finish_reason": job.finish if last else None,
        "matched_stop": 151645 if last and job.finish == "stop" else None,
    }


def response_object(rid: str, model: str, created: int, jobs: Sequence[Job]) -> Json:
    """A `/v1/responses` answer; without jobs the one a stream begins with."""
    sizes = Sizes.of(jobs)
    output = [
        {
            "id": f"msg_{job.rid}",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": job.text(), "annotations": []}],
        }
        for job in jobs
    ]
    return {
        "id": rid,
        "object": "response",
        "created_at": created,
        "model": model,
        "status": "completed" if jobs else "in_progress",
        "output": output,
        "usage": {
            "input_tokens": sizes.prompt,
            "input_tokens_details": {"cached_tokens": sizes.cached},
            "output_tokens": sizes.completion,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": sizes.prompt + sizes.completion,
        }
        if jobs
        else None,
    }


def load(engine: Engine, capacity_tokens: int, dp_rank: int = 0) -> Json:
    """One entry of `/v1/loads`."""
    seen = engine.prompt_tokens_seen
    return {
        "dp_rank": dp_rank,
        "num_running_reqs": engine.running,
        "num_waiting_reqs": engine.waiting,
        "num_waiting_uncached_tokens": engine.waiting_tokens,
        "num_used_tokens": engine.used_tokens,
        "num_total_tokens": engine.used_tokens + engine.waiting_tokens,
        "max_total_num_tokens": capacity_tokens,
        "max_running_requests": 256,
        "token_usage": min(1.0, engine.used_tokens / capacity_tokens),
        "gen_throughput": 0.0,
        "cache_hit_rate": engine.cached_tokens_seen / seen if seen else 0.0,
        "utilization": 0.0,
        "memory": {},
        "disaggregation": {},
        "queues": {
            "waiting": engine.waiting,
            "grammar": 0,
            "paused": 0,
            "retracted": 0,
            "prealloc_ready": 0,
        },
    }


def old_load(engine: Engine, dp_size: int = 1) -> list[Json]:
    """`/get_load` of earlier versions."""
    return [
        {
            "dp_rank": rank,
            "num_reqs": engine.running + engine.waiting,
            "num_waiting_reqs": engine.waiting,
            "num_tokens": engine.used_tokens + engine.waiting_tokens,
        }
        for rank in range(dp_size)
    ]


def metrics_text(engine: Engine, model: str, capacity_tokens: int) -> str:
    now = load(engine, capacity_tokens)
    gauges: Iterable[tuple[str, object]] = (
        ("num_running_reqs", now["num_running_reqs"]),
        ("num_queue_reqs", now["num_waiting_reqs"]),
        ("num_used_tokens", now["num_used_tokens"]),
        ("token_usage", now["token_usage"]),
        ("cache_hit_rate", now["cache_hit_rate"]),
        ("gen_throughput", now["gen_throughput"]),
    )
    return "".join(
        f"# HELP sglang:{name} {name.replace('_', ' ')}\n# TYPE sglang:{name} gauge\n"
        f'sglang:{name}{{model_name="{model}"}} {value}\n'
        for name, value in gauges
    )
