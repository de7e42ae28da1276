"""The few facts the router needs from a request. The body itself is never changed.

A body is read leniently: a field of an unexpected type costs the facts it would have given and
nothing else, because the worker is the judge of requests. Only what cannot be JSON at all is
refused, and only where JSON is due.

The text a request is routed by is what the model will see first to last, without roles, tools and
images. Only its hashes are kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

import msgspec

from router.core.asked import Asked
from router.core.blocks import block_hashes
from router.core.ids import identifier, printable
from router.core.model_names import form_model

MODEL_CHARACTERS: Final = 256
LARGEST_COUNT: Final = 2**31  # of tokens or sequences; more is not meant
BYTES_PER_TOKEN: Final = 4  # the usual rule of thumb for English and code


class BadBody(ValueError):
    """A body that must be a JSON object and is none. The message may be shown to the client."""


class RequestFacts:
    """What policies and traces may know of a request.

    `blocks` are the chained hashes of the text it is routed by and `text_bytes` that text's
    length; `input_tokens` is an estimate, 0 when nothing is known. `sequences` is how many answers
    are asked for in one request: prompts times `n`. `served_model` is what `model` stands for where
    it is an alias.
    """

    __slots__ = (
        "blocks",
        "engine_request_id",
        "input_tokens",
        "max_tokens",
        "model",
        "route",
        "routing_key",
        "sequences",
        "served_model",
        "session_id",
        "stream",
        "target_worker",
        "text_bytes",
    )

    def __init__(
        self,
        route: str,
        model: str | None = None,
        served_model: str | None = None,
        stream: bool = False,
        blocks: list[int] | None = None,
        text_bytes: int = 0,
        input_tokens: int = 0,
        max_tokens: int | None = None,
        sequences: int = 1,
        engine_request_id: str | None = None,
        session_id: str | None = None,
        routing_key: str | None = None,
        target_worker: str | None = None,
    ) -> None:
        self.route = route
        self.model = model
        self.served_model = served_model
        self.stream = stream
        self.blocks = [] if blocks is None else blocks
        self.text_bytes = text_bytes
        self.input_tokens = input_tokens
        self.max_tokens = max_tokens
        self.sequences = sequences
        self.engine_request_id = engine_request_id
        self.session_id = session_id
        self.routing_key = routing_key
        self.target_worker = target_worker


class Message(msgspec.Struct, gc=False):
    """The fields of a message with text in them."""

    content: object = None
    reasoning_content: object = None
    arguments: object = None
    output: object = None


Messages = list[Message | str]


class Body(msgspec.Struct, gc=False):
    """The fields that are read, over all routes, in about the order they are sent in: the next one
    is then found soonest. `object`: any type is accepted here."""

    model: object = None
    messages: Messages | None = None
    prompt: object = None
    text: object = None
    input: object = None
    input_ids: msgspec.Raw = msgspec.Raw(b"")
    max_tokens: object = None
    stream: object = None
    n: object = None
    max_completion_tokens: object = None
    max_output_tokens: object = None
    sampling_params: object = None
    session_params: object = None
    rid: object = None
    system: object = None
    instructions: object = None
    query: object = None


_decode: Final = msgspec.json.Decoder(Body).decode
_FIELDS: Final = frozenset(Body.__struct_fields__) - {"input_ids", "messages"}
_NO_BODY: Final = Body()

# `[1, 2, 3]` becomes `1 2 3` without making a number of any of them.
_COMMA_TO_SPACE: Final = bytes.maketrans(b",", b" ")
_BRACKETS_AND_SPACE: Final = b"[] \t\r\n"


def read_facts(
    route: str,
    body: bytes,
    asked: Asked,
    aliases: Mapping[str, str] | None = None,
) -> RequestFacts:
    """The facts of a request with a body, sent to the path `route`.

    Raises BadBody when `route` is one of `JSON_ROUTES` and the body says or leaves open that it is
    JSON, and is not a JSON object. Any other body (multipart, compressed, another content type, an
    unknown path) is opaque if it cannot be read.
    `aliases` of models are given where requests are routed by model; then a form is asked, too.
    """
    fields = _NO_BODY
    text_of = JSON_ROUTES.get(route)
    if asked.readable:
        try:
            fields = parse(body)
        except BadBody:
            # curl -d says x-www-form-urlencoded and means JSON; others may mean what they say.
            if text_of is not None and asked.json:
                raise
    model = printable(fields.model, MODEL_CHARACTERS)
    served = None
    if aliases is not None:
        if asked.form:
            model = printable(form_model(body), MODEL_CHARACTERS)
        served = aliases.get(model or "")
    text = b"" if text_of is None or fields is _NO_BODY else text_of(fields)
    ids, params = _token_ids(fields), fields.sampling_params
    sampling = params if isinstance(params, dict) else None
    return RequestFacts(
        route,
        model,
        served,
        fields.stream is True,
        block_hashes(text, served or model) if text else [],
        len(text),
        _input_tokens(text, ids),
        _max_tokens(fields, sampling),
        _sequences(fields, sampling, ids),
        None if fields.rid is None else identifier(fields.rid),
        asked.session_id or _session(fields.session_params),
        asked.routing_key,
        asked.target_worker,
    )


def parse(body: bytes) -> Body:
    """The fields of a JSON object. Raises BadBody for anything else."""
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _parse_anything(body)
    except RecursionError:
        raise BadBody("the body is nested too deeply") from None


def _parse_anything(body: bytes) -> Body:
    """What Python workers accept beyond strict JSON: lone surrogates, NaN, a BOM, huge numbers.
    And fields that are not what they should be."""
    if not body.strip():
        raise BadBody("the body is empty; expected a JSON object")
    try:
        fields = json.loads(body, parse_int=_any_int)
    except RecursionError:
        raise BadBody("the body is nested too deeply") from None
    except ValueError as error:
        raise BadBody(f"the body is not valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise BadBody("the body is not a JSON object")
    known = Body(**{name: value for name, value in fields.items() if name in _FIELDS})
    known.messages = _messages(fields.get("messages"))
    if isinstance(fields.get("input_ids"), list):
        known.input_ids = msgspec.Raw(json.dumps(fields["input_ids"]).encode())
    return known


def _any_int(digits: str) -> int | None:
    return int(digits) if len(digits) < 20 else None


# -- the text of each route ----------------------------------------------------------------------


def _chat(body: Body) -> bytes:
    texts: list[str] = []
    if body.system is not None:
        _say(body.system, texts)
    _say_all(body.messages, texts)
    return _bytes(texts)


def _say_all(messages: Messages | None, texts: list[str]) -> None:
    for message in messages or ():
        if isinstance(message, str):
            texts.append(message)
            continue
        content = message.content
        if isinstance(content, str):
            texts.append(content)
        elif content is not None:
            _say(content, texts)
        if message.reasoning_content is not None:
            _say(message.reasoning_content, texts)
        if message.arguments is not None:
            _say(message.arguments, texts)
        if message.output is not None:
            _say(message.output, texts)


def _messages(messages: object) -> Messages:
    """Those of a list that are messages or strings."""
    return [
        Message(*map(message.get, Message.__struct_fields__))
        if isinstance(message, dict)
        else message
        for message in (messages if isinstance(messages, list) else ())
        if isinstance(message, dict | str)
    ]


def _say(content: object, texts: list[str]) -> None:
    """A string, or the text parts of a list."""
    if isinstance(content, str):
        texts.append(content)
    elif isinstance(content, list):
        for part in content:
            if isinstance(part, str):
                texts.append(part)
            elif isinstance(part, dict) and isinstance(text := part.get("text"), str):
                texts.append(text)


def _completions(body: Body) -> bytes:
    return _bytes(_prompts(body.prompt))


def _generate(body: Body) -> bytes:
    if body.text is not None:
        return _bytes(_prompts(body.text))
    return _token_ids(body).translate(_COMMA_TO_SPACE, _BRACKETS_AND_SPACE)


def _input(body: Body) -> bytes:
    return _bytes(_prompts(body.input if body.input is not None else body.text))


def _responses(body: Body) -> bytes:
    texts: list[str] = []
    _say(body.instructions, texts)
    if isinstance(body.input, str):
        texts.append(body.input)
    else:
        _say_all(_messages(body.input), texts)
    return _bytes(texts)


def _rerank(body: Body) -> bytes:
    texts: list[str] = []
    _say(body.query, texts)
    return _bytes(texts)


def _prompts(prompt: object) -> Iterator[str]:
    """A string, strings, token ids, or lists of these."""
    if isinstance(prompt, str):
        yield prompt
    elif isinstance(prompt, list):
        for item in prompt:
            if isinstance(item, list):
                yield from (str(token) for token in item if isinstance(token, int))
            elif isinstance(item, str | int):
                yield str(item)


def _bytes(parts: Iterable[str]) -> bytes:
    return " ".join([part for part in parts if part]).encode("utf-8", "surrogatepass")


JSON_ROUTES: Final[dict[str, Callable[[Body], bytes]]] = {
    "/generate": _generate,
    "/v1/chat/completions": _chat,
    "/v1/completions": _completions,
    "/v1/responses": _responses,
    "/v1/messages": _chat,
    "/v1/embeddings": _input,
    "/v1/classify": _input,
    "/classify": _input,
    "/v1/rerank": _rerank,
    "/rerank": _rerank,
}


# -- single facts --------------------------------------------------------------------------------


def _session(params: object) -> str | None:
    return identifier(params.get("id")) if isinstance(params, dict) else None


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 < value < LARGEST_COUNT else None


def _token_ids(body: Body) -> bytes:
    """The prompt's, or prompts', as they were sent; empty where there is a text, or no list."""
    if body.text is not None or not len(body.input_ids):
        return b""
    ids = bytes(body.input_ids)
    return ids if ids.startswith(b"[") else b""


def _input_tokens(text: bytes, ids: bytes) -> int:
    if ids:
        return text.count(b" ") + 1 if text else 0
    return -(-len(text) // BYTES_PER_TOKEN)


def _max_tokens(body: Body, sampling: dict[str, object] | None) -> int | None:
    if sampling is not None:
        return _count(sampling.get("max_new_tokens"))
    return (
        _count(body.max_completion_tokens)
        or _count(body.max_tokens)
        or _count(body.max_output_tokens)
    )


def _sequences(body: Body, sampling: dict[str, object] | None, ids: bytes) -> int:
    prompts = _texts(body.text) or _texts(body.prompt) or 1
    if ids:
        prompts = max(1, ids.count(b"[") - 1)
    n = _count(body.n if sampling is None else sampling.get("n"))
    return prompts * (n or 1)


def _texts(prompt: object) -> int:
    """How many there are in a list; 0 of anything else, and of a list of token ids."""
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        return len(prompt)
    return 0
