"""The shapes of answers, and the facts in one of them.

Known are SGLang (`meta_info`), the OpenAI API (`usage`, `choices`, Responses objects and the events
that wrap them), Anthropic's messages and their events, error objects of both, and llama.cpp's `timings`. Engines and
versions differ, so every field may have any type: what is not understood costs that field and nothing
else.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeVar, get_args

import msgspec

from tracking.trace import EngineReport

LARGEST_NUMBER: Final = 2**53  # what JSON readers take exactly
LABEL_CHARACTERS: Final = 128
MESSAGE_CHARACTERS: Final = 500
ABORT: Final = "abort"
MESSAGE_START: Final = "message_start"  # Anthropic's first event: input tokens are in it alone

Tokens = Annotated[int, msgspec.Meta(ge=0, lt=LARGEST_NUMBER)] | None
Measure = Annotated[float, msgspec.Meta(ge=0, lt=LARGEST_NUMBER)] | None

S = TypeVar("S", bound=msgspec.Struct)


class AnswerFacts:
    """What an answer said. `events` counts the data events of a stream, without `[DONE]`.

    `error` is the message of an error object, in the body or as an event. `aborted` says that the
    worker gave up: `finish_reason: "abort"`, or an error object in an answer that began well.
    """

    __slots__ = (
        "aborted",
        "cached_tokens",
        "done_seen",
        "engine",
        "engine_request_id",
        "error",
        "events",
        "input_tokens",
        "output_tokens",
    )

    def __init__(
        self,
        engine_request_id: str | None = None,
        error: str | None = None,
        *,
        aborted: bool = False,
    ) -> None:
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.engine_request_id = engine_request_id
        self.engine: EngineReport | None = None
        self.error = error
        self.aborted = aborted
        self.done_seen = False
        self.events = 0

    @property
    def finish_reason(self) -> str | None:
        return None if self.engine is None else self.engine.finish_reason

    def abort_message(self, status: int) -> str | None:
        """Why an answer that ended in due form is not complete all the same; None if it is.

        `status` is the worker's. Only these are politely broken: an answer below 400 that says
        "abort" or carries an error object. A stream without `[DONE]` and without a finish reason
        is complete when its HTTP framing is: several engines send neither on some routes, and a
        worker that dies breaks the framing.
        """
        if status >= 400 or not self.aborted:
            return None
        return self.error or "the worker aborted the request"


_ABSENT: Final = msgspec.Raw(b"")
_SILENT: Final = EngineReport()


class Details(msgspec.Struct, gc=False):
    cached_tokens: Tokens = None
    reasoning_tokens: Tokens = None


class Usage(msgspec.Struct, gc=False):
    prompt_tokens: Tokens = None
    completion_tokens: Tokens = None
    input_tokens: Tokens = None
    output_tokens: Tokens = None
    reasoning_tokens: Tokens = None
    prompt_tokens_details: Details | None = None
    completion_tokens_details: Details | None = None
    input_tokens_details: Details | None = None
    output_tokens_details: Details | None = None
    cache_read_input_tokens: Tokens = None
    cache_creation_input_tokens: Tokens = None


class AnswerChoice(msgspec.Struct, gc=False):
    finish_reason: object = None


class MetaInfo(msgspec.Struct, gc=False):
    id: object = None
    finish_reason: object = None
    prompt_tokens: Tokens = None
    completion_tokens: Tokens = None
    cached_tokens: Tokens = None
    reasoning_tokens: Tokens = None
    e2e_latency: Measure = None
    queue_time: Measure = None
    first_token_latency: Measure = None
    decode_throughput: Measure = None
    dp_rank: Tokens = None
    weight_version: object = None


class Delta(msgspec.Struct, gc=False):
    stop_reason: object = None


class Metadata(msgspec.Struct, gc=False):
    weight_version: object = None


class Timings(msgspec.Struct, gc=False):
    cache_n: Tokens = None
    prompt_n: Tokens = None
    prompt_ms: Measure = None
    predicted_n: Tokens = None
    predicted_ms: Measure = None
    predicted_per_second: Measure = None


class Answer(msgspec.Struct, gc=False):
    """A body or an event, of any engine on any route."""

    id: str | None = None
    kind: str | None = msgspec.field(name="object", default=None)
    choices: list[AnswerChoice] | None = None
    usage: Usage | None = None
    type: object = None
    index: object = None
    status: object = None
    error: object = None
    message: msgspec.Raw = _ABSENT
    delta: Delta | str | None = None
    stop_reason: object = None
    meta_info: MetaInfo | None = None
    metadata: Metadata | None = None
    timings: Timings | None = None
    response: msgspec.Raw = _ABSENT


_decode_answer: Final = msgspec.json.Decoder(Answer).decode
_decode_answers: Final = msgspec.json.Decoder(list[Answer]).decode
_decode_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_array: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_any: Final = msgspec.json.Decoder().decode
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def parse_answer(data: bytes) -> Answer | None:
    """None for what is no JSON object."""
    answer = _parse(data)
    if answer is not None and answer.choices is None:
        # Events of the Responses API wrap their object, and so does the first one of Anthropic's.
        inner = answer.message if answer.type == MESSAGE_START else answer.response
        if inner:
            return _parse(inner) or answer
    return answer


def _parse(data: bytes | msgspec.Raw) -> Answer | None:
    try:
        return _decode_answer(data)
    except msgspec.ValidationError:
        return in_parts(Answer, data)
    except _UNREADABLE:
        return None


def parse_answers(data: bytes) -> list[Answer]:
    """The items of a JSON array; none for anything else."""
    try:
        return _decode_answers(data)
    except msgspec.ValidationError:
        pass
    except _UNREADABLE:
        return []
    try:
        items = _decode_array(data)
    except _UNREADABLE:
        return []
    return [answer for item in items if (answer := in_parts(Answer, item)) is not None]


def in_parts(kind: type[S], data: bytes | msgspec.Raw) -> S | None:
    """What can be understood of an object whose fields are not all as they should be; None for
    what is no object."""
    try:
        said = _decode_object(data)
    except _UNREADABLE:
        return None
    parts: dict[str, object] = {}
    for field in msgspec.structs.fields(kind):
        if field.encode_name in said:
            part = said[field.encode_name]
            try:
                parts[field.name] = msgspec.json.decode(part, type=field.type)
            except _UNREADABLE:
                for inner in get_args(field.type):
                    if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
                        parts[field.name] = in_parts(inner, part)
    return kind(**parts)


def read_answer(answer: Answer) -> AnswerFacts:
    """The facts in one body or event. One with `choices` is of OpenAI's completions, and has nothing of
    what others have instead."""
    facts = AnswerFacts(_identifier(answer.id))
    choices = answer.choices
    report = EngineReport(_reason(answer) if choices is None else _worst_reason(choices))
    if (usage := answer.usage) is not None:
        _read_usage(usage, facts, report)
    if choices is None and (meta_info := answer.meta_info) is not None:
        _read_meta_info(meta_info, facts, report)
    if (metadata := answer.metadata) is not None:
        report.weight_version = _label(metadata.weight_version)
    if (timings := answer.timings) is not None:
        _read_timings(timings, facts, report)
    if error := answer.error:
        facts.error = _message(error)
    elif choices is None and (answer.kind == "error" or answer.type == "error"):
        facts.error = _message(_any(answer.message))
    reason = report.finish_reason
    facts.aborted = facts.error is not None or reason == ABORT
    if reason is not None or report != _SILENT:
        facts.engine = report
    return facts


def _worst_reason(choices: list[AnswerChoice]) -> str | None:
    """Abort, where one of them says so; else what the last one says."""
    reason = None
    for choice in choices:
        if reason != ABORT:
            reason = _label(choice.finish_reason) or reason
    return reason


def _reason(answer: Answer) -> str | None:
    """Anthropic's, or how a Responses object stands."""
    if answer.kind == "response":
        status = answer.status
        if status not in ("queued", "in_progress"):
            return ABORT if status == "cancelled" else _label(status)
    if answer.type == "message_delta" and isinstance(answer.delta, Delta):
        return _label(answer.delta.stop_reason)
    return _label(answer.stop_reason)


