"""What a worker's answer says of itself, however its bytes are cut."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from router.core.answers import AnswerFacts
from router.core.sse import LARGEST_BYTES, TAIL_BYTES, EventTail
from router.core.usage import BODY_BYTES, ResponseScanner
from tracking.trace import EngineReport

CHAT = "/v1/chat/completions"


def scanned(route: str, pieces: Iterable[bytes], *, stream: bool) -> AnswerFacts:
    scanner = ResponseScanner(route, stream)
    for now, piece in enumerate(pieces):
        scanner.feed(piece, float(now))
    return scanner.finish()


def body(route: str, answer: object) -> AnswerFacts:
    return scanned(route, [json.dumps(answer).encode()], stream=False)


def sse(*events: object, end: str = "\n", done: bool = True) -> bytes:
    data = [json.dumps(event) for event in events] + ["[DONE]"] * done
    return "".join(f"data: {text}{end}{end}" for text in data).encode()


def told(facts: AnswerFacts) -> dict[str, object]:
    """All that is in it."""
    names = (
        *("input_tokens", "output_tokens", "cached_tokens", "engine_request_id", "engine"),
        *("error", "aborted", "done_seen", "events"),
    )
    return {name: getattr(facts, name) for name in names}


def tokens(facts: AnswerFacts) -> tuple[int | None, int | None, int | None]:
    return facts.input_tokens, facts.output_tokens, facts.cached_tokens


META = {
    "id": "r7",
    "finish_reason": {"type": "length", "length": 8},
    "prompt_tokens": 15,
    "weight_version": "default",
    "queue_time": 0.01,
    "reasoning_tokens": 0,
    "completion_tokens": 8,
    "cached_tokens": 14,
    "cached_tokens_details": {"device": 14, "host": 0},
    "dp_rank": 1,
    "e2e_latency": 0.5,
    "first_token_latency": 0.1,
    "decode_throughput": 20.5,
    "output_token_logprobs": [[-0.1, 5, None]] * 3,
}
META_REPORT = EngineReport(
    finish_reason="length",
    e2e_latency=0.5,
    queue_time=0.01,
    first_token_latency=0.1,
    decode_throughput=20.5,
    weight_version="default",
    dp_rank=1,
    reasoning_tokens=0,
)


def chunk(content: str | None, finish: str | None = None, **more: object) -> dict[str, object]:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [choice], **more}


def usage(cached: int | None = 64, completion: int = 9) -> dict[str, object]:
    details = None if cached is None else {"cached_tokens": cached, "created_cache_tokens": 0}
    return {
        "prompt_tokens": 83,
        "completion_tokens": completion,
        "total_tokens": 83 + completion,
        "prompt_tokens_details": details,
    }


# -- bodies ----------------------------------------------------------------------------------------


def test_sglang_generate_says_it_in_meta_info():
    facts = body("/generate", {"text": "x", "output_ids": [1], "meta_info": META})
    assert tokens(facts) == (15, 8, 14)
    assert facts.engine == META_REPORT
    assert (facts.engine_request_id, facts.aborted) == ("r7", False)


def test_a_batch_is_the_sum_of_its_answers():
    answers = [{"text": "x", "meta_info": {**META, "id": f"r{i}"}} for i in range(3)]
    facts = body("/generate", answers)
    assert tokens(facts) == (45, 24, 42)
    assert facts.engine_request_id == "r0"


def test_a_batch_where_one_does_not_say_is_unknown_not_less():
    silent = {"text": "x", "meta_info": {**META, "cached_tokens": None}}
    assert tokens(body("/generate", [{"meta_info": META}, silent])) == (30, 16, None)


def test_a_batch_with_one_abort_is_aborted():
    gone = {"meta_info": {**META, "finish_reason": {"type": "abort", "message": "no room"}}}
    facts = body("/generate", [gone, {"meta_info": META}])
    assert (facts.finish_reason, facts.abort_message(200)) == ("abort", "no room")


@pytest.mark.parametrize("cached", [0, 64, None])
def test_cached_tokens_have_three_states(cached):
    answer = {"id": "c1", "choices": [{"finish_reason": "stop"}], "usage": usage(cached)}
    facts = body(CHAT, answer)
    assert tokens(facts) == (83, 9, cached)
    assert (facts.finish_reason, facts.engine_request_id) == ("stop", "c1")


def test_sglang_chat_says_weights_and_reasoning():
    answer = {
        "choices": [{"finish_reason": "stop", "matched_stop": 2}],
        "usage": {**usage(), "reasoning_tokens": 4},
        "metadata": {"weight_version": "v2"},
    }
    assert body(CHAT, answer).engine == EngineReport(
        finish_reason="stop", weight_version="v2", reasoning_tokens=4
    )


def test_the_responses_api_has_its_own_words():
    answer = {
        "id": "resp_1",
        "object": "response",
        "status": "completed",
        "error": None,
        "usage": {
            "input_tokens": 20,
            "input_tokens_details": {"cached_tokens": 16},
            "output_tokens": 5,
            "output_tokens_details": {"reasoning_tokens": 2},
        },
    }
    facts = body("/v1/responses", answer)
    assert tokens(facts) == (20, 5, 16)
    assert facts.engine == EngineReport(finish_reason="completed", reasoning_tokens=2)
    assert facts.abort_message(200) is None


@pytest.mark.parametrize(
    "odd",
    [
        {"usage": {**usage(), "total_tokens": "many", "reasoning_tokens": -1}},
        {"usage": {**usage(), "input_tokens_details": 5, "completion_tokens_details": [1]}},
        {"usage": {**usage(), "output_tokens_details": {"reasoning_tokens": 2.5}}},
        {"usage": usage(), "choices": "none", "metadata": 7, "timings": [1], "delta": 3},
        {"usage": usage(), "meta_info": "none", "response": [], "message": 1},
    ],
)
def test_an_odd_field_costs_nothing_of_the_fields_beside_it(odd):
    assert tokens(body(CHAT, odd)) == (83, 9, 64)
    assert tokens(scanned(CHAT, [sse(odd)], stream=True)) == (83, 9, 64)


@pytest.mark.parametrize("wrong", ["83", 83.0, True, -1, 2**53, None, [83]])
def test_what_is_no_number_of_tokens_is_unknown_and_the_others_are_not(wrong):
    said = {"prompt_tokens": wrong, "completion_tokens": 9}
    assert tokens(body(CHAT, {"usage": said})) == (None, 9, None)
    assert tokens(body("/generate", {"meta_info": {**META, "cached_tokens": wrong}})) == (
        15,
        8,
        None,
    )


def test_embeddings_have_input_only():
    answer = {"object": "list", "data": [{"embedding": [0.1] * 9}], "usage": {"prompt_tokens": 7}}
    assert tokens(body("/v1/embeddings", answer)) == (7, None, None)


def test_a_rerank_is_the_sum_of_its_documents():
    answer = [{"score": 0.1, "index": i, "meta_info": {"prompt_tokens": 5}} for i in range(2)]
    assert tokens(body("/v1/rerank", answer)) == (10, None, None)


LLAMA_TIMINGS = {
    "cache_n": 30,
    "prompt_n": 4,
    "prompt_ms": 12.5,
    "predicted_n": 8,
    "predicted_ms": 80.0,
    "predicted_per_second": 100.0,
}


def test_llama_cpp_timings_are_read_and_usage_goes_before_them():
    answer = {"choices": [{"finish_reason": "stop"}], "timings": LLAMA_TIMINGS}
    facts = body(CHAT, answer)
    assert tokens(facts) == (34, 8, 30)
    assert facts.engine == EngineReport(
        finish_reason="stop", prefill_seconds=0.0125, decode_seconds=0.08, decode_throughput=100.0
    )
    assert tokens(body(CHAT, {**answer, "usage": usage()})) == (83, 9, 64)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"error": {"message": "too long", "code": 400}}, "too long"),
        ({"object": "error", "message": "too long", "code": 400}, "too long"),
        ({"error": "too\n long"}, "too long"),
        ({"error": {"code": 400}}, "the worker reported an error"),
        ({"error": {"message": "x" * 9000}}, "x" * 500),
    ],
)
def test_an_error_object_gives_its_message(answer, message):
    facts = body(CHAT, answer)
    assert facts.error == message
    assert facts.abort_message(200) == message
    assert facts.abort_message(400) is None  # an error that its status tells is not an abort


@pytest.mark.parametrize("route", ["/v1/embeddings", CHAT])
def test_an_answer_too_large_to_keep_is_read_at_its_end(route):
    vectors = [[0.12345678] * 1000] * 300
    answer = json.dumps({"data": vectors, "x": "\\" * 9, "usage": usage(3), "after": "y"}).encode()
    assert len(answer) > BODY_BYTES
    for size in (1000, 100_000, len(answer)):
        pieces = [answer[i : i + size] for i in range(0, len(answer), size)]
        assert tokens(scanned(route, pieces, stream=False)) == (83, 9, 3)


def test_a_prompt_that_quotes_usage_is_not_believed():
    text = 'x "usage": {"prompt_tokens": 1} ' * 50_000
    assert tokens(body(CHAT, {"usage": usage(), "text": text})) == (None, None, None)


LONG_TEXT = (
    'so it says ,"choices":[{"a":1,"finish_reason":"abort"}],"usage":{"prompt_tokens":1} ' * 60
)


def long_answer(*reasons: str | None, **of_message: object) -> bytes:
    message = {"role": "assistant", "content": LONG_TEXT, **of_message}
    choices = [
        {"index": n, "message": message, "logprobs": None, "finish_reason": reason}
        for n, reason in enumerate(reasons)
    ]
    answer = {"id": "c1", "object": "chat.completion", "choices": choices, "usage": usage(3)}
    return json.dumps(answer, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (long_answer("stop"), "stop"),
        (long_answer("abort", "stop"), "abort"),
        (long_answer("stop", "abort"), "abort"),
        (long_answer("stop", more={"a": 1, "finish_reason": "length"}), "stop"),
        (long_answer("stop").replace(b"[", b'[{"finish_reason":"abort","index":1},', 1), "abort"),
    ],
)
def test_what_a_long_text_says_is_not_believed(answer, reason):
    facts = scanned(CHAT, [answer], stream=False)
    assert tokens(facts) == (83, 9, 3)
    assert (facts.engine_request_id, facts.finish_reason) == ("c1", reason)


def test_a_body_that_was_cut_off_has_no_facts():
    whole = json.dumps({"choices": [], "usage": usage()}).encode()
    assert told(scanned(CHAT, [whole[:-20]], stream=False)) == told(AnswerFacts())


def test_a_body_that_strict_parsers_refuse_is_read_at_its_end():
    answer = b'{"text": "\\ud800", "usage": {"prompt_tokens": 3}}'
    assert tokens(scanned(CHAT, [answer], stream=False)) == (3, None, None)


# -- streams ---------------------------------------------------------------------------------------

HELLO = [chunk(None), chunk("hel"), chunk("lo"), chunk("", "stop")]
LAST_USAGE = chunk(None) | {"choices": [], "usage": usage()}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_usage_comes_in_a_last_chunk_without_choices(end):
    facts = scanned(CHAT, [sse(*HELLO, LAST_USAGE, end=end)], stream=True)
    assert tokens(facts) == (83, 9, 64)
    assert (facts.finish_reason, facts.done_seen, facts.events) == ("stop", True, 5)
    assert facts.engine_request_id == "chatcmpl-1"


def test_of_usage_in_every_chunk_the_last_counts():
    chunks = [c | {"usage": usage(64, n)} for n, c in enumerate(HELLO)]
    assert tokens(scanned(CHAT, [sse(*chunks)], stream=True)) == (83, 3, 64)


def test_a_null_usage_is_no_word():
    facts = scanned(CHAT, [sse(*[c | {"usage": None} for c in HELLO], LAST_USAGE)], stream=True)
    assert tokens(facts) == (83, 9, 64)


def test_a_stream_that_says_no_usage_has_unknown_tokens():
    facts = scanned(CHAT, [sse(*HELLO)], stream=True)
    assert tokens(facts) == (None, None, None)
    assert facts.finish_reason == "stop"


def generate_stream(count: int, text: str = "x", **last: object) -> list[dict[str, object]]:
    """SGLang repeats the whole text and all figures in each event."""
    return [
        {
            "text": text * n,
            "meta_info": {
                **META,
                "completion_tokens": n,
                "finish_reason": META["finish_reason"] if n == count else None,
                **(last if n == count else {}),
            },
        }
        for n in range(1, count + 1)
    ]


@pytest.mark.parametrize("text", ["x", "long " * 20_000])
def test_of_cumulative_events_the_last_counts_however_large(text):
    stream = sse(*generate_stream(8, text))
    for size in (7777, 200_000, len(stream)):
        pieces = [stream[i : i + size] for i in range(0, len(stream), size)]
        facts = scanned("/generate", pieces, stream=True)
        assert tokens(facts) == (15, 8, 14)
        assert facts.engine == META_REPORT
        assert (facts.events, facts.engine_request_id) == (8, "r7")


def test_an_event_larger_than_any_bound_is_read_at_its_end():
    giant = {"text": "x" * (LARGEST_BYTES + 9), "meta_info": META}
    facts = scanned("/generate", [sse(giant)], stream=True)
    assert tokens(facts) == (15, 8, 14)
    assert facts.done_seen


def test_a_streamed_batch_is_summed_when_all_of_it_was_seen_and_unknown_otherwise():
    def batch(filler: str) -> bytes:
        events = [
            {**event, "index": index, "filler": filler}
            for index in range(2)
            for event in generate_stream(3)
        ]
        return sse(*events)

    assert tokens(scanned("/generate", [batch("")], stream=True)) == (30, 6, 28)
    assert tokens(scanned("/generate", [batch("f" * TAIL_BYTES)], stream=True)) == (
        None,
        None,
        None,
    )


def test_a_cut_stream_tells_the_tokens_so_far():
    stream = sse(*generate_stream(8), done=False)
    facts = scanned("/generate", [stream[: stream.index(b'"completion_tokens": 6')]], stream=True)
    assert facts.output_tokens == 5
    assert (facts.finish_reason, facts.done_seen) == (None, False)


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([*HELLO[:2], chunk("", "abort")], "the worker aborted the request"),
        ([*HELLO[:2], {"error": {"message": "out of memory"}}], "out of memory"),
        ([{"object": "error", "message": "out of memory"}], "out of memory"),
        (generate_stream(3, finish_reason={"type": "abort", "message": "bye"}), "bye"),
        ([{"type": "error", "message": "broken"}], "broken"),
        (
            [{"type": "response.failed", "response": {"id": "r", "error": {"message": "broken"}}}],
            "broken",
        ),
    ],
)
def test_a_polite_abort_is_no_end_even_when_done_follows(events, message):
    facts = scanned(CHAT, [sse(*events)], stream=True)
    assert facts.done_seen
    assert facts.abort_message(200) == message


@pytest.mark.parametrize("events", [HELLO, [chunk("hi")], []])
def test_a_stream_without_done_or_finish_reason_is_complete_if_its_framing_is(events):
    assert scanned(CHAT, [sse(*events, done=False)], stream=True).abort_message(200) is None


def test_responses_events_wrap_the_answer():
    done = {
        "type": "response.completed",
        "response": {
            "id": "resp_1",
            "object": "response",
            "status": "completed",
            "usage": {"input_tokens": 20, "output_tokens": 5},
        },
    }
    created = {"type": "response.created", "response": {"id": "resp_1", "status": "in_progress"}}
    facts = scanned("/v1/responses", [sse(created, done, done=False)], stream=True)
    assert tokens(facts) == (20, 5, None)
    assert (facts.engine_request_id, facts.finish_reason) == ("resp_1", "completed")


def message(usage: dict[str, int], **more: object) -> dict[str, object]:
    return {"id": "msg_1", "type": "message", "role": "assistant", "usage": usage, **more}


def events(*told: Mapping[str, object]) -> bytes:
    """As Anthropic's API names them, and without `[DONE]`."""
    return "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in told).encode()


