"""A question to the list of traces: filters, order, place, shape. Parsing and checking, no I/O.

Each parameter is one field of `TraceQuery`: its type, and a `Parameter` with how its text is read,
what is allowed, its help, and for a filter which records it lets through. Parsing, messages, docs,
and the answers of store and router follow from it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, get_args, get_type_hints

import msgspec

from tracking.filters import (
    Facts,
    Test,
    answered_with,
    at_least,
    broke_with,
    cached,
    chosen_for,
    decode_facts,
    id_begins_with,
    lasted_at_most,
    same,
    same_in_index,
)
from tracking.trace import ErrorType, Status, Trace, TraceDetail, join_parts
from tracking.values import (
    CURSOR,
    FLAG,
    HTTP_STATUS,
    MOMENT,
    SECONDS,
    Schema,
    Value,
    characters,
    names,
    one_of,
    whole,
)

MAX_LIMIT: Final = 1000
DEFAULT_LIMIT: Final = 100
_TEXT: Final = characters(256)

Order = Literal["desc", "asc"]
STATUSES: Final[tuple[str, ...]] = get_args(Status)
ERROR_TYPES: Final[tuple[str, ...]] = get_args(ErrorType)
DETAIL_FIELDS: Final = tuple(field.name for field in msgspec.structs.fields(TraceDetail))
FIELDS: Final = tuple(field.name for field in msgspec.structs.fields(Trace)) + DETAIL_FIELDS


class QueryError(ValueError):
    """A query parameter is wrong. The message names it and what is allowed."""

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(message)
        self.parameter = parameter


class Parameter(msgspec.Struct, frozen=True):
    """One parameter of the list. `name` is given where it is not that of the field.

    A filter has a `bind`, which makes its test for a value, or it is a bound of the arrival
    (`range`). `index` is the kind of index that can answer it; `detail` says that the test reads the
    detail of a record.
    """

    help: str
    value: Value
    bind: Callable[[Any], Test] | None = None
    name: str = ""
    range: bool = False
    index: str = ""
    detail: bool = False

    @property
    def is_filter(self) -> bool:
        return self.bind is not None or self.range

    @property
    def allowed(self) -> str:
        return self.value.allowed

    @property
    def schema(self) -> Schema:
        return self.value.schema


class TraceQuery(msgspec.Struct, frozen=True, kw_only=True):
    """One page of traces. Filters that are None let everything through; all given must match.

    `since_us` is inclusive, `until_us` exclusive, both arrivals in microseconds since the epoch on
    the fleet's clock, as is the arrival in `cursor`: (arrival, key) of the last record seen.
    """

    node_id: Annotated[
        str | None,
        Parameter("served by this worker", _TEXT, same_in_index("node_id"), index="node"),
    ] = None
    prefill_node_id: Annotated[
        str | None,
        Parameter("whose prefill this worker did", _TEXT, same("prefill_node_id")),
    ] = None
    status: Annotated[
        str | None,
        Parameter(
            "in this status", one_of(STATUSES), same("status"),
            index="status",
        ),
    ] = None  # fmt: skip
    session_id: Annotated[
        str | None,
        Parameter("of this session", _TEXT, same_in_index("session_id"), index="session"),
    ] = None
    http_status: Annotated[
        str | None,
        Parameter(
            "answered with this status code, or one of this class", HTTP_STATUS,
            answered_with,
        ),
    ] = None  # fmt: skip
    error_type: Annotated[
        str | None,
        Parameter(
            "with this `error.type`", one_of(ERROR_TYPES),
            broke_with,
        ),
    ] = None  # fmt: skip
    route: Annotated[
        str | None, Parameter("sent to this path", _TEXT, same("route"))
    ] = None  # fmt: skip
    model: Annotated[
        str | None, Parameter("asking for this model", _TEXT, same("model"))
    ] = None  # fmt: skip
    policy: Annotated[
        str | None, Parameter("routed by this policy", _TEXT, same("routing_policy"))
    ] = None
    reason: Annotated[
        str | None,
        Parameter(
            "with this `decision.reason`", _TEXT,
            chosen_for,
            detail=True,
        ),
    ] = None  # fmt: skip
    router_id: Annotated[
        str | None, Parameter("handled by this replica", _TEXT, same("router_id"))
    ] = None
    label: Annotated[str | None, Parameter("with this `X-Trace-Label`", _TEXT, same("label"))] = (
        None
    )
    request_id_prefix: Annotated[
        str | None,
        Parameter(
            "whose id begins so", _TEXT,
            id_begins_with,
        ),
    ] = None  # fmt: skip
    stream: Annotated[bool | None, Parameter("streamed, or not", FLAG, same("stream"))] = None
    cache: Annotated[
        str | None,
        Parameter(
            "by `cache_hit_rate`: above 0, 0, or null", one_of(("hit", "miss", "unknown")), cached,
        ),
    ] = None  # fmt: skip
    min_duration_seconds: Annotated[
        float | None,
        Parameter("took at least so long", SECONDS, at_least("duration_seconds")),
    ] = None
    max_duration_seconds: Annotated[
        float | None, Parameter("took at most so long", SECONDS, lasted_at_most)
    ] = None
    min_ttft_seconds: Annotated[
        float | None,
        Parameter("first token after at least so long", SECONDS, at_least("ttft_seconds")),
    ] = None
    since_us: Annotated[
        int | None, Parameter("arrived then or later", MOMENT, name="since", range=True)
    ] = None
    until_us: Annotated[
        int | None, Parameter("arrived before", MOMENT, name="until", range=True)
    ] = None

    limit: Annotated[
        int,
        Parameter(
            f"traces in a page (default {DEFAULT_LIMIT})", whole(1, MAX_LIMIT)
        ),
    ] = DEFAULT_LIMIT  # fmt: skip
    order: Annotated[
        Order,
        Parameter(
            "newest first (desc, the default) or oldest first",
            one_of(get_args(Order), "desc or asc"),
        ),
    ] = "desc"  # fmt: skip
    cursor: Annotated[
        tuple[int, str] | None,
        Parameter(
            "where the page begins", CURSOR,
        ),
    ] = None  # fmt: skip
    detail: Annotated[
        bool, Parameter("with " + ", ".join(DETAIL_FIELDS), FLAG)
    ] = False  # fmt: skip
    fields: Annotated[
        tuple[str, ...],
        Parameter(
            "only these fields of each trace",
            names(FIELDS, "field names separated by commas: " + ", ".join(FIELDS)),
        ),
    ] = ()  # fmt: skip

    @property
    def wants_detail(self) -> bool:
        """Whether an answer shows something of the detail."""
        return self.detail or any(name in DETAIL_FIELDS for name in self.fields)

    @property
    def descending(self) -> bool:
        return self.order == "desc"

    def covers(self, arrived_us: int, key: str) -> bool:
        """Whether a record's place is in the range and behind the cursor."""
        if self.since_us is not None and arrived_us < self.since_us:
            return False
        if self.until_us is not None and arrived_us >= self.until_us:
            return False
        if self.cursor is None:
            return True
        place = (arrived_us, key)
        return place < self.cursor if self.descending else place > self.cursor


