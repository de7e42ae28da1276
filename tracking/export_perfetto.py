"""Traces as Chrome's trace events, for Perfetto (ui.perfetto.dev).

A process for each worker, in it the requests it served: slices for the wait in line, the attempt, and in it
the time until the first token and the time after. Requests overlap, so the slices are nestable async events
(`b` and `e`, paired by `cat` and `id2`), which need not nest across requests. The ids are local: with a
plain `id` Perfetto takes the slices out of their processes. Requests of one process share a track, because
their outermost slices have one name. Times are microseconds since the epoch. The format: "Trace Event
Format", Google, 2016. `tests/e2e/test_perfetto.py` reads it back through Perfetto's own trace processor.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from tracking.exported import Attempt, Exported, decode_exported

CATEGORY: Final = "request"
_FOR_EVER: Final = 2**62
_encode: Final = msgspec.json.Encoder().encode
_SHOWN: Final = (
    "request_id", "status", "http_status", "model", "route", "routing_policy", "input_tokens",
    "output_tokens", "cached_tokens", "queue_size", "session_id", "label", "router_id",
)  # fmt: skip


class _Event(msgspec.Struct, omit_defaults=True):
    ph: str
    name: str
    pid: int
    tid: int
    ts: int
    cat: str = ""
    id2: dict[str, str] = {}
    args: dict[str, str | int | float | None] = {}


class Perfetto:
    """One JSON object. It keeps the names of workers, nothing else."""

    content_type = "application/json"
    suffix = "json"
    ascending = False
    left_out = 0

    def __init__(self) -> None:
        self._pids: dict[str, int] = {}
        self._any = False

    def begin(self) -> bytes:
        return b'{"displayTimeUnit":"ms","traceEvents":[\n'

    def page(self, traces: Sequence[bytes]) -> bytes:
        events = [event for body in traces for event in self._events(decode_exported(body))]
        if not events:
            return b""
        begun, self._any = self._any, True
        return (b",\n" if begun else b"") + b",\n".join(map(_encode, events))

    def end(self) -> bytes:
        return b"\n]}\n"

    def _events(self, trace: Exported) -> list[_Event]:
        arrived = unix_us(trace.timestamp)
        ended = None if trace.duration_seconds is None else arrived + _us(trace.duration_seconds)
        events: list[_Event] = []
        earlier = trace.attempts[:-1]
        for number, attempt in enumerate(earlier, 1):
            track = self._track(attempt.node_id, events), f"{trace.key}/{number}"
            start = unix_us(attempt.started_at)
            end = start + _us(attempt.duration_seconds or 0.0)
            outcome = {"request_id": trace.request_id, **_outcome(attempt)}
            _slice(events, track, attempt.leg or f"attempt {number}", start, end, outcome)
        track = self._track(trace.node_id, events), trace.key or trace.request_id
        shown = {name: getattr(trace, name) for name in _SHOWN}
        shown |= {"reason": trace.decision.reason, "error": trace.error.type}
        args = {name: value for name, value in shown.items() if value is not None}
        events.append(_begin(track, CATEGORY, arrived, args))
        # Times have different grains; a slice may not stand out of the one around it.
        last = ended if ended is not None else _FOR_EVER
        if trace.queue_seconds is not None:
            admitted = min(last, arrived + _us(trace.queue_seconds))
            _slice(events, track, "queue", arrived, admitted)
            if trace.attempts:
                start = unix_us(trace.attempts[-1].started_at) if earlier else admitted
                _last_attempt(events, track, trace, min(last, max(start, admitted)), last)
        if ended is not None:
            events.append(_end(track, CATEGORY, ended))
        return events

    def _track(self, node_id: str, events: list[_Event]) -> int:
        pid = self._pids.get(node_id)
        if pid is None:
            pid = self._pids[node_id] = len(self._pids) + 1
            name = "no worker" if node_id == "none" else node_id
            events.append(_Event("M", "process_name", pid, 0, 0, args={"name": name}))
        return pid


def _last_attempt(
    events: list[_Event], track: tuple[int, str], trace: Exported, start: int, last: int
) -> None:
    """The attempt that was answered, or runs: nothing of it is later than `last`."""
    attempt = trace.attempts[-1]
    tried = sum(one.leg != "prefill" for one in trace.attempts)
    name = "attempt" if tried == 1 else f"attempt {tried}"
    events.append(_begin(track, name, start, _outcome(attempt)))
    if attempt.duration_seconds is not None:
        last = min(last, start + _us(attempt.duration_seconds))
    if trace.ttft_seconds is not None:
        first = min(last, max(start, unix_us(trace.timestamp) + _us(trace.ttft_seconds)))
        _slice(events, track, "until first token", start, first)
        if last < _FOR_EVER:
            _slice(events, track, "decode", first, last)
    if last < _FOR_EVER:
        events.append(_end(track, name, last))


def unix_us(timestamp: str) -> int:
    """Microseconds since the epoch of a `timestamp` of a trace."""
    return round(datetime.fromisoformat(timestamp).timestamp() * 1e6)


def _us(seconds: float) -> int:
    return round(seconds * 1e6)


def _outcome(attempt: Attempt) -> dict[str, str | int | float | None]:
    told = {"http_status": attempt.http_status, "error": attempt.error.type}
    return {name: value for name, value in told.items() if value is not None}


def _begin(
    track: tuple[int, str], name: str, ts: int, args: dict[str, str | int | float | None]
) -> _Event:
    return _Event("b", name, track[0], track[0], ts, CATEGORY, {"local": track[1]}, args)


def _end(track: tuple[int, str], name: str, ts: int) -> _Event:
    return _Event("e", name, track[0], track[0], ts, CATEGORY, {"local": track[1]})


def _slice(
    events: list[_Event],
    track: tuple[int, str],
    name: str,
    start: int,
    end: int,
    args: dict[str, str | int | float | None] | None = None,
) -> None:
    events += (_begin(track, name, start, args or {}), _end(track, name, end))
