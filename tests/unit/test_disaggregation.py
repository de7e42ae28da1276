"""What is added to a body for a pair of workers, and that nothing else of it changes."""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.disaggregation import (
    for_decode,
    for_prefill,
    is_transfer_trouble,
    meeting,
    wants_input_logprobs,
    with_fields,
)
from router.core.facts import BadBody
from router.core.logprobs import InputLogprobs

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["text", "stream", "max_tokens", "bootstrap_room", "kv_transfer_params", "min_tokens", 'é\\"']
)
OBJECTS = st.dictionaries(NAMES | st.text(), JSON, max_size=6)
SPACE = st.sampled_from(["", " ", "\n\t ", "\r\n"])


@given(OBJECTS, SPACE, SPACE, st.booleans(), st.integers(1, 5), st.none() | st.integers(0, 65535))
def test_a_meeting_point_is_added_and_everything_else_stays(fields, before, after, ascii, n, port):
    body = (before + json.dumps(fields, ensure_ascii=ascii) + after).encode("utf-8", "replace")
    fields = json.loads(body)
    point = meeting("::1", port, n, Random(1))
    sent = with_fields(body, point)
    added = {name: json.loads(value) for name, value in point.items()}
    assert json.loads(sent) == {**fields, **added}
    if not any(name.encode() in body for name in point):
        assert sent.startswith(body.rstrip()[:-1].rstrip())
    if n > 1:
        assert len(set(added["bootstrap_room"])) == n


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b"{} x", b'{"a":1'])
def test_what_is_no_object_is_refused(body):
    with pytest.raises(BadBody):
        with_fields(body, {"a": b"1"})


def test_a_name_written_with_escapes_does_not_win():
    sent = with_fields(b'{"bootstrap\\u005fhost":"10.9.9.9"}', {"bootstrap_host": b'"p"'})
    assert json.loads(sent) == {"bootstrap_host": "p"}


@given(OBJECTS)
def test_a_prefill_is_for_one_token_and_else_the_same(fields):
    asked = json.loads(for_prefill(json.dumps(fields).encode("utf-8", "replace")))
    fields = json.loads(json.dumps(fields).encode("utf-8", "replace"))
    ours = {"max_tokens", "stream", "kv_transfer_params", "min_tokens", "stream_options"}
    assert {n: v for n, v in asked.items() if n not in ours} == {
        n: v for n, v in fields.items() if n not in ours
    }
    assert (asked["max_tokens"], asked["stream"]) == (1, False)
    assert asked["kv_transfer_params"]["do_remote_decode"] is True
    assert not {"min_tokens", "stream_options"} & set(asked)


@given(JSON)
def test_the_decode_is_handed_what_the_prefill_said_as_it_was_said(params):
    said = json.dumps({"choices": [], "kv_transfer_params": params}).encode()
    sent = json.loads(for_decode(b'{"prompt":"x"}', said))
    expected = {"prompt": "x"} if params is None else {"prompt": "x", "kv_transfer_params": params}
    assert sent == json.loads(json.dumps(expected))


@pytest.mark.parametrize("said", [b"", b"not json", b"{}", b'{"kv_transfer_params":null}', b"[]"])
def test_without_a_word_of_a_transfer_the_request_is_sent_as_it_is(said):
    assert for_decode(b'{"prompt":"x"}', said) == b'{"prompt":"x"}'


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (b'{"return_logprob":true}', True),
        (b'{"return_logprob":[false,true]}', True),
        (b'{"return_logprob":false}', False),
        (b'{"text":"return_logprob"}', False),
        (b'{"return_logprob":tru', False),
    ],
)
def test_logprobs_are_merged_only_where_they_are_asked_for(body, wanted):
    assert wants_input_logprobs(body) is wanted


def test_complaints_about_the_other_worker_are_known():
    assert is_transfer_trouble("Decode handshake failed for request rank=0 req.rid='x'")
    assert is_transfer_trouble("... with exception KVTransferError(bootstrap_room=5)")
    assert not is_transfer_trouble("CUDA out of memory")


@given(st.lists(JSON, max_size=3), st.lists(JSON, max_size=3), OBJECTS)
def test_logprobs_are_put_together_and_the_rest_of_the_answer_stays(ours, theirs, rest):
    def answer(items: list[object]) -> bytes:
        meta = {**rest, "input_token_logprobs": items}
        return json.dumps({**rest, "meta_info": meta}).encode("utf-8", "replace")

    known = InputLogprobs(answer(ours), stream=False)
    expected = json.loads(answer([*ours, *theirs]))
    assert json.loads(known.body(answer(theirs))) == expected
    event = known.event(b"data: " + answer(theirs))
    assert json.loads(event.removeprefix(b"data: ")) == expected
    (batch,) = json.loads(known.body(b"[" + answer(theirs) + b"]"))
    assert batch == expected


@pytest.mark.parametrize(
    "decoded", [b"", b"data: [DONE]", b": ping", b"data: {", b'data: {"meta_info":5}', b"event: x"]
)
@pytest.mark.parametrize("prefilled", [b"", b"[]", b"{}", b'{"meta_info":{}}', b"data: x\n\n"])
def test_what_cannot_be_merged_stays_as_it_is(decoded, prefilled):
    for stream in (False, True):
        known = InputLogprobs(prefilled, stream=stream)
        assert known.event(decoded) == decoded
        assert known.body(decoded) == decoded
