"""What a worker's answer says of itself: tokens, cached tokens, how it finished, its own times.

`ResponseScanner` is shown the bytes of an answer after they were relayed, and reads them once, at
the end. Where an engine repeats figures, the last word counts; what it does not say stays None,
also when it says `null`: `cached_tokens` of 0 is a miss, None is nobody knows.

Nothing here raises on any bytes: an answer that cannot be read has no facts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

import msgspec

from router.core.answers import (
    ABORT,
    MESSAGE_START,
    Answer,
    AnswerFacts,
    count,
    parse_answer,
    parse_answers,
    read_answer,
)
from router.core.sse import DONE, EventTail
from tracking.trace import EngineReport

BODY_BYTES: Final = 1024 * 1024
BODY_TAIL_BYTES: Final = 64 * 1024
# Vectors are bulky and of no interest; usage comes behind them.
BULKY_ROUTES: Final = frozenset({"/v1/embeddings", "/embed"})
LEADING_SPACE_BYTES: Final = 64
LONG_BYTES: Final = 4096  # below a third of this, to read a text costs less than to leave it out
FIRST_CHOICE: Final = b',"choices":[{'
FINISH_REASON: Final = b'"finish_reason":'
EVENTS_READ: Final = 8  # from the end; the facts of a single answer are in the last three

Sequence = int | None  # an event's `index` where one stream answers several prompts


class ResponseScanner:
    """Watches one answer. `route` is the request's path.

    `stream` says whether the answer is an event stream: set it from the answer's content type
    before the first `feed`. Compressed bodies should not be fed: they are only noise here.
    """

    __slots__ = (
        "_body",
        "_body_bytes",
        "_body_limit",
        "_engine_request_id",
        "_first",
        "_tail",
        "first_event_at",
        "stream",
    )

    def __init__(self, route: str, stream: bool) -> None:
        self.stream = stream
        self.first_event_at: float | None = None
        self._tail: EventTail | None = None  # of a stream
        self._first = b""  # piece of any other answer, which mostly comes in one
        self._body: bytearray | None = None  # of one that comes in several
        self._body_bytes = 0
        self._body_limit = BODY_TAIL_BYTES if route in BULKY_ROUTES else BODY_BYTES
        self._engine_request_id: str | None = None

    def feed(self, payload: bytes, now: float) -> int:
        """Take the next piece, at `now` in monotonic seconds.

        Returns how many events began in it, 0 for what is no stream.
        """
        if self.stream:
            if self._tail is None:
                self._tail = EventTail()
            events = self._tail.feed(payload)
            if events and self.first_event_at is None:
                self.first_event_at = now
            return events
        if not self._body_bytes:
            self._first = payload
        else:
            body = self._body
            if body is None:
                body = self._body = bytearray(self._first)
                self._first = b""
            body += payload
            if len(body) > 2 * self._body_limit:
                del body[:-BODY_TAIL_BYTES]
        self._body_bytes += len(payload)
        return 0

    @property
    def engine_request_id(self) -> str | None:
        """The engine's id, as soon as the first event of a stream has told it."""
        first = None if self._tail is None else self._tail.first
        if self._engine_request_id is None and first is not None:
            answer = parse_answer(first)
            if answer is not None:
                self._engine_request_id = read_answer(answer).engine_request_id
        return self._engine_request_id

    def finish(self) -> AnswerFacts:
        """What was said, as far as it came."""
        tail = self._tail
        if tail is None:
            body = self._first if self._body is None else bytes(self._body)
            if self._body_bytes <= self._body_limit:
                return body_facts(body)
            return _tail_facts(body[-BODY_TAIL_BYTES:])
        if not tail.events:  # a worker that answers JSON under the name of a stream
            return body_facts(tail.window())
        facts = _stream_facts(tail)
        if self.engine_request_id is not None:
            facts.engine_request_id = self.engine_request_id
        return facts


def body_facts(body: bytes) -> AnswerFacts:
    """What a whole JSON body says; of a list of answers, all of them together."""
    answer = parse_answer(_without_text(body)) if len(body) > LONG_BYTES else None
    if answer is None:
        answer = parse_answer(body)
    if answer is not None:
        return read_answer(answer)
    if body[:LEADING_SPACE_BYTES].lstrip().startswith(b"["):
        return _together([read_answer(answer) for answer in parse_answers(body)])
    return _tail_facts(body[-BODY_TAIL_BYTES:])


