"""A command in the form in which the server reads it."""

from __future__ import annotations

import hiredis
from hypothesis import given
from hypothesis import strategies as st

from tracking.lines import Start, packed

ARGUMENTS = st.one_of(
    st.binary(max_size=600),
    st.integers(4090, 4100).map(bytes),  # lengths beyond those that are made beforehand
    st.text(max_size=300).filter(lambda text: text.isprintable()),
    st.integers(),
)


@given(st.lists(ARGUMENTS, min_size=1, max_size=4), st.lists(ARGUMENTS, max_size=8))
def test_a_command_is_packed_as_others_pack_it(start, rest):
    assert packed(Start(*start), rest) == hiredis.pack_command((*start, *rest))
