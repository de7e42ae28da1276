"""Traces as CSV: one row for each request, or for each candidate of each decision.

A table is a list of columns, each a name and where its cell comes from. An empty cell is unknown. The
lists are part of the docs (`docs/export-and-tail.md`), and columns are only ever added.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Generic, TypeVar

import msgspec

from tracking.exported import Candidate, Exported, decode_exported, server_latency_seconds

Cell = str | int | float | bool | None
Row = TypeVar("Row")
Columns = Mapping[str, Callable[[Row], Cell]]
Choice = tuple[Exported, Candidate]


def _text(value: str | None) -> str | None:
    """Text that somebody else wrote. A spreadsheet would run what begins like a formula."""
    return "'" + value if value and value[0] in "=+-@\t\r" else value


REQUESTS: Final[Columns[Exported]] = {
    "request_id": lambda t: _text(t.request_id),
    "timestamp": lambda t: t.timestamp,
    "completion_time": lambda t: t.completion_time,
    "node_id": lambda t: t.node_id,
    "worker_url": lambda t: t.worker_url,
    "routing_policy": lambda t: t.routing_policy,
    "reason": lambda t: t.decision.reason,
    "quality": lambda t: t.decision.quality,
    "candidate_count": lambda t: t.decision.candidate_count,
    "decision_seconds": lambda t: t.decision.decision_seconds,
    "status": lambda t: t.status,
    "http_status": lambda t: t.http_status,
    "error_type": lambda t: t.error.type,
    "error_message": lambda t: _text(t.error.message),
    "route": lambda t: _text(t.route),
    "method": lambda t: t.method,
    "model": lambda t: _text(t.model),
    "stream": lambda t: t.stream,
    "queue_size": lambda t: t.queue_size,
    "queue_seconds": lambda t: t.queue_seconds,
    "ttft_seconds": lambda t: t.ttft_seconds,
    "duration_seconds": lambda t: t.duration_seconds,
    "input_tokens": lambda t: t.input_tokens,
    "output_tokens": lambda t: t.output_tokens,
    "cached_tokens": lambda t: t.cached_tokens,
    "predicted_cached_tokens": lambda t: t.predicted_cached_tokens,
    "prefill_tokens": lambda t: t.prefill_tokens,
    "cache_hit_rate": lambda t: t.cache_hit_rate,
    "cache_source": lambda t: t.cache_source,
    "attempts": lambda t: len(t.attempts),
    "finish_reason": lambda t: _text(t.engine.finish_reason),
    "engine_e2e_latency": lambda t: t.engine.e2e_latency,
    "engine_queue_time": lambda t: t.engine.queue_time,
    "session_id": lambda t: _text(t.session_id),
    "label": lambda t: _text(t.label),
    "trimmed": lambda t: t.trimmed,
    "router_id": lambda t: t.router_id,
    "trace_id": lambda t: t.trace_id,
    "engine_request_id": lambda t: _text(t.engine_request_id),
    "key": lambda t: t.key,
    "prefill_node_id": lambda t: t.prefill_node_id,
    "worker_origin": lambda t: _text(t.worker_origin),
}


def _number(name: str) -> Callable[[Choice], Cell]:
    return lambda choice: choice[1].numbers.get(name)


def _outcome(cell: Callable[[Exported], Cell]) -> Callable[[Choice], Cell]:
    """What came of a request, which says nothing of the workers that were not chosen."""
    return lambda choice: cell(choice[0]) if choice[1].chosen else None


def _queue_time(trace: Exported) -> Cell:
    told = trace.engine.queue_time
    return trace.queue_seconds if told is None else told


def _decision_ms(choice: Choice) -> Cell:
    seconds = choice[0].decision.decision_seconds
    return None if seconds is None else round(seconds * 1000, 3)


def _others(choice: Choice) -> Cell:
    others = {n: v for n, v in choice[1].numbers.items() if n not in _NUMBERS}
    return msgspec.json.encode(others).decode() if others else None


# The first sixteen are those of the recorder of the research policy, in its order.
DECISIONS: Final[Columns[Choice]] = {
    "timestamp": lambda c: c[0].timestamp,
    "worker_url": lambda c: c[1].worker_url,
    "request_id": lambda c: _text(c[0].request_id),
    "throughput_gradient": _number("throughput_gradient"),
    "latency_gradient": _number("latency_gradient"),
    "score": _number("score"),
    "outstanding_requests": _number("in_flight"),
    "avg_throughput": _number("avg_throughput"),
    "avg_latency": _number("avg_latency"),
    "window_size": _number("window_size"),
    "selection_reason": lambda c: c[0].decision.reason,
    "actual_output_tokens": _outcome(lambda t: t.output_tokens),
    "server_latency": _outcome(server_latency_seconds),
    "queue_time": _outcome(_queue_time),
    "ttft": _outcome(lambda t: t.ttft_seconds),
    "decision_time_ms": _decision_ms,
    "chosen": lambda c: c[1].chosen,
    "node_id": lambda c: c[1].node_id,
    "routing_policy": lambda c: c[0].routing_policy,
    "quality": lambda c: c[0].decision.quality,
    "candidate_count": lambda c: c[0].decision.candidate_count,
    "load_age_seconds": lambda c: c[0].decision.load_age_seconds,
    "prefix_match": _number("prefix_match"),
    "queued_tokens": _number("queued_tokens"),
    "expected_ttft_seconds": _number("expected_ttft_seconds"),
    "other_numbers": _others,
    "key": lambda c: c[0].key,
}
_NUMBERS: Final = frozenset(DECISIONS) | {"in_flight"}


class _Table(Generic[Row]):
    """Writes rows of some columns."""

    content_type = "text/csv; charset=utf-8"
    suffix = "csv"
    ascending = False
    left_out = 0

    def __init__(self, columns: Columns[Row], rows: Callable[[Exported], Sequence[Row]]) -> None:
        self._columns = columns
        self._rows = rows
        self._cells = tuple(columns.values())
        self._text = io.StringIO(newline="")
        self._writer = csv.writer(self._text, lineterminator="\n")

    def begin(self) -> bytes:
        self._writer.writerow(self._columns)
        return self._taken()

    def page(self, traces: Sequence[bytes]) -> bytes:
        for body in traces:
            for row in self._rows(decode_exported(body)):
                self._writer.writerow([_plain(cell(row)) for cell in self._cells])
        return self._taken()

    def end(self) -> bytes:
        return b""

    def _taken(self) -> bytes:
        text = self._text.getvalue()
        self._text.seek(0)
        self._text.truncate()
        return text.encode()


def _plain(cell: Cell) -> Cell:
    return ("false", "true")[cell] if isinstance(cell, bool) else cell


class RequestsCsv(_Table[Exported]):
    """One row for each request."""

    def __init__(self) -> None:
        super().__init__(REQUESTS, lambda trace: (trace,))


class DecisionsCsv(_Table[Choice]):
    """One row for each candidate of each decision, the chosen one first."""

    def __init__(self) -> None:
        super().__init__(DECISIONS, lambda t: [(t, one) for one in t.decision.candidates])
