"""No record is larger than 32 KiB: its attempts and its receipt give way, the outcome never.

`trimmed` in the trace says that something is missing. What goes, in this order and only as far as
needed: candidates beyond the best eight, attempts between the first and the last ones, long error
messages of attempts, prefix hashes, and then all detail. Texts of the row are cut where they alone
are too long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, TypeVar

import msgspec

from tracking.trace import Attempt, Decision, Trace, TraceDetail

LARGEST_RECORD: Final = 32 << 10
LARGEST_ROW: Final = 8 << 10
TEXT: Final = 256  # characters of each text of a row that is too large
MESSAGE: Final = 200
CANDIDATES: Final = 8
FIRST_ATTEMPTS: Final = 2
LAST_ATTEMPTS: Final = 6

Encode = Callable[[object], bytes]
S = TypeVar("S", bound=msgspec.Struct)


def fitted(trace: Trace, detail: TraceDetail, encode: Encode) -> tuple[bytes, bytes]:
    """Row and detail of a record that is too large as it is. The arguments stay as they are."""
    trace = msgspec.structs.replace(trace, trimmed=True)
    row = encode(trace)
    if len(row) > LARGEST_ROW:
        row = encode(_with_short_texts(trace))
    encoded = b"{}"
    for smaller in _smaller_and_smaller(detail):
        encoded = encode(smaller)
        if len(row) + len(encoded) <= LARGEST_RECORD:
            break
    return row, encoded


def _smaller_and_smaller(detail: TraceDetail) -> Iterator[TraceDetail]:
    yield detail
    detail = msgspec.structs.replace(
        detail,
        decision=_with_few_candidates(detail.decision),
        prefill_decision=_with_few_candidates(detail.prefill_decision),
    )
    yield detail
    if len(detail.attempts) > FIRST_ATTEMPTS + LAST_ATTEMPTS:
        some = detail.attempts[:FIRST_ATTEMPTS] + detail.attempts[-LAST_ATTEMPTS:]
        detail = msgspec.structs.replace(detail, attempts=some)
        yield detail
    detail = msgspec.structs.replace(detail, attempts=[*map(_with_short_error, detail.attempts)])
    yield detail
    detail = msgspec.structs.replace(detail, prefix_hashes=[])
    yield detail
    yield TraceDetail()


def _with_few_candidates(decision: Decision | None) -> Decision | None:
    if decision is None:
        return None
    return msgspec.structs.replace(decision, candidates=decision.candidates[:CANDIDATES])


def _with_short_error(attempt: Attempt) -> Attempt:
    if attempt.error is None or len(attempt.error.message) <= MESSAGE:
        return attempt
    error = msgspec.structs.replace(attempt.error, message=attempt.error.message[:MESSAGE])
    return msgspec.structs.replace(attempt, error=error)


def _with_short_texts(struct: S) -> S:
    short: dict[str, object] = {}
    for name in struct.__struct_fields__:
        value = getattr(struct, name)
        if isinstance(value, str):
            short[name] = value[:TEXT]
        elif isinstance(value, msgspec.Struct):
            short[name] = _with_short_texts(value)
    return msgspec.structs.replace(struct, **short)
