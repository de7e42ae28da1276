"""Adding an id of ours to a request's body, without taking the body apart."""

from __future__ import annotations

from typing import Final

from router.core.splice import in_front

TAKES_RID: Final = frozenset(("/generate", "/v1/chat/completions"))


def with_rid(body: bytes, rid: str) -> bytes | None:
    """`body` with `"rid": rid` in front; None for no JSON object, or one that may have a rid.

    Everything else stays byte for byte. `rid` needs no escaping. One that is hidden in the text of
    the prompt also counts as "may have": then nothing is added, and nothing is lost but the abort.
    """
    if b'"rid"' in body:
        return None
    return in_front(body, b"rid", b'"%b"' % rid.encode())
