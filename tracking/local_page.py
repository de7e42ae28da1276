"""A page of what one replica knows by itself, for while the store is away."""

from __future__ import annotations

from collections.abc import Iterable

from tracking.query import Matcher, TraceQuery, shape
from tracking.record import Record
from tracking.values import encode_cursor
from tracking.view import Page, StoreUnavailable


def local_page(known: Iterable[Record], query: TraceQuery) -> Page:
    """One page of `known`. Raises StoreUnavailable if that is nothing at all."""
    ordered = sorted(
        known, key=lambda record: (record.arrived_us, record.key), reverse=query.descending
    )
    if not ordered:
        raise StoreUnavailable("the trace store cannot be reached, and nothing is known here")
    passes = Matcher(query)
    matching = [
        record
        for record in ordered
        if query.covers(record.arrived_us, record.key) and passes(record.row, record.detail)
    ]
    page = matching[: query.limit]
    more = len(matching) > len(page)
    return Page(
        [shape(query, record.row, record.detail) for record in page],
        encode_cursor(page[-1].arrived_us, page[-1].key) if more else None,
        "store-unavailable",
    )