def _without_text(body: bytes) -> bytes:
    """An OpenAI completion without what its first choice says before the finish reason: the text and its
    probabilities, which are most of it and not read. Any other body as it is.

    A quote within a JSON string follows a backslash, so that no text holds these names. Where the second
    is that of something deeper, what is left is no JSON.
    """
    begin = body.find(FIRST_CHOICE)
    end = body.find(FINISH_REASON, begin)
    if begin < 0 or end < 0:
        return body
    return body[: begin + len(FIRST_CHOICE)] + body[end:]


def _stream_facts(tail: EventTail) -> AnswerFacts:
    newest_first: list[tuple[Sequence, AnswerFacts]] = []
    done_seen = False
    for line in tail.newest_first():
        if line == DONE:
            done_seen = True
            continue
        answer = parse_answer(line)
        if answer is None:
            continue
        # Anthropic's events have a type, and their index is that of a part of the one answer.
        sequence = count(answer.index) if answer.type is None else None
        said = read_answer(answer)
        newest_first.append((sequence, said))
        ended = said.finish_reason is not None or len(newest_first) >= EVENTS_READ
        if ended and sequence is None:
            break
    if newest_first:
        facts = _last_words(reversed(newest_first), tail)
    else:
        facts = _tail_facts(tail.window())
    if (
        facts.input_tokens is None
        and tail.first is not None
        and MESSAGE_START.encode() in tail.first
    ):
        _add_start(tail.first, facts)
    facts.done_seen = done_seen
    facts.events = tail.events - done_seen
    return facts


def _add_start(event: bytes, facts: AnswerFacts) -> None:
    """Anthropic's first event tells the input tokens, which engines need not say again."""
    answer = parse_answer(event)
    if answer is not None:
        start = read_answer(answer)
        facts.input_tokens = start.input_tokens
        facts.cached_tokens = start.cached_tokens


def _last_words(events: Iterable[tuple[Sequence, AnswerFacts]], tail: EventTail) -> AnswerFacts:
    """Events in their order: each overrides what those before said of the same sequence."""
    by_sequence: dict[Sequence, AnswerFacts] = {}
    for sequence, said in events:
        if sequence in by_sequence:
            _override(by_sequence[sequence], said)
        else:
            by_sequence[sequence] = said
    facts = _together(list(by_sequence.values()))
    if None not in by_sequence and not tail.whole:
        # Other sequences may have ended before the window: a sum of some would be invented.
        facts.input_tokens = facts.output_tokens = facts.cached_tokens = None
    return facts


def _override(known: AnswerFacts, later: AnswerFacts) -> None:
    for name in ("input_tokens", "output_tokens", "cached_tokens", "engine_request_id", "error"):
        if (value := getattr(later, name)) is not None:
            setattr(known, name, value)
    known.aborted = known.aborted or later.aborted
    if known.engine is None or later.engine is None:
        known.engine = known.engine or later.engine
        return
    for name in EngineReport.__struct_fields__:
        if (value := getattr(later.engine, name)) is not None:
            setattr(known.engine, name, value)


def _together(sequences: list[AnswerFacts]) -> AnswerFacts:
    """One answer to several prompts: tokens are summed if each said them."""
    if not sequences:
        return AnswerFacts()
    facts = sequences[-1]
    if len(sequences) == 1:
        return facts
    facts.engine_request_id = sequences[0].engine_request_id
    facts.input_tokens = _sum(said.input_tokens for said in sequences)
    facts.output_tokens = _sum(said.output_tokens for said in sequences)
    facts.cached_tokens = _sum(said.cached_tokens for said in sequences)
    for said in sequences:
        if said.aborted:
            facts.aborted, facts.error = True, said.error
            if facts.engine is not None and said.finish_reason == ABORT:
                facts.engine.finish_reason = ABORT
    return facts


def _sum(values: Iterable[int | None]) -> int | None:
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def _tail_facts(tail: bytes) -> AnswerFacts:
    """What can be had from the end of a body, or of an event, that was too large to keep."""
    parts = []
    for name in (b"meta_info", b"usage", b"timings"):
        _, found, rest = tail.rpartition(b'"%b":' % name)
        if found:
            try:
                value, _ = json.JSONDecoder().raw_decode(rest.decode("utf-8", "replace").lstrip())
                parts.append(b'"%b":%b' % (name, msgspec.json.encode(value)))
            except (ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
                continue
    return read_answer(parse_answer(b"{%b}" % b",".join(parts)) or Answer())
