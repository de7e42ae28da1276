"""Traces and stats as text for people at a terminal. Pure: lines out of what the client returned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from router.logs import escape
from tracking.client import FullTrace, Stats
from tracking.client.results import Distribution, Row, Summary
from tracking.trace import Attempt, Decision

# Heading and least width of a line for one trace; a tail cannot know what widths are to come.
TRACE_COLUMNS: Final = (
    *(("time (UTC)", 18), ("request", 36), ("route", 20), ("worker", 9), ("status", 14)),
    *(("queued", 7), ("ttft", 7), ("took", 7), ("tokens", 11), ("cached", 6), ("error", 0)),
)
HEADINGS: Final = tuple(heading for heading, _ in TRACE_COLUMNS)
NOTHING: Final = "-"
ASIDE: Final = (
    "attempts",
    "decision",
    "prefill_decision",
    "prefix_hashes",
)  # of a trace, told below its other fields


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Lines of columns as wide as what is in them."""
    lines = [list(headings), *([escape(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    for line in lines:
        yield _joined(line, widths)


def fixed(cells: Sequence[str]) -> str:
    """One line for a tail."""
    return _joined([escape(cell) for cell in cells], [width for _, width in TRACE_COLUMNS])


def _joined(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return "  ".join(padded).rstrip()


def trace_cells(trace: FullTrace) -> list[str]:
    """The cells of TRACE_COLUMNS."""
    status: str = trace.status
    if trace.http_status not in (None, 200):
        status += f" {trace.http_status}"
    tokens = NOTHING
    if trace.input_tokens is not None or trace.output_tokens is not None:
        tokens = f"{_number(trace.input_tokens)}+{_number(trace.output_tokens)}"
    return [
        trace.timestamp[5:23].replace("T", " "),
        trace.request_id,
        trace.route or NOTHING,
        trace.node_id,
        status,
        seconds(trace.queue_seconds),
        seconds(trace.ttft_seconds),
        seconds(trace.duration_seconds),
        tokens,
        percent(trace.cache_hit_rate),
        "" if trace.error is None else trace.error.type,
    ]


def row_cells(row: Row, fields: Sequence[str]) -> list[str]:
    """The values of some fields, as they are."""
    return [_shown(row.get(name)) for name in fields]


def whole(trace: FullTrace) -> Iterator[str]:
    """Everything about one trace: its fields, then each attempt, then the receipt."""
    fields = {
        name: value
        for name, value in msgspec.to_builtins(trace).items()
        if name not in ASIDE and (value is not None or name == "cache_hit_rate")
    }
    width = max(map(len, fields))
    for name, value in fields.items():
        yield f"{name.ljust(width)}  {escape(_shown(value))}"
    if trace.attempts:
        yield ""
        yield from table(
            ("attempt", "started", "took", "http", "error"), map(_attempt, trace.attempts)
        )
    for decision in (trace.prefill_decision, trace.decision):
        if decision is not None:
            yield ""
            yield from _receipt(decision)


def _attempt(attempt: Attempt) -> list[str]:
    error = "" if attempt.error is None else f"{attempt.error.type}: {attempt.error.message}"
    return [
        attempt.node_id if attempt.leg is None else f"{attempt.node_id} {attempt.leg}",
        attempt.started_at[5:23].replace("T", " "),
        seconds(attempt.duration_seconds),
        _number(attempt.http_status),
        error,
    ]


def _receipt(decision: Decision) -> Iterator[str]:
    yield (
        f"{decision.policy}: {decision.reason}, {decision.quality}, of {decision.candidate_count} "
        f"workers, in {decision.decision_seconds * 1e6:.0f} µs"
    )
    columns = list(dict.fromkeys(name for one in decision.candidates for name in one.numbers))
    yield from table(
        ("candidate", "chosen", *columns),
        (
            [
                one.node_id,
                "yes" if one.chosen else "",
                *(_number(one.numbers.get(name)) for name in columns),
            ]
            for one in decision.candidates
        ),
    )


def counts(stats: Stats) -> Iterator[str]:
    """The stats: what is held, by what, and the window if there is one."""
    yield f"{stats.total_requests} requests ever, {stats.active_traces} held, {stats.in_flight} running"
    if stats.oldest_trace is not None:
        yield f"from {stats.oldest_trace} to {stats.newest_trace}"
    if stats.replicas:
        yield f"routers {', '.join(map(escape, stats.replicas))}"
    store = stats.store
    yield f"store {store.kind} {store.state}, {store.buffered} buffered, {store.dropped} dropped"
    for title, numbers in (
        ("status", stats.requests_per_status),
        ("worker", stats.requests_per_node),
        ("policy", stats.requests_per_policy),
        ("model", stats.requests_per_model),
        ("route", stats.requests_per_route),
    ):
        if numbers:
            yield ""
            ordered = sorted(numbers.items(), key=lambda item: (-item[1], item[0]))
            yield from table((title, "requests"), ([name, str(n)] for name, n in ordered))
    if stats.window is not None:
        window = stats.window
        yield ""
        yield f"over, of those that arrived from {window.since} to {window.until}"
        yield from _summaries("", {"all": window.total})
        for kind, named in window.by.items():
            yield ""
            yield from _summaries(kind, named)


def _summaries(title: str, named: dict[str, Summary]) -> Iterator[str]:
    yield from table(
        (
            *(title, "requests", "errors", "queued p50", "p99", "ttft p50", "p99"),
            *("took p50", "p99", "tokens/s", "cached"),
        ),
        (
            [
                name,
                str(one.requests),
                percent(one.error_rate),
                *_two(one.queue_seconds),
                *_two(one.ttft_seconds),
                *_two(one.duration_seconds),
                _number(one.output_tokens_per_second),
                percent(one.cache_hit_rate),
            ]
            for name, one in named.items()
        ),
    )


def _two(distribution: Distribution | None) -> list[str]:
    if distribution is None:
        return [NOTHING, NOTHING]
    return [seconds(distribution.p50), seconds(distribution.p99)]


def seconds(value: float | None) -> str:
    """`340 µs`, `12 ms`, `1.25 s`, `83 s`."""
    if value is None:
        return NOTHING
    if value < 0.001:
        return f"{value * 1e6:.0f} µs"
    if value < 1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"


def percent(value: float | None) -> str:
    return NOTHING if value is None else f"{value * 100:.0f}%"


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.10g}"


def _shown(value: object) -> str:
    if value is None:
        return NOTHING
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
