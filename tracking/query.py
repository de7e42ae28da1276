"""A question to the list of traces: filters, limit, cursor. Parsing and checking only, no I/O."""

from __future__ import annotations

import msgspec

MAX_LIMIT = 1000
DEFAULT_LIMIT = 100


class QueryError(ValueError):
    """A query parameter is wrong. The message names it and what is allowed."""

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(message)
        self.parameter = parameter


class TraceQuery(msgspec.Struct, frozen=True, kw_only=True):
    """One page of traces, newest first."""

    limit: int = DEFAULT_LIMIT
    node_id: str | None = None
    status: str | None = None
    session_id: str | None = None
    cursor: tuple[int, str] | None = None
    detail: bool = False
