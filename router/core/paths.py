"""Which paths go on to a worker, and what they are called.

A worker's server mixes inference with control (load weights, shut down, profile). Inference passes,
control never does unless `--forward-paths` names it. Under `/v1/` unknown paths pass, because
engines add inference routes there faster than routers can follow; elsewhere only known ones do.
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
        "/encode",
        "/embed",
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
CONTROL_V1: Final = (
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/v1/rl",
    "/v1/loads",
    "/v1/start_profile",
    "/v1/stop_profile",
)
OWN_V1: Final = ("/v1/traces", "/v1/models")


class Forwarded(NamedTuple):
    """A path that goes to a worker. `label` is bounded, for metrics; `generates`: may be repeated."""

    label: str
    generates: bool


class ForwardPaths:
    """What passes. `extra` are the prefixes of `--forward-paths`, which also open control paths."""

    def __init__(self, extra: Iterable[str] = ()) -> None:
        self._extra = tuple(path.rstrip("/") or "/" for path in extra)
        self._known = {path: Forwarded(path, True) for path in GENERATION}
        self._other = Forwarded("other", False)

    def find(self, path: str) -> Forwarded | None:
        """How to forward `path` (as sent, already checked), or None when it does not pass."""
        known = self._known.get(path)
        if known is not None:
            return known
        if any(within(path, prefix) for prefix in self._extra):
            return self._other
        lowered = unquote(path).lower()  # the worker decodes: %6coad is "load" to it
        if not lowered.startswith("/v1/") or len(path) == len("/v1/"):
            return None
        if any(within(lowered, prefix) for prefix in CONTROL_V1 + OWN_V1):
            return None
        return self._other


def within(path: str, prefix: str) -> bool:
    """`path` is `prefix` or lies below it."""
    return path == prefix or path.startswith(prefix.rstrip("/") + "/")
