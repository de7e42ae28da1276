"""What is read from a request: the text it is routed by, and the few facts beside it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.asked import Asked
from router.core.blocks import block_hashes
from router.core.facts import JSON_ROUTES, BadBody, RequestFacts, read_facts

JSON = "application/json"
AS_JSON = Asked({"content-type": JSON})
CHAT = "/v1/chat/completions"


def facts_of(route: str, body: object, headers: dict[str, str] | None = None) -> RequestFacts:
    asked = Asked({"content-type": JSON, **(headers or {})})
    return read_facts(route, json.dumps(body).encode(), asked)


def said(*texts: str) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text} for text in texts]}


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
ROUTED_BY = [
    (CHAT, said("one", "two"), "one two"),
    (
        CHAT,
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, IMAGE]}]},
        "a",
    ),
    (
        CHAT,
        {"messages": [{"content": "yes", "reasoning_content": "since"}, {"content": "go on"}]},
        "yes since go on",
    ),
    (CHAT, {"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}]}, ""),
    (
        CHAT,
        {"messages": [None, {"content": "a", "output": 5}, 7, "b", {"arguments": "c"}]},
        "a b c",
    ),
    (CHAT, {"messages": {"content": "no list"}}, ""),
    ("/v1/messages", {"system": "be kind", **said("hello")}, "be kind hello"),
    ("/v1/completions", {"prompt": "once"}, "once"),
    ("/v1/completions", {"prompt": ["once", "twice"]}, "once twice"),
    ("/v1/completions", {"prompt": [1, 2, 3]}, "1 2 3"),
    ("/v1/completions", {"prompt": [[1, 2], [3]]}, "1 2 3"),
    ("/generate", {"text": "tell me"}, "tell me"),
    ("/generate", {"text": ["tell", "me"]}, "tell me"),
    ("/generate", {"input_ids": [11, 22, 33]}, "11 22 33"),
    ("/generate", {"input_ids": [[11, 22], [33]]}, "11 22 33"),
    ("/generate", {"text": "wins", "input_ids": [1]}, "wins"),
    ("/generate", {"image_data": "AAAA"}, ""),
    ("/v1/embeddings", {"input": "embed me"}, "embed me"),
    ("/v1/embeddings", {"input": ["embed", "us"]}, "embed us"),
    ("/v1/classify", {"input": "which"}, "which"),
    ("/classify", {"text": "which"}, "which"),
    ("/v1/rerank", {"query": "what", "documents": ["a", "b"]}, "what"),
    ("/rerank", {"query": "what", "documents": ["a", "b"]}, "what"),
    ("/v1/responses", {"input": "hi"}, "hi"),
    ("/v1/responses", {"instructions": "be brief", "input": "hi"}, "be brief hi"),
    (
        "/v1/responses",
        {
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "look up"}]},
                {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]},
                {"type": "function_call", "name": "f", "arguments": '{"q": 1}'},
                {"type": "function_call_output", "output": "42"},
            ]
        },
        'look up hm {"q": 1} 42',
    ),
]


@pytest.mark.parametrize(("route", "body", "text"), ROUTED_BY)
def test_each_route_is_routed_by_the_text_its_model_will_read(route, body, text):
    facts = facts_of(route, body)
    assert (facts.blocks, facts.text_bytes) == (block_hashes(text.encode()), len(text))


def test_every_json_route_is_in_the_table_above():
    assert set(JSON_ROUTES) == {route for route, _, _ in ROUTED_BY}


def test_a_longer_conversation_starts_with_the_blocks_of_the_shorter_one():
    turns = ["a" * 300, "b" * 500]
    short, long = facts_of(CHAT, said(*turns)), facts_of(CHAT, said(*turns, "c" * 300))
    whole = len(short.blocks) - 1  # the last block of the shorter one is not full
    assert whole > 5
    assert short.blocks[:whole] == long.blocks[:whole]


def test_models_share_no_prefix():
    assert not set(facts_of(CHAT, {"model": "a", **said("x" * 500)}).blocks) & set(
        facts_of(CHAT, {"model": "b", **said("x" * 500)}).blocks
    )


def test_token_ids_written_with_or_without_spaces_are_the_same_prompt():
    dense = read_facts("/generate", b'{"input_ids":[[1,2],[3]]}', AS_JSON)
    airy = read_facts("/generate", b'{"input_ids": [ [1, 2],\n [3] ]}', AS_JSON)
    assert dense.blocks == airy.blocks
    assert dense.input_tokens == airy.input_tokens == 3


def test_token_ids_that_are_none_are_not_counted():
    assert facts_of(CHAT, {"input_ids": None, **said("x" * 400)}).input_tokens == 100


def test_the_facts_beside_the_text_are_read():
    body = {"model": "m", "stream": True, "rid": "r7", "max_tokens": 5, "n": 2, **said("four")}
    headers = {"x-session-id": "s1 ", "x-smg-routing-key": "user 7\t"}
    facts = facts_of(CHAT, body, headers)
    assert (facts.model, facts.stream, facts.engine_request_id) == ("m", True, "r7")
    assert (facts.session_id, facts.routing_key) == ("s1", "user 7")
    assert (facts.max_tokens, facts.sequences, facts.input_tokens) == (5, 2, 1)


@pytest.mark.parametrize(
    ("route", "body", "max_tokens", "sequences"),
    [
        ("/generate", {"text": "a", "sampling_params": {"max_new_tokens": 9, "n": 3}}, 9, 3),
        ("/generate", {"text": ["a", "b"], "sampling_params": {"n": 3}}, None, 6),
        ("/generate", {"text": ["a", "b"], "sampling_params": [{}, {}]}, None, 2),
        ("/generate", {"input_ids": [[1], [2], [3]]}, None, 3),
        ("/generate", {"input_ids": [1, 2, 3]}, None, 1),
        (CHAT, {"max_completion_tokens": 4, "max_tokens": 8, **said("a")}, 4, 1),
        ("/v1/completions", {"prompt": ["a", "b"], "n": 2, "max_tokens": 8}, 8, 4),
        ("/v1/completions", {"prompt": [1, 2, 3]}, None, 1),
        ("/v1/responses", {"input": "a", "max_output_tokens": 7}, 7, 1),
    ],
)
def test_what_is_asked_for_is_counted(route, body, max_tokens, sequences):
    facts = facts_of(route, body)
    assert (facts.max_tokens, facts.sequences) == (max_tokens, sequences)


def test_the_session_is_named_by_the_header_else_by_sglang_s_session_params():
    body = {"text": "a", "session_params": {"id": "inner"}}
    assert facts_of("/generate", body).session_id == "inner"
    assert facts_of("/generate", body, {"x-session-id": "outer"}).session_id == "outer"


@pytest.mark.parametrize("bad", ["", "a b", "ü", "a\nb", "x" * 129, "\udcff"])
def test_an_id_that_could_hurt_a_log_or_a_key_is_no_fact(bad):
    facts = facts_of("/generate", {"text": "t", "rid": bad}, {"x-session-id": bad})
    assert (facts.engine_request_id, facts.session_id) == (None, None)


@pytest.mark.parametrize("key", ["", "ü" * 65, "k" * 129, "a\nb"])
def test_a_routing_key_over_128_bytes_or_unprintable_is_ignored(key):
    assert facts_of(CHAT, said("a"), {"x-smg-routing-key": key}).routing_key is None


@pytest.mark.parametrize("model", ["", "m" * 257, "a\x00b", "\ud800", 7, None])
def test_a_model_that_is_no_name_is_no_fact(model):
    assert facts_of(CHAT, {"model": model, **said("a")}).model is None


# -- bodies that are not what they should be -------------------------------------------------------


@pytest.mark.parametrize(
    "body", [b"", b"  ", b"{", b"[]", b'"x"', b"null", b"{} x", b'{"a": \xff}']
)
def test_a_body_that_is_no_json_object_is_refused_where_json_is_due(body):
    with pytest.raises(BadBody):
        read_facts(CHAT, body, AS_JSON)
    with pytest.raises(BadBody):
        read_facts(CHAT, body, Asked({}))


def test_nesting_without_end_is_refused():
    with pytest.raises(BadBody, match="nested"):
        read_facts(CHAT, b'{"messages":' + b"[" * 200_000, AS_JSON)


@pytest.mark.parametrize(
    ("content_type", "headers"),
    [
        ("multipart/form-data; boundary=x", {}),
        ("audio/mpeg", {}),
        ("text/plain", {}),
        ("application/x-www-form-urlencoded", {}),
        (JSON, {"content-encoding": "gzip"}),
    ],
)
def test_a_body_that_does_not_claim_to_be_json_is_left_to_the_worker(content_type, headers):
    facts = read_facts(CHAT, b"\x1f\x8b not json", Asked({"content-type": content_type} | headers))
    assert (facts.model, facts.blocks) == (None, [])


def test_json_that_curl_sends_as_a_form_is_read_all_the_same():
    body = json.dumps({"text": "hello", "stream": True}).encode()
    facts = read_facts(
        "/generate", body, Asked({"content-type": "application/x-www-form-urlencoded"})
    )
    assert facts.stream
    assert facts.text_bytes == 5


def test_an_unknown_path_gives_its_model_and_is_never_refused():
    assert facts_of("/v1/something", {"model": "m", "text": "t"}).model == "m"
    assert facts_of("/v1/something", {"model": "m", "text": "t"}).blocks == []
    assert read_facts("/v1/something", b"{", AS_JSON).model is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "m", "messages": [{"content": "a \\ud800 b"}]}',
        b'\xef\xbb\xbf{"model": "m", "messages": [{"content": "a"}]}',
        b'{"model": "m", "temperature": NaN, "messages": [{"content": "a"}]}',
        b'{"model": "m", "seed": 1' + b"0" * 6000 + b', "messages": [{"content": "a"}]}',
        b'{"model": "m", "max_tokens": 1' + b"0" * 6000 + b', "messages": [{"content": "a"}]}',
        b'{"model": 1, "model": "m", "messages": [{"content": "a"}]}',
    ],
)
def test_what_only_strict_parsers_refuse_is_left_to_the_worker(body):
    facts = read_facts(CHAT, body, AS_JSON)
    assert facts.model == "m"
    assert facts.text_bytes > 0


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = (
    "model stream n max_tokens sampling_params session_params rid messages system prompt text "
    "input_ids input instructions query"
).split()


@given(st.sampled_from(sorted(JSON_ROUTES)), st.dictionaries(st.sampled_from(FIELDS), anything))
def test_a_field_of_any_type_costs_facts_but_never_the_request(route, body):
    facts = facts_of(route, body)
    assert (facts.text_bytes > 0) == bool(facts.blocks)
    assert facts.sequences >= 1


@given(st.sampled_from([CHAT, "/x"]), st.binary(max_size=200), st.sampled_from([JSON, "", "a/b"]))
def test_any_bytes_are_read_or_refused(route, body, content_type):
    try:
        read_facts(route, body, Asked({"content-type": content_type}))
    except BadBody:
        refused = True
    else:
        refused = False
    assert not refused or (route == CHAT and content_type in (JSON, ""))
