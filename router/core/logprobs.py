"""The logprobs of the input, which the prefill worker knows, put before those of the decode worker.

SGLang's `/generate` with `return_logprob`: `meta_info.input_token_logprobs`, in a body, in each body
of a batch, and in each event of a stream (with `index` where there are several prompts). Everything
else stays as the decode worker said it. What cannot be read stays as it is.
"""

from __future__ import annotations

from typing import Final

import msgspec

EVENT_END: Final = b"\n\n"
DATA: Final = b"data: "
NAME: Final = "input_token_logprobs"

Fields = dict[str, msgspec.Raw]
Items = list[msgspec.Raw]
ERRORS: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_decode_fields: Final = msgspec.json.Decoder(Fields).decode
_decode_items: Final = msgspec.json.Decoder(Items).decode


class InputLogprobs:
    """Of one prefill: read from its whole answer, `stream` or body."""

    def __init__(self, answer: bytes, *, stream: bool) -> None:
        self._known: dict[int, Items] = {}
        if stream:
            for event in answer.split(EVENT_END):
                if event.startswith(DATA):
                    self._learn(event[len(DATA) :])
        else:
            for place, one in enumerate(_bodies(answer) or [answer]):
                self._learn(one, place)

    def __bool__(self) -> bool:
        return bool(self._known)

    def _learn(self, answer: bytes | msgspec.Raw, place: int | None = None) -> None:
        fields = _fields(answer)
        meta = _fields(fields.get("meta_info", b""))
        items = _items(meta.get(NAME, b""))
        if items is not None:
            self._known[_index(fields) if place is None else place] = items

    def body(self, answer: bytes) -> bytes:
        """A decode worker's whole body, with what we know."""
        bodies = _bodies(answer)
        if bodies is None:
            return self._merged(answer, 0)
        merged = [msgspec.Raw(self._merged(bytes(one), n)) for n, one in enumerate(bodies)]
        return msgspec.json.encode(merged)

    def event(self, event: bytes) -> bytes:
        """One event of its stream, without the empty line behind it."""
        if not event.startswith(DATA):
            return event
        data = event[len(DATA) :]
        return DATA + self._merged(data, _index(_fields(data)))

    def _merged(self, answer: bytes, place: int) -> bytes:
        ours = self._known.get(place)
        fields = _fields(answer)
        meta = _fields(fields.get("meta_info", b""))
        theirs = _items(meta.get(NAME, b""))
        if ours is None or theirs is None:
            return answer
        meta[NAME] = msgspec.Raw(msgspec.json.encode(ours + theirs))
        fields["meta_info"] = msgspec.Raw(msgspec.json.encode(meta))
        return msgspec.json.encode(fields)


def _fields(data: bytes | msgspec.Raw) -> Fields:
    try:
        return _decode_fields(data) if data else {}
    except ERRORS:
        return {}


def _items(data: bytes | msgspec.Raw) -> Items | None:
    try:
        return _decode_items(data) if data else None
    except ERRORS:
        return None


def _bodies(answer: bytes) -> Items | None:
    """The answers to a batch; None for what is none."""
    return _items(answer) if answer.lstrip()[:1] == b"[" else None


def _index(fields: Fields) -> int:
    index = bytes(fields.get("index", b"0"))
    return int(index) if index.isdigit() else 0