def test_anthropics_input_is_what_was_cached_and_what_was_not():
    usage = {"input_tokens": 1, "output_tokens": 3, "cache_read_input_tokens": 13}
    facts = body("/v1/messages", message(usage, stop_reason="max_tokens"))
    assert tokens(facts) == (14, 3, 13)
    assert (facts.finish_reason, facts.engine_request_id) == ("max_tokens", "msg_1")
    created = {"input_tokens": 1, "output_tokens": 3, "cache_read_input_tokens": 8}
    facts = body("/v1/messages", message({**created, "cache_creation_input_tokens": 5}))
    assert tokens(facts) == (14, 3, 8)


def test_prompt_tokens_are_all_also_where_a_proxy_names_those_of_the_cache_beside_them():
    beside = {"cache_read_input_tokens": 13, "cache_creation_input_tokens": 1}
    assert tokens(body(CHAT, {"choices": [], "usage": usage(13) | beside})) == (83, 9, 13)


def test_a_message_without_a_word_of_the_cache_leaves_it_unknown():
    facts = body("/v1/messages", message({"input_tokens": 14, "output_tokens": 3}))
    assert tokens(facts) == (14, 3, None)


@pytest.mark.parametrize(
    ("start", "delta", "told"),
    [
        # SGLang says the input at the start only, vLLM once more at the end.
        (
            {"input_tokens": 1, "output_tokens": 0, "cache_read_input_tokens": 13},
            {"output_tokens": 3},
            (14, 3, 13),
        ),
        (
            {"input_tokens": 14, "output_tokens": 0},
            {"input_tokens": 6, "output_tokens": 3, "cache_read_input_tokens": 8},
            (14, 3, 8),
        ),
    ],
)
@pytest.mark.parametrize("parts", [1, 400])
def test_an_anthropic_stream_is_one_answer_in_parts(start, delta, told, parts):
    stream = events(
        {"type": "message_start", "message": message(start)},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *[
            {"type": "content_block_delta", "index": n % 2, "delta": {"text": "some text " * 9}}
            for n in range(parts)
        ],
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": delta},
        {"type": "message_stop"},
    )
    facts = scanned("/v1/messages", [stream], stream=True)
    assert tokens(facts) == told
    assert (facts.finish_reason, facts.engine_request_id) == ("end_turn", "msg_1")
    assert facts.abort_message(200) is None


