"""The few facts the router needs from a request body. The body itself is never changed."""

from __future__ import annotations

import msgspec


class RequestFacts(msgspec.Struct, kw_only=True):
    """What policies and traces may know of a request."""

    route: str
    model: str | None = None
    stream: bool = False
    text: str = ""
    engine_request_id: str | None = None
    session_id: str | None = None
    routing_key: str | None = None
