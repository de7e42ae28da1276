"""What each path answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import msgspec

from tests.sim import generating, reading, shapes
from tests.sim.call import BadRequest, Call
from tests.sim.send import JSON, TEXT, Answer, json_answer

Route = Callable[[Call], Awaitable[Answer]]


# what a router asks


async def health(call: Call) -> Answer:
    await asyncio.sleep(call.worker.config.health_seconds)
    return Answer()


async def ready(call: Call) -> Answer:
    return Answer()


async def model_info(call: Call) -> Answer:
    model = call.worker.config.model
    return json_answer(
        {
            "model_path": model,
            "tokenizer_path": model,
            "is_generation": True,
            "preferred_sampling_params": None,
            "weight_version": "default",
            "has_image_understanding": False,
            "has_audio_understanding": False,
            "model_type": "sim",
            "architectures": ["SimForCausalLM"],
        }
    )


async def server_info(call: Call) -> Answer:
    model = call.worker.config.model
    return json_answer(
        {
            "model_path": model,
            "served_model_name": model,
            "tp_size": 1,
            **({"dp_size": call.worker.config.dp_size} if call.worker.config.tells_dp_size else {}),
            "max_total_num_tokens": _capacity_tokens(call),
            "internal_states": [shapes.load(call.worker.engine, _capacity_tokens(call))],
            "status": "ready",
            "version": shapes.VERSION,
        }
    )


def _capacity_tokens(call: Call) -> int:
    engine = call.worker.config.engine
    return engine.cache_blocks * engine.block_tokens


async def get_load(call: Call) -> Answer:
    if not call.worker.config.get_load:
        return await not_found(call)
    return json_answer(shapes.old_load(call.worker.engine, call.worker.config.dp_size))


async def loads(call: Call) -> Answer:
    return json_answer(
        {
            "timestamp": datetime.now(UTC).isoformat(),
            "version": shapes.VERSION,
            "accelerator": "cpu",
            "num_accelerators": 1,
            "loads": [
                shapes.load(call.worker.engine, _capacity_tokens(call), rank)
                for rank in range(call.worker.config.dp_size)
            ],
        }
    )


async def models(call: Call) -> Answer:
    config = call.worker.config
    entry = {"object": "model", "created": 0, "owned_by": config.owned_by, "max_model_len": 1 << 20}
    names = (config.model, *config.also_serves)
    data = [{**entry, "id": name, "root": config.model} for name in names]
    data += [{**entry, "id": name, "parent": config.model} for name in config.adapters]
    return json_answer({"object": "list", "data": data})


async def metrics(call: Call) -> Answer:
    worker = call.worker
    text = shapes.metrics_text(worker.engine, worker.config.model, _capacity_tokens(call))
    return Answer(text.encode(), 200, TEXT)


# what changes the worker


async def abort_request(call: Call) -> Answer:
    """SGLang says 200 also for an id it does not know, and matches ids by their beginning."""
    try:
        body = msgspec.json.decode(call.request.body, type=dict[str, object])
    except msgspec.DecodeError as error:
        raise BadRequest(f"JSON decode error: {error}") from None
    call.worker.pacer.abort("" if body.get("abort_all") else str(body.get("rid") or "\0"))
    return Answer()


async def flush_cache(call: Call) -> Answer:
    call.worker.engine.cache.clear()
    return Answer(b"Cache flushed.\nPlease check backend logs for more details.\n")


async def controlled(call: Call) -> Answer:
    """A control path: does nothing, but the hit can be asked for."""
    call.record.control = True
    return json_answer({"success": True, "message": "Succeeded."})


async def not_found(call: Call) -> Answer:
    return Answer(b'{"detail":"Not Found"}', 404, JSON)


INFERENCE: dict[str, Route] = {
    "/generate": generating.generate,
    "/v1/chat/completions": generating.chat,
    "/v1/completions": generating.completions,
    "/v1/responses": generating.responses,
    "/v1/embeddings": reading.embeddings,
    "/embed": reading.embeddings,
    "/encode": reading.encode_natively,
    "/classify": reading.encode_natively,
    "/v1/classify": reading.classify,
    "/rerank": reading.rerank,
    "/v1/rerank": reading.rerank,
    "/score": reading.score,
    "/v1/score": reading.score,
    "/tokenize": reading.tokenize,
    "/v1/tokenize": reading.tokenize,
    "/detokenize": reading.detokenize,
    "/v1/detokenize": reading.detokenize,
}
READING: dict[str, Route] = {
    "/health": health,
    "/health_generate": health,
    "/ready": ready,
    "/model_info": model_info,
    "/get_model_info": model_info,
    "/server_info": server_info,
    "/get_server_info": server_info,
    "/get_load": get_load,
    "/v1/loads": loads,
    "/v1/models": models,
    "/metrics": metrics,
}
WRITING: dict[str, Route] = {"/abort_request": abort_request, "/flush_cache": flush_cache}
CONTROL = (
    "/update_weights",
    "/shutdown",
    "/start_profile",
    "/stop_profile",
    "/release_memory_occupation",
    "/resume_memory_occupation",
    "/load_lora_adapter",
    "/unload_lora_adapter",
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/v1/rl/",
    "/pause_generation",
    "/continue_generation",
    "/init_weights",
    "/destroy_weights",
    "/set_internal_state",
    "/configure_logging",
    "/freeze_gc",
    "/slow_down",
)


async def answer(call: Call) -> Answer:
    """The answer to `call`. Raises BadRequest where the engine would refuse."""
    path, method = call.request.path, call.request.method
    if path.startswith(CONTROL):
        return await controlled(call)
    table = READING if method in ("GET", "HEAD") else INFERENCE | WRITING
    if (route := table.get(path)) is not None:
        return await route(call)
    if path in INFERENCE or path in READING or path in WRITING:
        return Answer(b'{"detail":"Method Not Allowed"}', 405, JSON)
    return await not_found(call)
