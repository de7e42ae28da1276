"""W3C trace context, and which requests are told to OpenTelemetry. The part that is on a request's path.

A request's own span gets its id when the request arrives, and each attempt's is derived from it, so that
nothing but the finished trace is needed to tell all of them afterwards (`router/telemetry/export.py`).
What samplers are named, and that they decide by the low half of the trace id, is OpenTelemetry's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from router.core.ids import w3c_trace_id

RawHeaders = Sequence[tuple[bytes, bytes]]

STEP: Final = 0x9E3779B97F4A7C15  # odd, so that no two attempts of a request share an id
LOW: Final = (1 << 64) - 1
SAMPLED: Final = 1
CONTEXT: Final = frozenset((b"traceparent", b"tracestate"))


class SpanIds(msgspec.Struct, frozen=True, gc=False):
    """The span of one request: lower-case hex as in headers. `parent_id` is the client's, if any."""

    trace_id: str
    span_id: str
    parent_id: str | None
    sampled: bool

    def attempt_id(self, number: int) -> str:
        """Of the attempt with this number, counted from 1."""
        return "%016x" % ((int(self.span_id, 16) ^ number * STEP & LOW) or number)

    def traceparent(self, number: int) -> bytes:
        """What the worker of that attempt is told: it is the parent of what happens there."""
        span_id = self.attempt_id(number)
        return b"00-%b-%b-%02x" % (self.trace_id.encode(), span_id.encode(), self.sampled)

    def headers(self, raw: RawHeaders, number: int) -> RawHeaders:
        """The client's headers with our context in the place of its own. What else it says of its trace
        goes along only where we go on with that trace."""
        gone = CONTEXT if self.parent_id is None else CONTEXT - {b"tracestate"}
        kept = [header for header in raw if header[0].lower() not in gone]
        return [*kept, (b"traceparent", self.traceparent(number))]


class Sampler:
    """`OTEL_TRACES_SAMPLER` and its argument. Raises ValueError for what is none."""

    def __init__(self, name: str = "parentbased_always_on", argument: str = "") -> None:
        root = name.removeprefix("parentbased_")
        self._follows = root != name
        ratio = 1.0
        if root == "traceidratio":
            ratio = float(argument or 1.0)
        elif root != "always_on":
            ratio = 0.0
        if root not in ("always_on", "always_off", "traceidratio") or not 0 <= ratio <= 1:
            raise ValueError(f"OTEL_TRACES_SAMPLER: {name!r} with {argument!r} is not known")
        self._bound = round(ratio * (1 << 64))

    def sampled(self, trace_id: str, parent: bool | None) -> bool:
        """`parent`: whether the client's span is sampled; None without one."""
        if self._follows and parent is not None:
            return parent
        return int(trace_id[16:], 16) < self._bound


def sampler_of(environ: Mapping[str, str]) -> Sampler:
    """What the standard variables ask for. Raises ValueError."""
    name = environ.get("OTEL_TRACES_SAMPLER", "").strip() or "parentbased_always_on"
    return Sampler(name, environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip())


class Spans:
    """Gives each request its ids."""

    def __init__(self, sampler: Sampler, random_bits: Callable[[int], int]) -> None:
        self._sampler = sampler
        self._random_bits = random_bits

    def begin(self, traceparent: str) -> SpanIds:
        """Of a request with this header."""
        given = traceparent.strip()
        trace_id = w3c_trace_id(given)
        parent_id = parent = None
        if trace_id is None:
            trace_id = "%032x" % (self._random_bits(128) or 1)
        else:
            parent_id, parent = given[36:52], bool(int(given[53:55], 16) & SAMPLED)
        span_id = "%016x" % (self._random_bits(64) or 1)
        return SpanIds(trace_id, span_id, parent_id, self._sampler.sampled(trace_id, parent))
