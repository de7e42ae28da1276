"""What a request becomes where one worker does its prefill and another one its decode.

* SGLang (`sglang`): both get the same body at the same time, with a meeting point of ours: the
  prefill worker's host and bootstrap port, and the number of a room. The decode worker fetches the
  cache from there. Names and batches as sglang-router has them (`routers/http/pd_router.rs`).
* vLLM (`vllm`): the prefill worker is asked first, for one token. Its answer says where the cache
  lies (`kv_transfer_params`), and that is handed to the decode worker with the request itself (as
  in vLLM's NIXL proxy and vllm-router's `vllm_pd_router.rs`).

What we add stands behind what the client said: workers' JSON readers take the last of two values.
Where a name of ours is there already the body is written anew without it, so that no reader can
take the client's for ours. All other values stay byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from random import Random
from typing import Final, Literal

import msgspec

from router.core.facts import BadBody

PdProtocol = Literal["sglang", "vllm"]

# Requests that are split; what else there is can be answered by a prefill worker, or not at all.
SPLIT: Final[Mapping[PdProtocol, frozenset[str]]] = {
    "sglang": frozenset(("/generate", "/v1/chat/completions", "/v1/completions", "/v1/responses")),
    "vllm": frozenset(("/v1/chat/completions", "/v1/completions")),
}
NOT_GENERATING: Final = frozenset(("/tokenize", "/detokenize", "/v1/tokenize", "/v1/detokenize"))

WHITE_SPACE: Final = b" \t\r\n"
ROOM_BITS: Final = 63
LARGEST_BATCH: Final = 1 << 16  # rooms of one request
REMOTE_DECODE: Final = msgspec.Raw(
    b'{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,'
    b'"remote_block_ids":null,"remote_host":null,"remote_port":null}'
)
TRANSFER_TROUBLE: Final = re.compile(
    "KVTransferError|(bootstrap|handshake|transfer) failed", re.IGNORECASE
)
PARAMS: Final = "kv_transfer_params"

Fields = dict[str, msgspec.Raw]
_decode_fields: Final = msgspec.json.Decoder(Fields).decode


class _Transfer(msgspec.Struct):
    """The part of a prefill worker's answer that the decode worker is handed."""

    kv_transfer_params: msgspec.Raw = msgspec.Raw(b"null")


_decode_transfer: Final = msgspec.json.Decoder(_Transfer).decode


def check(body: bytes, sequences: int) -> None:
    """Raises BadBody for a body, known to be JSON, that cannot be given a meeting point."""
    if body.rstrip(WHITE_SPACE)[-1:] != b"}":
        raise BadBody("the body is not a JSON object")
    if sequences > LARGEST_BATCH:
        raise BadBody(f"more than {LARGEST_BATCH} answers are asked for at once")


def meeting(
    host: str,
    port: int | None,
    sequences: int,
    random: Random,
    rank: tuple[int, int] | None = None,
) -> dict[str, bytes]:
    """Where an SGLang pair meets: JSON values by field.

    Each of several `sequences` (prompts times `n`) has a room of its own; SGLang takes as many of a
    list as it needs. `port` None leaves it to the engine. `rank`, of how many, is the data-parallel
    rank that does the prefill: SGLang finds it by the room's number, modulo the number of ranks.
    """
    rooms = [random.getrandbits(ROOM_BITS) for _ in range(sequences)]
    if rank is not None:
        number, of = rank
        rooms = [room // 2 // of * of + number for room in rooms]  # below 63 bits all the same
    encode = msgspec.json.encode
    if sequences == 1:
        values = encode(host), encode(port), encode(rooms[0])
    else:
        values = encode([host] * sequences), encode([port] * sequences), encode(rooms)
    return dict(zip(("bootstrap_host", "bootstrap_port", "bootstrap_room"), values, strict=True))


def with_fields(body: bytes, added: Mapping[str, bytes]) -> bytes:
    """`body`, which is known to be JSON, with these fields, given as JSON.

    Raises BadBody for what is no object.
    """
    if any(name.encode() in body for name in added):
        new = {name: msgspec.Raw(value) for name, value in added.items()}
        return _rewritten(body, lambda fields: fields.update(new))
    whole = body.rstrip(WHITE_SPACE)
    if whole[-1:] != b"}":
        raise BadBody("the body is not a JSON object")
    inside = whole[:-1].rstrip(WHITE_SPACE)
    comma = b"" if inside.endswith(b"{") else b","
    more = b",".join(b'"%b":%b' % (name.encode(), value) for name, value in added.items())
    return b"%b%b%b}" % (inside, comma, more)


def for_prefill(body: bytes) -> bytes:
    """What a vLLM prefill worker is asked: the same for one token, at once. Raises BadBody."""

    def change(fields: Fields) -> None:
        for name in ("stream_options", "min_tokens"):
            fields.pop(name, None)  # not allowed without a stream, or beyond the one token
        if "max_completion_tokens" in fields:
            fields["max_completion_tokens"] = msgspec.Raw(b"1")
        fields["max_tokens"] = msgspec.Raw(b"1")
        fields["stream"] = msgspec.Raw(b"false")
        fields[PARAMS] = REMOTE_DECODE

    return _rewritten(body, change)


def for_decode(body: bytes, prefilled: bytes) -> bytes:
    """What a vLLM decode worker is asked, after the prefill worker's answer `prefilled`.

    Where that says nothing of a transfer (some connectors find the cache by themselves) it is what
    the client said. Raises BadBody.
    """
    try:
        params = _decode_transfer(prefilled).kv_transfer_params
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        params = msgspec.Raw(b"null")
    if bytes(params) != b"null":
        return with_fields(body, {PARAMS: bytes(params)})
    if PARAMS.encode() in body:  # hosts to fetch from are not for clients to name
        return _rewritten(body, lambda fields: fields.pop(PARAMS, None))
    return body


def is_transfer_trouble(said: str) -> bool:
    """Is this an SGLang worker's complaint about the other one, or the way there?"""
    return TRANSFER_TROUBLE.search(said) is not None


def _rewritten(body: bytes, change: Callable[[Fields], object]) -> bytes:
    try:
        fields = _decode_fields(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadBody(f"the body is not a strict JSON object: {error}") from None
    change(fields)
    return msgspec.json.encode(fields)


def wants_input_logprobs(body: bytes) -> bool:
    """Is `return_logprob` asked for, for one prompt at least?"""
    if b"return_logprob" not in body:
        return False
    try:
        wanted = msgspec.json.decode(body, type=_Wanted).return_logprob
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return wanted is True or (isinstance(wanted, Collection) and True in wanted)


class _Wanted(msgspec.Struct):
    return_logprob: object = None
