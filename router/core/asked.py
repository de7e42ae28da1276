"""What the headers of a request ask of the router itself, whatever its body says.

Worked out once for all requests whose heads are known to be alike (`router/api/known_head.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from router.core.ids import WHITESPACE, identifier, label, printable

ROUTING_KEY_BYTES: Final = 128


class Asked:
    """See the module. `headers` is asked for lower-case names.

    `readable`: the body may be JSON; `json`: it is said to be, or nothing is said; `form`: it is a form.
    `trailers`: the client takes some. The others are None where they are not given, or not acceptable.
    """

    __slots__ = (
        "form",
        "json",
        "readable",
        "routing_key",
        "session_id",
        "target_worker",
        "trace_label",
        "traceparent",
        "trailers",
    )

    def __init__(self, headers: Mapping[str, str]) -> None:
        given = headers.get
        kind = given("content-type", "")
        if kind != "application/json":
            kind = kind.partition(";")[0].strip().lower()
        self.form = kind.startswith("multipart/")
        self.json = not kind or kind.endswith("json")
        self.readable = not self.form and "content-encoding" not in headers
        self.routing_key = _routing_key(given("x-smg-routing-key", "").strip(WHITESPACE))
        self.session_id = identifier(given("x-session-id", "").strip(WHITESPACE))
        self.target_worker = identifier(given("x-smg-target-worker", "").strip(WHITESPACE))
        self.trace_label = label(given("x-trace-label"))
        self.traceparent = given("traceparent")
        self.trailers = "trailers" in given("te", "")


def _routing_key(given: str) -> str | None:
    key = printable(given, ROUTING_KEY_BYTES)
    return key if key is not None and len(key.encode()) <= ROUTING_KEY_BYTES else None
