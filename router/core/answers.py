"""The shapes of answers, and the facts in one of them.

Known are SGLang (`meta_info`), the OpenAI API (`usage`, `choices`, Responses objects and the events
that wrap them), Anthropic's messages and their events, error objects of both, and llama.cpp's `timings`. Engines and versions differ, so
every field may have any type: what is not understood costs that field and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, TypeVar

import msgspec

from tracking.trace import EngineReport

LARGEST_NUMBER: Final = 2**53  # what JSON readers take exactly
LABEL_CHARACTERS: Final = 128
MESSAGE_CHARACTERS: Final = 500
ABORT: Final = "abort"
MESSAGE_START: Final = "message_start"  # Anthropic's first event: input tokens are in it alone

T = TypeVar("T")


class AnswerFacts(msgspec.Struct, gc=False):
    """What an answer said. `events` counts the data events of a stream, without `[DONE]`.

    `error` is the message of an error object, in the body or as an event. `aborted` says that the
    worker gave up: `finish_reason: "abort"`, or an error object in an answer that began well.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    engine_request_id: str | None = None
    engine: EngineReport | None = None
    error: str | None = None
    aborted: bool = False
    done_seen: bool = False
    events: int = 0

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


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: object = None
    completion_tokens: object = None
    input_tokens: object = None
    output_tokens: object = None
    reasoning_tokens: object = None
    prompt_tokens_details: object = None
    completion_tokens_details: object = None
    input_tokens_details: object = None
    output_tokens_details: object = None
    cache_read_input_tokens: object = None
    cache_creation_input_tokens: object = None


class _Choice(msgspec.Struct, gc=False):
    index: object = None
    finish_reason: object = None


class _MetaInfo(msgspec.Struct, gc=False):
    id: object = None
    finish_reason: object = None
    prompt_tokens: object = None
    completion_tokens: object = None
    cached_tokens: object = None
    reasoning_tokens: object = None
    e2e_latency: object = None
    queue_time: object = None
    first_token_latency: object = None
    decode_throughput: object = None
    dp_rank: object = None
    weight_version: object = None


class _Delta(msgspec.Struct):
    stop_reason: object = None


class _Metadata(msgspec.Struct):
    weight_version: object = None


class _Timings(msgspec.Struct):
    cache_n: object = None
    prompt_n: object = None
    prompt_ms: object = None
    predicted_n: object = None
    predicted_ms: object = None
    predicted_per_second: object = None


class Answer(msgspec.Struct, gc=False):
    """A body or an event, of any engine on any route."""

    id: object = None
    kind: object = msgspec.field(name="object", default=None)
    type: object = None
    index: object = None
    status: object = None
    error: object = None
    message: msgspec.Raw = _ABSENT
    delta: msgspec.Raw = _ABSENT
    stop_reason: object = None
    usage: _Usage | None = None
    choices: list[_Choice] | None = None
    meta_info: _MetaInfo | None = None
    metadata: _Metadata | None = None
    timings: _Timings | None = None
    response: msgspec.Raw = _ABSENT


class _Odd(msgspec.Struct):
    """The same where a part is not what it should be: each is looked at by itself."""

    id: object = None
    kind: object = msgspec.field(name="object", default=None)
    type: object = None
    index: object = None
    status: object = None
    error: object = None
    message: msgspec.Raw = _ABSENT
    delta: msgspec.Raw = _ABSENT
    stop_reason: object = None
    usage: msgspec.Raw = _ABSENT
    choices: msgspec.Raw = _ABSENT
    meta_info: msgspec.Raw = _ABSENT
    metadata: msgspec.Raw = _ABSENT
    timings: msgspec.Raw = _ABSENT
    response: msgspec.Raw = _ABSENT


