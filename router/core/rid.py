"""Adding an id of ours to a request's body, without taking the body apart."""

from __future__ import annotations

from typing import Final

WHITE_SPACE: Final = b" \t\r\n"
TAKES_RID: Final = frozenset(("/generate", "/v1/chat/completions"))


def with_rid(body: bytes, rid: str) -> bytes | None:
    """`body` with `"rid": rid` in front; None for no JSON object, or one that may have a rid.

    Everything else stays byte for byte. `rid` needs no escaping. One that is hidden in the text of
    the prompt also counts as "may have": then nothing is added, and nothing is lost but the abort.
    """
    start = len(body) - len(body.lstrip(WHITE_SPACE))
    if body[start : start + 1] != b"{" or b'"rid"' in body:
        return None
    rest = body[start + 1 :]
    comma = b"" if rest.lstrip(WHITE_SPACE)[:1] == b"}" else b","
    return b'%b{"rid":"%b"%b%b' % (body[:start], rid.encode(), comma, rest)