def test_an_anthropic_stream_that_ends_in_an_error_is_no_success():
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    start = {"type": "message_start", "message": message({"input_tokens": 14})}
    facts = scanned("/v1/messages", [events(start, error)], stream=True)
    assert facts.abort_message(200) == "Overloaded"


def test_the_engine_s_id_is_known_as_soon_as_the_first_event_is_whole():
    scanner = ResponseScanner(CHAT, stream=True)
    first = sse(chunk("hi"), done=False)
    scanner.feed(b": ping\n\n", 1.0)
    scanner.feed(first[:-2], 2.0)
    assert scanner.engine_request_id is None
    scanner.feed(first[-2:], 3.0)
    assert scanner.engine_request_id == "chatcmpl-1"


def test_comments_are_no_events_and_the_first_event_has_its_time():
    scanner = ResponseScanner(CHAT, stream=True)
    assert scanner.feed(b": ping\n\n", 1.0) == 0
    assert scanner.first_event_at is None
    assert scanner.feed(sse(chunk("a"), chunk("b"), done=False), 2.0) == 2
    assert scanner.feed(sse(chunk("c")), 3.0) == 2
    assert scanner.first_event_at == 2.0
    assert scanner.finish().events == 3


def test_json_under_the_name_of_a_stream_is_read_as_json():
    answer = json.dumps({"error": {"message": "no"}}).encode()
    assert scanned(CHAT, [answer[:5], answer[5:]], stream=True).error == "no"