_decode_answer: Final = msgspec.json.Decoder(Answer).decode
_decode_odd: Final = msgspec.json.Decoder(_Odd).decode
_decode_odd_list: Final = msgspec.json.Decoder(list[_Odd]).decode
_decode_answers: Final = msgspec.json.Decoder(list[Answer]).decode
_decode_usage: Final = msgspec.json.Decoder(_Usage).decode
_decode_choices: Final = msgspec.json.Decoder(list[_Choice]).decode
_decode_meta_info: Final = msgspec.json.Decoder(_MetaInfo).decode
_decode_delta: Final = msgspec.json.Decoder(_Delta).decode
_decode_any: Final = msgspec.json.Decoder().decode
_decode_metadata: Final = msgspec.json.Decoder(_Metadata).decode
_decode_timings: Final = msgspec.json.Decoder(_Timings).decode


def _decoded(decode: Callable[[bytes | msgspec.Raw], T], data: bytes | msgspec.Raw) -> T | None:
    try:
        return decode(data) if data else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def parse_answer(data: bytes) -> Answer | None:
    """None for what is no JSON object."""
    answer = _parsed(data)
    if answer is not None:
        # Events of the Responses API wrap their object, and so does the first one of Anthropic's.
        inner = answer.message if answer.type == MESSAGE_START else answer.response
        if inner:
            return _parsed(inner) or answer
    return answer


def _parsed(data: bytes | msgspec.Raw) -> Answer | None:
    answer = _decoded(_decode_answer, data)
    if answer is None and (odd := _decoded(_decode_odd, data)) is not None:
        return _answer(odd)
    return answer


def _answer(odd: _Odd) -> Answer:
    """What can be understood of it."""
    return Answer(
        odd.id,
        odd.kind,
        odd.type,
        odd.index,
        odd.status,
        odd.error,
        odd.message,
        odd.delta,
        odd.stop_reason,
        usage=_decoded(_decode_usage, odd.usage),
        choices=_decoded(_decode_choices, odd.choices),
        meta_info=_decoded(_decode_meta_info, odd.meta_info),
        metadata=_decoded(_decode_metadata, odd.metadata),
        timings=_decoded(_decode_timings, odd.timings),
        response=odd.response,
    )


def add_part(answer: Answer, name: Literal["meta_info", "usage", "timings"], data: bytes) -> None:
    """A part that was found by itself, as JSON."""
    if name == "usage":
        answer.usage = _decoded(_decode_usage, data)
    elif name == "timings":
        answer.timings = _decoded(_decode_timings, data)
    else:
        answer.meta_info = _decoded(_decode_meta_info, data)


def parse_answers(data: bytes) -> list[Answer]:
    """The items of a JSON array; none for anything else."""
    answers = _decoded(_decode_answers, data)
    if answers is None:
        return [_answer(odd) for odd in _decoded(_decode_odd_list, data) or ()]
    return answers


def read_answer(answer: Answer) -> AnswerFacts:
    """The facts in one body or event."""
    facts = AnswerFacts(engine_request_id=_identifier(answer.id))
    report = EngineReport()
    if answer.usage is not None:
        _read_usage(answer.usage, facts, report)
    if answer.choices:
        for choice in answer.choices:
            if report.finish_reason != ABORT:
                report.finish_reason = _label(choice.finish_reason) or report.finish_reason
    if answer.type == "message_delta" and (delta := _decoded(_decode_delta, answer.delta)):
        answer.stop_reason = delta.stop_reason
    if answer.stop_reason is not None:
        report.finish_reason = _label(answer.stop_reason)
    if answer.kind == "response" and answer.status not in ("queued", "in_progress"):
        report.finish_reason = ABORT if answer.status == "cancelled" else _label(answer.status)
    if answer.meta_info is not None:
        _read_meta_info(answer.meta_info, facts, report)
    if answer.metadata is not None:
        report.weight_version = _label(answer.metadata.weight_version)
    if answer.timings is not None:
        _read_timings(answer.timings, facts, report)
    if answer.error:
        facts.error = _message(answer.error)
    elif answer.kind == "error" or answer.type == "error":
        facts.error = _message(_decoded(_decode_any, answer.message))
    facts.aborted = facts.error is not None or report.finish_reason == ABORT
    if report != _SILENT:
        facts.engine = report
    return facts


