"""Label values, kept few: nothing a client sends may mint series without end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from tracking.trace import ErrorType

OTHER: Final = "other"
UNKNOWN: Final = "unknown"
MAX_UNLISTED_MODELS: Final = 50

METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})

# sglang-router's words for routes; anything else is "other" there too.
ENDPOINTS: Final[Mapping[str, str]] = {
    "/generate": "generate",
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/classify": "classify",
    "/v1/responses": "responses",
    "/rerank": "rerank",
    "/v1/rerank": "rerank",
}

# sglang-router's words for what went wrong with a request that was routed.
ROUTED_ERRORS: Final[Mapping[ErrorType, str]] = {
    "no_worker": "no_workers",
    "connect": "backend_error",
    "worker_status": "backend_error",
    "worker_cut": "backend_error",
    "worker_abort": "backend_error",
    "first_byte_timeout": "timeout",
    "idle_timeout": "timeout",
    "total_timeout": "timeout",
}
RATE_LIMITED: Final[frozenset[ErrorType]] = frozenset({"queue_full", "queue_timeout"})


def method_label(method: str) -> str:
    """`method`, or `OTHER` for a token no route knows."""
    return method if method in METHODS else "OTHER"


class ModelLabels:
    """Model names as labels: what workers serve, then the first few others, then `rest`."""

    __slots__ = ("_known", "_rest", "_room")

    def __init__(self, max_unlisted: int = MAX_UNLISTED_MODELS, rest: str = OTHER) -> None:
        self._known: set[str] = set()
        self._room = max_unlisted
        self._rest = rest

    def allow(self, models: Iterable[str]) -> None:
        """These names always get their own series, now and later."""
        self._known.update(models)

    def label(self, model: str | None) -> str:
        """The label for a model as a client named it."""
        if model in self._known:
            return model
        if not model:
            return UNKNOWN
        if self._room == 0 or len(model) > 128:
            return self._rest
        self._room -= 1
        self._known.add(model)
        return model
