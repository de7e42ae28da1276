"""A field set in a body leaves every other byte as it was."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.splice import in_front, with_field

NAMES = st.sampled_from(["model", "x", 'a"model":"b', "models", "", "\\"]) | st.text(max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | NAMES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=5)
INDENTS = st.sampled_from([None, 0, 3])


@given(OBJECTS, VALUES, INDENTS, st.booleans())
def test_the_field_has_the_new_value_and_all_others_their_own(
    fields: dict[str, object], value: object, indent: int | None, ascii_only: bool
) -> None:
    body = json.dumps(fields, indent=indent, ensure_ascii=ascii_only).encode()
    changed = with_field(body, b"model", json.dumps(value).encode())
    assert changed is not None
    assert json.loads(changed) == {**fields, "model": value}


@given(OBJECTS, st.text(max_size=5))
def test_there_and_back_is_the_same_body(fields: dict[str, object], name: str) -> None:
    before = json.dumps("old").encode()
    body = json.dumps({**fields, "model": "old"}).encode()
    changed = with_field(body, b"model", json.dumps(name).encode())
    assert changed is not None
    assert with_field(changed, b"model", before) == body


def test_a_field_that_is_there_twice_is_set_twice() -> None:
    body = b'{"model":"a","x":[{"model":"a"}],"model" :\t"b"}'
    assert with_field(body, b"model", b"1") == b'{"model":1,"x":[{"model":"a"}],"model" :\t1}'


@pytest.mark.parametrize("body", [b"", b"[]", b'"model"', b'["model"]', b"x"])
def test_what_is_no_object_stays_alone(body: bytes) -> None:
    assert with_field(body, b"model", b"1") is None
    assert in_front(body, b"model", b"1") is None
