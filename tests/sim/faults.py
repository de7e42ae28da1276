"""The misbehaviours as data, and which request each one hits.

A fault comes from the command line (`--fault`), from `POST /_sim/faults` (which replaces all), or
with one request: in the body field `sim` or the header `x-sim-fault`. It is written as a name
(`hang`), as a name with settings (`status:status=503,retry_after=1`), or as a JSON object
(`{"kind": "cut", "after_events": 3}`).
"""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal[
    # nothing comes
    "refuse",  # stop listening and close idle connections, until the faults are replaced
    "no_read",  # never read the request body; with `status` > 0 answer it nevertheless
    "hang",  # no byte of an answer, for `seconds` or until the client leaves
    "hang_after",  # head and the first part of the body, then as `hang`
    # too little comes
    "cut_before_head",
    "cut_mid_head",
    "cut",  # head and the first part of the body
    "polite_abort",  # 200, `after_events` tokens, finish_reason abort, [DONE]
    "error_frame",  # `after_events` tokens, an error frame, [DONE]; not streamed: a 500
    # something else comes
    "status",  # `status`, with `retry_after`, in SGLang's error shape
    "garbage_head",
    "conflicting_lengths",  # two different Content-Length
    "length_and_chunked",  # Content-Length and Transfer-Encoding
    "oversize_headers",  # one header of `bytes`
    "huge_body",  # a JSON body of `bytes`
    # it comes in an unusual way
    "drip",  # `after_bytes` (1) at a time, `seconds` (0.01) apart
    "interim",  # 100 and 103 before the head
    "trailers",  # chunked, with a trailer field
    "http10",  # HTTP/1.0, ended by the close
    "connection_close",  # says `Connection: close` and does it
    "close_silently",  # closes after the answer without having said so
    "idle_close",  # closes a connection that was idle for `seconds`
]
PER_WORKER: frozenset[Kind] = frozenset({"refuse", "idle_close"})


class FaultError(ValueError):
    """A fault that cannot be understood. The message says why."""


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One misbehaviour.

    `paths` are the paths it hits, `*` all of them; by default the inference routes. `every` hits
    each n-th of these requests, `times` ends it after so many hits. The "first part of the body"
    is `after_bytes` bytes, else `after_events` pieces of a stream, else half of a JSON body.
    """

    kind: Kind
    paths: tuple[str, ...] = ()
    every: int = 1
    times: int | None = None
    seconds: float | None = None
    status: int = 0
    retry_after: str | None = None
    message: str = "Simulated failure."
    after_bytes: int | None = None
    after_events: int = 1
    bytes: int = 1 << 18
    reset: bool = False
    """End a cut with RST instead of FIN."""
    chunked: bool = False
    """Frame a JSON answer in chunks instead of by its length."""

    def hits(self, path: str, *, inference: bool) -> bool:
        return path in self.paths or "*" in self.paths or (inference and not self.paths)


def parse_fault(spec: object) -> Fault:
    """A fault from any of its spellings. Raises FaultError."""
    try:
        if isinstance(spec, str) and not spec.lstrip().startswith("{"):
            kind, _, settings = spec.partition(":")
            pairs = dict(part.split("=", 1) for part in settings.split(",") if part)
            return msgspec.convert({"kind": kind, **pairs}, Fault, strict=False)
        if isinstance(spec, str):
            return msgspec.json.decode(spec, type=Fault)
        return msgspec.convert(spec, Fault)
    except (msgspec.MsgspecError, ValueError) as error:
        raise FaultError(f"fault {spec!r}: {error}") from None


class FaultBoard:
    """The faults in force for the whole worker."""

    def __init__(self, faults: list[Fault]) -> None:
        self._seen: dict[int, int] = {}
        self.replace(faults)

    def replace(self, faults: list[Fault]) -> None:
        self.faults = faults
        self._seen.clear()

    @property
    def refusing(self) -> bool:
        return any(fault.kind == "refuse" for fault in self.faults)

    @property
    def idle_close_seconds(self) -> float | None:
        return next((f.seconds for f in self.faults if f.kind == "idle_close"), None)

    def take(self, path: str, *, inference: bool) -> Fault | None:
        """The fault that hits this request; the first in the list that does. Counts the hit."""
        for number, fault in enumerate(self.faults):
            if fault.kind in PER_WORKER or not fault.hits(path, inference=inference):
                continue
            seen = self._seen[number] = self._seen.get(number, 0) + 1
            if seen % fault.every:
                continue
            if fault.times is None or seen // fault.every <= fault.times:
                return fault
        return None
