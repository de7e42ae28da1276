"""Which of the versions of a trace that are known here is the newest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tracking.lifecycle import LiveTrace
from tracking.record import Record


def newest_by_id(
    running: Iterable[LiveTrace], sending: Iterable[Record]
) -> dict[str, LiveTrace | Record]:
    """Under each request id, key and engine id the newest; what still runs goes before what is on
    its way, a request id before the others."""
    by_id: dict[str, LiveTrace | Record] = {}
    for record in sorted(sending, key=lambda record: record.arrived_us):
        by_id |= dict.fromkeys(filter(None, (record.engine_id, record.key)), record)
        by_id[record.request_id] = record
    for live in sorted(running, key=lambda live: live.arrived_us):
        by_id |= dict.fromkeys(filter(None, (live.engine_request_id, live.key)), live)
        by_id[live.request_id] = live
    return by_id


def once(records: Iterable[Record]) -> Iterator[Record]:
    """Of each key the first."""
    seen: set[str] = set()
    for record in records:
        if record.key not in seen:
            seen.add(record.key)
            yield record