STREAMS = [
    sse(*HELLO, LAST_USAGE),
    sse(*HELLO, LAST_USAGE, end="\r\n"),
    sse(*generate_stream(5, "t" * 900)),
    sse(*generate_stream(4, "t" * 9000)),
    b": hi\n\n" + sse(*[chunk("w" * 99)] * 200, chunk("", "abort"), LAST_USAGE),
    sse(*[{**event, "index": n % 2} for n, event in enumerate(generate_stream(40))]),
    sse(*HELLO, done=False) + b'data: {"choices": [], "usage"',
]


@pytest.mark.parametrize("stream", STREAMS)
@given(data=st.data())
def test_the_facts_do_not_depend_on_how_a_stream_was_cut(stream, data):
    places = st.lists(st.integers(0, len(stream)), max_size=30)
    cuts = [0, *sorted(data.draw(places)), len(stream)]
    pieces = [stream[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]
    facts = told(scanned(CHAT, pieces, stream=True))
    assert facts == told(scanned(CHAT, [stream], stream=True))


@pytest.mark.parametrize("stream", STREAMS)
def test_the_facts_are_the_same_byte_by_byte(stream):
    pieces = [stream[i : i + 1] for i in range(len(stream))]
    facts = told(scanned(CHAT, pieces, stream=True))
    assert facts == told(scanned(CHAT, [stream], stream=True))


def kept(tail: EventTail) -> int:
    """Bytes of memory."""
    return sum(map(sys.getsizeof, [tail._elder, *tail._pieces]))


def test_a_long_stream_of_small_events_is_kept_in_little():
    tail = EventTail()
    event = sse(chunk("word"), done=False)
    for _ in range(5000):
        tail.feed(event * 3)
    assert len(tail.window()) < TAIL_BYTES + len(event)
    assert kept(tail) <= 3 * (TAIL_BYTES + 3 * len(event))
    assert tail.events == 15_000


def test_a_stream_in_large_pieces_is_kept_in_little():
    tail = EventTail()
    event = sse(chunk("word"), done=False)
    for _ in range(20):
        tail.feed(event * 1000)
        assert kept(tail) < 2 * TAIL_BYTES
    assert tail.events == 20_000


def test_a_stream_in_pieces_of_one_byte_is_kept_in_little():
    tail = EventTail()
    for byte in sse(chunk("word"), done=False) * 50:
        tail.feed(bytes((byte,)))
        assert kept(tail) < 4 * TAIL_BYTES
    assert tail.events == 50


# -- anything at all -------------------------------------------------------------------------------

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
NAMES = (
    "id object type index status error message usage choices meta_info metadata timings response "
    "finish_reason prompt_tokens completion_tokens cached_tokens prompt_tokens_details dp_rank "
    "e2e_latency weight_version cache_n prompt_n prompt_ms"
).split()
objects = st.recursive(
    st.dictionaries(st.sampled_from(NAMES), anything, max_size=5),
    lambda inner: st.dictionaries(
        st.sampled_from(NAMES), anything | inner | st.lists(inner, max_size=2), max_size=5
    ),
    max_leaves=5,
)


@given(st.lists(objects, max_size=4), st.booleans())
@example([{"error": 10**400, "usage": {"prompt_tokens": 10**400}}], True)
@example([{"timings": {"prompt_ms": 10**400}, "meta_info": {"e2e_latency": float("nan")}}], False)
def test_fields_of_any_type_cost_only_themselves(events, stream):
    pieces = [sse(*events)] if stream else [json.dumps(events).encode()]
    facts = scanned("/generate", pieces, stream=stream)
    for number in tokens(facts):
        assert number is None or number >= 0


@given(
    st.lists(st.binary(max_size=60) | st.sampled_from([b"\ndata:", b"data: ", b"[DONE]", b"\n"])),
    st.booleans(),
    st.sampled_from(["/generate", "/v1/embeddings"]),
)
@example([b"data: " + b"[" * 200_000], True, "/generate")
@example([b"[" * 200_000], False, "/generate")
@example([b'"usage":' + b"[" * (BODY_BYTES + 9)], False, "/generate")
@example([b'data: {"id": "\xff"}\n\n'], True, "/generate")
def test_no_bytes_raise(pieces, stream, route):
    facts = scanned(route, pieces, stream=stream)
    assert facts.events >= 0