_BY_FIELD: Final[Mapping[str, Parameter]] = {
    field: annotation.__metadata__[0]
    for field, annotation in get_type_hints(TraceQuery, include_extras=True).items()
}
_FIELD_OF: Final = {parameter.name or field: field for field, parameter in _BY_FIELD.items()}
PARAMETERS: Final[Mapping[str, Parameter]] = {
    name: _BY_FIELD[field] for name, field in _FIELD_OF.items()
}
FILTERS: Final = tuple(name for name, parameter in PARAMETERS.items() if parameter.is_filter)


def parse_query(
    params: Sequence[tuple[str, str]], now_us: int, *, allowed: Collection[str] = tuple(PARAMETERS)
) -> TraceQuery:
    """The query of a URL's parameters (decoded), at `now_us` on the fleet's clock.

    `allowed` names the parameters that may be given. Raises QueryError.
    """
    values: dict[str, object] = {}
    for name, text in params:
        if name not in allowed:
            raise QueryError(name, f"unknown parameter {name!r}; known are {', '.join(allowed)}")
        parameter, field = PARAMETERS[name], _FIELD_OF[name]
        if field in values:
            raise QueryError(name, f"parameter {name!r} is given more than once")
        try:
            values[field] = parameter.value.parse(text, now_us)
        except ValueError:
            raise QueryError(name, f"parameter {name!r} must be {parameter.allowed}") from None
    return msgspec.convert(values, TraceQuery)


class Matcher:
    """Whether a record passes the filters of a query. The range is not its business (`covers`).

    `narrowed`: the records come from the index of one of the filters, if an index can answer any.
    """

    __slots__ = ("_tests", "needs_detail")

    def __init__(self, query: TraceQuery, *, narrowed: bool = False) -> None:
        given = {
            field: parameter
            for field, parameter in _BY_FIELD.items()
            if parameter.bind is not None and getattr(query, field) is not None
        }
        indexed = [field for field, parameter in given.items() if parameter.index]
        if narrowed and len(indexed) == 1:
            del given[indexed[0]]
        self.needs_detail = any(parameter.detail for parameter in given.values())
        self._tests: list[Test] = [
            parameter.bind(getattr(query, field))
            for field, parameter in given.items()
            if parameter.bind is not None
        ]

    @property
    def passes_all(self) -> bool:
        return not self._tests

    def __call__(self, row: bytes, detail: bytes = b"{}") -> bool:
        if not self._tests:
            return True
        return self.passes(decode_facts(join_parts(row, detail) if self.needs_detail else row))

    def passes(self, facts: Facts) -> bool:
        return all(test(facts) for test in self._tests)


_decode_raw: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def indexes_of(query: TraceQuery) -> list[tuple[str, str]]:
    """The indexes that can narrow a query: their kind, and the value asked for."""
    return [
        (parameter.index, getattr(query, field))
        for field, parameter in _BY_FIELD.items()
        if parameter.index and getattr(query, field) is not None
    ]


def shape(query: TraceQuery, row: bytes, detail: bytes) -> bytes:
    """The JSON object that a page shows of a record."""
    if query.fields:
        shown = {*query.fields, *(DETAIL_FIELDS if query.detail else ())}
        whole = _decode_raw(join_parts(row, detail) if query.wants_detail else row)
        return msgspec.json.encode({name: whole[name] for name in whole if name in shown})
    return join_parts(row, detail) if query.detail else row