def _any(data: msgspec.Raw) -> object:
    try:
        return _decode_any(data) if data else None
    except _UNREADABLE:
        return None


def _read_usage(usage: Usage, facts: AnswerFacts, report: EngineReport) -> None:
    """OpenAI: chat and completions say prompt and completion, responses say input and output.

    Anthropic's input tokens are those that were neither read from the cache nor written to it. Proxies
    name both also beside prompt tokens, which are all.
    """
    said, written = usage.prompt_tokens, usage.completion_tokens
    of_input, of_output = usage.prompt_tokens_details, usage.completion_tokens_details
    read: int | None = None
    if said is None and written is None:
        said, written = usage.input_tokens, usage.output_tokens
        of_input = of_input or usage.input_tokens_details
        of_output = of_output or usage.output_tokens_details
        read = usage.cache_read_input_tokens
    facts.cached_tokens = None if of_input is None else of_input.cached_tokens
    if said is not None and read is not None:
        facts.cached_tokens = read
        said += read + (usage.cache_creation_input_tokens or 0)
    facts.input_tokens, facts.output_tokens = said, written
    reasoning = usage.reasoning_tokens
    if reasoning is None and of_output is not None:
        reasoning = of_output.reasoning_tokens
    if reasoning is not None:
        report.reasoning_tokens = reasoning


