"""Traces in other people's formats, a page at a time. Pure: bytes in, bytes out.

A format keeps no traces: its memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from tracking.export_csv import DecisionsCsv, RequestsCsv
from tracking.export_perfetto import Perfetto, unix_us
from tracking.exported import decode_exported

_HASH_SHIFT: Final = 11  # 53 bits are left, which every reader of JSON keeps exactly


class Format(Protocol):
    """Makes one export: `begin`, then `page` with whole traces as JSON, then `end`.

    `ascending` says that it must be given the oldest first; `left_out` counts the traces that had no
    place in it.
    """

    content_type: str
    suffix: str
    ascending: bool
    left_out: int

    def begin(self) -> bytes: ...

    def page(self, traces: Sequence[bytes]) -> bytes: ...

    def end(self) -> bytes: ...


class Ndjson:
    """The trace objects themselves, one a line."""

    content_type = "application/x-ndjson"
    suffix = "ndjson"
    ascending = False
    left_out = 0

    def begin(self) -> bytes:
        return b""

    def page(self, traces: Sequence[bytes]) -> bytes:
        return b"".join([b"%b\n" % trace for trace in traces])

    def end(self) -> bytes:
        return b""


class Mooncake:
    """The format of Mooncake's published traces, for simulators and replay.

    Requests whose token counts nobody reported are left out: there is nothing to replay.
    """

    content_type = "application/x-ndjson"
    suffix = "jsonl"
    ascending = True  # times count from the first

    def __init__(self) -> None:
        self.left_out = 0
        self._first_us: int | None = None

    def begin(self) -> bytes:
        return b""

    def page(self, traces: Sequence[bytes]) -> bytes:
        lines = []
        for trace in map(decode_exported, traces):
            if trace.input_tokens is None or trace.output_tokens is None:
                self.left_out += 1
                continue
            arrived = unix_us(trace.timestamp)
            if self._first_us is None:
                self._first_us = arrived
            line = {
                "timestamp": (arrived - self._first_us) // 1000,
                "input_length": trace.input_tokens,
                "output_length": trace.output_tokens,
                "hash_ids": [int(one, 16) >> _HASH_SHIFT for one in trace.prefix_hashes],
            }
            lines.append(msgspec.json.encode(line) + b"\n")
        return b"".join(lines)

    def end(self) -> bytes:
        return b""


FORMATS: Final[Mapping[str, Callable[[], Format]]] = {
    "ndjson": Ndjson,
    "csv": RequestsCsv,
    "decisions-csv": DecisionsCsv,
    "mooncake": Mooncake,
    "perfetto": Perfetto,
}
