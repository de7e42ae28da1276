"""Which stored traces a filter lets through: the tests that `tracking.query` declares its filters with.

Each function is told the value asked for and makes a test of `Facts`. What a trace does not know
passes no test, but for the one that asks for the unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from tracking.keys import index_text


class _Error(msgspec.Struct):
    type: str = ""


class _Decision(msgspec.Struct):
    reason: str = ""


class Facts(msgspec.Struct):
    """What filters look at in a stored trace. Plain types: words of a newer version are no error."""

    request_id: str
    node_id: str = ""
    routing_policy: str = ""
    status: str = ""
    cache_hit_rate: float | None = None
    prefill_node_id: str | None = None
    key: str = ""
    route: str | None = None
    model: str | None = None
    stream: bool | None = None
    http_status: int | None = None
    error: _Error | None = None
    ttft_seconds: float | None = None
    duration_seconds: float | None = None
    router_id: str | None = None
    session_id: str | None = None
    label: str | None = None
    decision: _Decision | None = None

    @property
    def stored_key(self) -> str:
        """The record's key in the store."""
        return self.key or self.request_id


decode_facts: Final = msgspec.json.Decoder(Facts).decode

Test = Callable[[Facts], bool]


def same(field: str) -> Callable[[Any], Test]:
    def bind(value: object) -> Test:
        return lambda facts: getattr(facts, field) == value

    return bind


def same_in_index(field: str) -> Callable[[Any], Test]:
    """Equal as far as an index can tell, so that it does not matter who answers."""

    def bind(value: str) -> Test:
        wanted = index_text(value)
        return lambda facts: index_text(getattr(facts, field)) == wanted

    return bind


def at_least(field: str) -> Callable[[Any], Test]:
    def bind(seconds: float) -> Test:
        return lambda facts: (known := getattr(facts, field)) is not None and known >= seconds

    return bind


def lasted_at_most(seconds: float) -> Test:
    return lambda facts: facts.duration_seconds is not None and facts.duration_seconds <= seconds


def answered_with(code: str) -> Test:
    low = int(code.replace("x", "0"))
    high = low + (100 if code.endswith("x") else 1)
    return lambda facts: facts.http_status is not None and low <= facts.http_status < high


def cached(state: str) -> Test:
    if state == "unknown":
        return lambda facts: facts.cache_hit_rate is None
    hit = state == "hit"
    return lambda facts: facts.cache_hit_rate is not None and (facts.cache_hit_rate > 0) is hit


def broke_with(error_type: str) -> Test:
    return lambda facts: facts.error is not None and facts.error.type == error_type


def chosen_for(reason: str) -> Test:
    return lambda facts: facts.decision is not None and facts.decision.reason == reason


def id_begins_with(prefix: str) -> Test:
    return lambda facts: facts.request_id.startswith(prefix)