def _read_meta_info(meta_info: MetaInfo, facts: AnswerFacts, report: EngineReport) -> None:
    facts.engine_request_id = _identifier(meta_info.id) or facts.engine_request_id
    facts.input_tokens = meta_info.prompt_tokens
    facts.output_tokens = meta_info.completion_tokens
    facts.cached_tokens = meta_info.cached_tokens
    reason = meta_info.finish_reason
    report.finish_reason = _label(_item(reason, "type") or reason)
    if report.finish_reason == ABORT and (message := _item(reason, "message")):
        facts.error = _message(message)
    report.reasoning_tokens = meta_info.reasoning_tokens
    report.e2e_latency = meta_info.e2e_latency
    report.queue_time = meta_info.queue_time
    report.first_token_latency = meta_info.first_token_latency
    report.decode_throughput = meta_info.decode_throughput
    report.dp_rank = meta_info.dp_rank
    report.weight_version = _label(meta_info.weight_version)


def _read_timings(timings: Timings, facts: AnswerFacts, report: EngineReport) -> None:
    """llama.cpp: `prompt_n` are the tokens that were computed, without those cached."""
    cached, computed = timings.cache_n, timings.prompt_n
    if facts.cached_tokens is None:
        facts.cached_tokens = cached
    if facts.input_tokens is None and computed is not None and cached is not None:
        facts.input_tokens = computed + cached
    if facts.output_tokens is None:
        facts.output_tokens = timings.predicted_n
    report.prefill_seconds = _seconds(timings.prompt_ms)
    report.decode_seconds = _seconds(timings.predicted_ms)
    report.decode_throughput = timings.predicted_per_second


# -- single values ---------------------------------------------------------------------------------


def _item(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, dict) else None


def count(value: object) -> int | None:
    """A number of tokens or an index; None for anything else."""
    return value if type(value) is int and 0 <= value < LARGEST_NUMBER else None


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds / 1000, 6)


def _label(value: object) -> str | None:
    if isinstance(value, str) and 0 < len(value) <= LABEL_CHARACTERS and value.isprintable():
        return value
    return None


def _identifier(value: object) -> str | None:
    label = _label(value)
    return label if label is not None and label.isascii() and " " not in label else None


def _message(error: object) -> str:
    """The text of an error object. Not empty, of one line, and not longer than a trace wants."""
    text = _item(error, "message") or error
    text = text if isinstance(text, str) else "the worker reported an error"
    return " ".join(text[:MESSAGE_CHARACTERS].encode("utf-8", "replace").decode().split()) or "?"
