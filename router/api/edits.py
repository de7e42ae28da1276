"""What the router writes into the body of a request. A form, or what is compressed, stays as it is."""

from __future__ import annotations

import msgspec

from router.api.request import Request
from router.core.facts import JSON_ROUTES, RequestFacts
from router.core.rid import TAKES_RID, with_rid
from router.core.splice import with_field
from router.core.worker import Worker


def with_served_model(request: Request, body: bytes, facts: RequestFacts) -> bytes:
    """Tell the worker what an alias stands for."""
    model = facts.served_model
    if model is None or "content-encoding" in request.headers:
        return body
    return with_field(body, b"model", msgspec.json.encode(model)) or body


def with_own_rid(
    request: Request, path: str, body: bytes, facts: RequestFacts, rid: str
) -> bytes | None:
    """The engine is to know this request by an id of ours. None where that cannot be."""
    if path not in TAKES_RID or facts.sequences != 1 or "content-encoding" in request.headers:
        return None
    return with_rid(body, rid)


def with_rank(request: Request, path: str, body: bytes, worker: Worker, rank: int) -> bytes:
    """The body for one rank. The head says it too, but SGLang reads that only in new versions."""
    if (
        worker.engine != "sglang"
        or path not in JSON_ROUTES
        or "content-encoding" in request.headers
    ):
        return body
    return with_field(body, b"data_parallel_rank", b"%d" % rank) or body
