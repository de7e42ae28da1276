"""What the list may be asked, and how a wrong question is answered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracking.query import (
    PARAMETERS,
    QueryError,
    TraceQuery,
    decode_cursor,
    encode_cursor,
    parse_query,
)


def test_no_parameters_ask_for_the_newest_hundred():
    assert parse_query([]) == TraceQuery(limit=100)


def test_every_parameter_has_its_place():
    asked = [
        ("limit", "1000"),
        ("node_id", "gpu-2"),
        ("status", "failed"),
        ("session_id", "s 1"),
        ("cursor", encode_cursor(17, "k:1")),
        ("detail", "1"),
    ]
    assert {name for name, _ in asked} == set(PARAMETERS)
    assert parse_query(asked) == TraceQuery(
        limit=1000, node_id="gpu-2", status="failed", session_id="s 1", cursor=(17, "k:1"),
        detail=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", "0"), ("limit", "1001"), ("limit", "-1"), ("limit", "ten"), ("limit", ""),
        ("limit", "1.5"), ("limit", "٣"), ("limit", "9" * 5000), ("limit", " 5"),
        ("status", "done"), ("status", ""), ("node_id", ""), ("session_id", "x" * 257),
        ("cursor", ""), ("cursor", "!"), ("cursor", "é"), ("cursor", "bm8"), ("detail", "yes"),
        ("cursor", encode_cursor(2**60, "k")), ("cursor", encode_cursor(1, "")),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_naming_the_parameter_and_what_is_allowed(name, value):
    with pytest.raises(QueryError) as refused:
        parse_query([(name, value)])
    assert refused.value.parameter == name
    assert repr(name) in str(refused.value)
    assert PARAMETERS[name].allowed in str(refused.value)


def test_an_unknown_parameter_is_refused_naming_the_known_ones():
    with pytest.raises(QueryError) as refused:
        parse_query([("limt", "5")])
    assert refused.value.parameter == "limt"
    for known in PARAMETERS:
        assert known in str(refused.value)


def test_a_parameter_given_twice_is_refused():
    with pytest.raises(QueryError, match="'limit' is given more than once"):
        parse_query([("limit", "5"), ("limit", "5")])


@given(st.integers(0, 2**53 - 1), st.text("abc:%_-é", min_size=1))
def test_a_cursor_comes_back_as_it_went(arrived_us, key):
    assert decode_cursor(encode_cursor(arrived_us, key)) == (arrived_us, key)


@given(st.text())
def test_any_text_as_cursor_is_a_place_or_a_refusal(text):
    try:
        query = parse_query([("cursor", text)])
    except QueryError:
        return
    assert query.cursor is not None
