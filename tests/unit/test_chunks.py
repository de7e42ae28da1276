"""One chunk, known by its bytes."""

from __future__ import annotations

import pytest

from router.core.chunks import LONGEST, only_chunk


def test_a_chunk_is_found_where_it_is_all_there_is() -> None:
    for size in range(1, LONGEST):
        payload = b"x" * size
        chunk = b"%x\r\n%b\r\n" % (size, payload)
        assert only_chunk(chunk) == (payload if len(chunk) < LONGEST else None)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n",
        b"0\r\n\r\n",
        b"2\r\nab",
        b"2\r\nab\r",
        b"2\r\nabc\r\n",
        b"3\r\nab\r\n",
        b"02\r\nab\r\n",
        b"2;a=b\r\nab\r\n",
        b"2\r\nab\r\n0\r\n\r\n",
        b"1\r\na\r\n1\r\nb\r\n",
        b"A\r\n0123456789\r\n",
        b"f\r\n0123456789abcdef\r\n",
    ],
)
def test_anything_else_is_for_a_parser(data: bytes) -> None:
    assert only_chunk(data) is None
