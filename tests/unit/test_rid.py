"""An id is spliced into a body, and only where it changes nothing else."""

from __future__ import annotations

import json

import pytest

from router.core.rid import with_rid


@pytest.mark.parametrize(
    "body",
    [b'{"text":"hi"}', b' \r\n\t{ "text" : "hi" }\n', b"{}", b"{ \n}", b'{"a":{"b":[1]}}'],
)
def test_the_id_comes_first_and_the_rest_stays_byte_for_byte(body: bytes) -> None:
    changed = with_rid(body, "id-1")
    assert changed is not None
    assert json.loads(changed) == {"rid": "id-1", **json.loads(body)}
    before, after = body.split(b"{", 1)
    assert changed.startswith(before + b'{"rid":"id-1"')
    assert changed.endswith(after)


@pytest.mark.parametrize(
    "body",
    [
        b'{"rid":"mine"}',
        b'{"text":"hi","rid" : null}',
        b'{"rid":["a","b"],"text":["x","y"]}',
        b'{"text":"say \\"rid\\" twice: "rid""}',
        b"[1]",
        b'"text"',
        b"",
        b"  ",
        b"\x1f\x8b{",
    ],
)
def test_nothing_is_added_to_a_body_that_has_one_or_is_no_object(body: bytes) -> None:
    assert with_rid(body, "id-1") is None
