"""Which paths go on to a worker, and what they are called.

A worker's server mixes inference with control (load weights, shut down, profile). Inference passes,
control never does unless `--forward-paths` names it. Under `/v1/` unknown paths pass, because
engines add inference routes there faster than routers can follow; elsewhere only known ones do.
The router's own paths never pass, whatever is named.

Methods are not judged: a worker's 405 is as good as ours, and tells what it does take.

Paths come as sent, and malformed ones (dot segments, `//`, encoded slashes) were refused before.
A worker decodes what it gets and may care less about case or a last slash, so what must not pass is
looked for in the path as the worker will read it; what may pass only as it was sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple
from urllib.parse import unquote

# Repeating any of these is harmless: they change nothing at a worker but its cache.
GENERATION: Final = frozenset(
    (
        "/generate",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/messages",
        "/v1/rerank",
        "/v2/rerank",
        "/v1/score",
        "/v1/classify",
        "/v1/tokenize",
        "/v1/detokenize",
        "/v1/pooling",
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
        "/v2/embed",
        "/encode",
        "/embed",
        "/embedding",
        "/embeddings",
        "/completion",
        "/completions",
        "/chat/completions",
        "/infill",
        "/rerank",
        "/reranking",
        "/score",
        "/classify",
        "/pooling",
        "/tokenize",
        "/detokenize",
        "/apply-template",
        "/parse_function_call",
        "/separate_reasoning",
        "/invocations",
        "/vertex_generate",
    )
)
# First segments of paths that steer a worker, in SGLang, vLLM and llama.cpp; also below /v1/.
CONTROL: Final = (
    "abort_request",
    "attach_hicache_storage_backend",
    "checkpoint",
    "clear_hicache_storage_backend",
    "close_session",
    "collective_rpc",
    "configure_logging",
    "continue_generation",
    "destroy_weights_update_group",
    "detach_hicache_storage_backend",
    "dump_expert_distribution_record",
    "flush_cache",
    "freeze_gc",
    "get_weights_by_name",
    "init_weight_transfer_engine",
    "init_weights_send_group_for_remote_instance",
    "init_weights_update_group",
    "load_lora_adapter",
    "load_lora_adapter_from_tensors",
    "lora-adapters",
    "open_session",
    "pause",
    "pause_generation",
    "post_process_weights",
    "release_memory_occupation",
    "reset_encoder_cache",
    "reset_mm_cache",
    "reset_prefix_cache",
    "resume",
    "resume_memory_occupation",
    "rl",
    "scale_elastic_ep",
    "send_weights_to_remote_instance",
    "set_internal_state",
    "set_trace_level",
    "shutdown",
    "sleep",
    "slots",
    "slow_down",
    "start_expert_distribution_record",
    "start_profile",
    "stop_expert_distribution_record",
    "stop_profile",
    "unload_lora_adapter",
    "update_weights",
    "update_weights_from_disk",
    "update_weights_from_distributed",
    "update_weights_from_ipc",
    "update_weights_from_tensor",
    "wake_up",
)
CONTROL_V1: Final = tuple(f"/v1/{segment}" for segment in CONTROL)
OWN: Final = (
    "/abort_request",
    "/add_worker",
    "/engine_metrics",
    "/flush_cache",
    "/get_loads",
    "/get_model_info",
    "/get_server_info",
    "/health",
    "/health_generate",
    "/list_workers",
    "/liveness",
    "/metrics",
    "/openapi.json",
    "/readiness",
    "/remove_worker",
    "/ui",
    "/v1/models",
    "/v1/traces",
    "/workers",
)


class Forwarded(NamedTuple):
    """A path that goes to a worker.

    `label` is bounded, for metrics: the path itself or `other`. `generates`: may be repeated.
    """

    label: str
    generates: bool


class ForwardPaths:
    """What passes.

    `extra` (`--forward-paths`) opens further paths, control paths included: each names a path and
    what lies below it, or, ending in `*`, all that begin like it.
    """

    def __init__(self, extra: Iterable[str] = ()) -> None:
        self._extra = tuple(extra)
        self._known = {path: Forwarded(path, True) for path in GENERATION}
        self._other = Forwarded("other", False)

    def find(self, path: str) -> Forwarded | None:
        """How to forward `path` (as sent, already checked), or None when it does not pass."""
        known = self._known.get(path)
        if known is not None:
            return known
        read = unquote(path).lower()  # %6coad is "load" to a worker
        if any(within(read, own) for own in OWN):
            return None
        if any(covers(pattern, path) for pattern in self._extra):
            return self._other
        if not path.startswith("/v1/") or path == "/v1/":
            return None
        if any(within(read, control) for control in CONTROL_V1):
            return None
        return self._other


def within(path: str, prefix: str) -> bool:
    """`path` is `prefix` or lies below it."""
    return path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", "/")


def covers(pattern: str, path: str) -> bool:
    """Does an entry of `--forward-paths` name this path?"""
    if pattern.endswith("*"):
        return path.startswith(pattern[:-1])
    return within(path, pattern.rstrip("/"))