def _read_usage(usage: _Usage, facts: AnswerFacts, report: EngineReport) -> None:
    """OpenAI: chat and completions say prompt and completion, responses say input and output.

    Anthropic's input tokens are those that were neither read from the cache nor written to it.
    """
    input_tokens = _either(usage.prompt_tokens, usage.input_tokens)
    facts.output_tokens = _either(usage.completion_tokens, usage.output_tokens)
    facts.cached_tokens = _either(
        _item(usage.prompt_tokens_details, "cached_tokens"),
        _item(usage.input_tokens_details, "cached_tokens"),
    )
    read = count(usage.cache_read_input_tokens)
    if input_tokens is not None and read is not None:
        facts.cached_tokens = read
        input_tokens += read + (count(usage.cache_creation_input_tokens) or 0)
    facts.input_tokens = input_tokens
    report.reasoning_tokens = count(usage.reasoning_tokens)
    if report.reasoning_tokens is None:
        report.reasoning_tokens = _either(
            _item(usage.completion_tokens_details, "reasoning_tokens"),
            _item(usage.output_tokens_details, "reasoning_tokens"),
        )


def _read_meta_info(meta_info: _MetaInfo, facts: AnswerFacts, report: EngineReport) -> None:
    facts.engine_request_id = _identifier(meta_info.id) or facts.engine_request_id
    facts.input_tokens = count(meta_info.prompt_tokens)
    facts.output_tokens = count(meta_info.completion_tokens)
    facts.cached_tokens = count(meta_info.cached_tokens)
    reason = meta_info.finish_reason
    report.finish_reason = _label(_item(reason, "type") or reason)
    if report.finish_reason == ABORT and (message := _item(reason, "message")):
        facts.error = _message(message)
    report.reasoning_tokens = count(meta_info.reasoning_tokens)
    report.e2e_latency = _measure(meta_info.e2e_latency)
    report.queue_time = _measure(meta_info.queue_time)
    report.first_token_latency = _measure(meta_info.first_token_latency)
    report.decode_throughput = _measure(meta_info.decode_throughput)
    report.dp_rank = count(meta_info.dp_rank)
    report.weight_version = _label(meta_info.weight_version)


def _read_timings(timings: _Timings, facts: AnswerFacts, report: EngineReport) -> None:
    """llama.cpp: `prompt_n` are the tokens that were computed, without those cached."""
    cached, computed = count(timings.cache_n), count(timings.prompt_n)
    if facts.cached_tokens is None:
        facts.cached_tokens = cached
    if facts.input_tokens is None and computed is not None and cached is not None:
        facts.input_tokens = computed + cached
    if facts.output_tokens is None:
        facts.output_tokens = count(timings.predicted_n)
    report.prefill_seconds = _milliseconds(timings.prompt_ms)
    report.decode_seconds = _milliseconds(timings.predicted_ms)
    report.decode_throughput = _measure(timings.predicted_per_second)


# -- single values ---------------------------------------------------------------------------------


def _item(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, dict) else None


def count(value: object) -> int | None:
    """A number of tokens or an index; None for anything else."""
    return value if type(value) is int and 0 <= value < LARGEST_NUMBER else None


def _either(one: object, other: object) -> int | None:
    known = count(one)
    return known if known is not None or other is None else count(other)


def _measure(value: object) -> float | None:
    if type(value) is int or type(value) is float:
        return float(value) if 0 <= value < LARGEST_NUMBER else None
    return None


def _milliseconds(value: object) -> float | None:
    measure = _measure(value)
    return None if measure is None else round(measure / 1000, 6)


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
