"""Request ids, keys, trace ids and labels."""

from __future__ import annotations

import string
from random import Random
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from router.core.ids import (
    acceptable,
    label,
    request_identity,
    uuid7,
    w3c_trace_id,
)

NAMES = ("x-request-id", "x-correlation-id", "x-trace-id")


def identity(**headers: str) -> tuple[str, str | None]:
    sent = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    return request_identity(sent, NAMES, "minted")


@pytest.mark.parametrize(
    "given",
    ["a", "test-manual-123", "x" * 128, "a:b;c=d&e", "~!@$^*()[]{}|<>'\"`,._+", "Stats", "..."],
)
def test_visible_ascii_is_taken_as_it_is(given: str) -> None:
    assert identity(X_Request_Id=given) == (given, None)


def test_whitespace_around_a_value_is_no_part_of_it() -> None:
    assert identity(X_Request_Id="a \t") == ("a", None)
    assert identity(X_Request_Id=" a") == ("a", None)


@pytest.mark.parametrize(
    "given",
    [
        *("x" * 129, "a b", "a\n", "a\tb", "ä", "a\x7f", "a\0", "\udcff", "٣"),
        *("a/b", "a?b", "a#b", "a%20b"),
        *("stats", "batch", "stream", "export", ".", ".."),
    ],
)
def test_anything_else_is_replaced_and_remembered(given: str) -> None:
    assert identity(X_Request_Id=given) == ("minted", given)


def test_an_id_is_minted_where_none_is_given() -> None:
    assert identity() == ("minted", None)
    assert identity(X_Request_Id="") == ("minted", None)


def test_without_x_request_id_the_first_other_header_is_read() -> None:
    assert identity(X_Trace_Id="t") == ("t", None)
    assert identity(X_Trace_Id="t", X_Correlation_Id="c") == ("c", None)
    assert identity(X_Trace_Id="t", X_Correlation_Id="") == ("t", None)
    assert identity(X_Trace_Id="t", X_Request_Id="") == ("t", None)
    assert identity(X_Correlation_Id="a b", X_Trace_Id="t") == ("minted", "a b")
    assert identity(Request_Id="unlisted") == ("minted", None)


def test_x_request_id_goes_before_all_others() -> None:
    assert identity(X_Correlation_Id="c", X_Request_Id="r") == ("r", None)
    assert identity(X_Correlation_Id="c", X_Request_Id="r r") == ("minted", "r r")


ALLOWED = set(string.ascii_letters + string.digits + string.punctuation) - set("/?#%")


@given(st.text(max_size=130) | st.text(sorted(ALLOWED), max_size=130))
def test_the_rule_is_that_of_the_contract(given_id: str) -> None:
    reserved = {"stats", "batch", "stream", "export", ".", ".."}
    expected = 1 <= len(given_id) <= 128 and set(given_id) <= ALLOWED and given_id not in reserved
    assert acceptable(given_id) == expected


@given(st.integers(0, 2**48 * 1000 - 1), st.integers())
def test_a_key_is_a_uuid_of_version_7_that_holds_its_time(unix_us: int, seed: int) -> None:
    key = uuid7(unix_us, Random(seed).getrandbits)
    uuid = UUID(key)
    assert str(uuid) == key
    assert (uuid.version, uuid.variant) == (7, RFC_4122)
    assert uuid.int >> 80 == unix_us // 1000
    assert acceptable(key)


@given(st.integers(0, 10**16), st.integers(1, 10**7), st.integers())
def test_keys_sort_by_time_to_the_microsecond(unix_us: int, later: int, seed: int) -> None:
    bits = Random(seed).getrandbits
    assert uuid7(unix_us, bits) < uuid7(unix_us + later, bits)


def test_keys_of_one_moment_differ() -> None:
    bits = Random(1).getrandbits
    assert len({uuid7(1_700_000_000_000_000, bits) for _ in range(1000)}) == 1000


TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


@pytest.mark.parametrize(
    "header",
    [
        f"00-{TRACE}-{PARENT}-01",
        f" 00-{TRACE}-{PARENT}-00 ",
        f"01-{TRACE}-{PARENT}-01",
        f"cc-{TRACE}-{PARENT}-01-what-the-future-brings",
    ],
)
def test_the_trace_id_of_a_valid_traceparent_is_kept(header: str) -> None:
    assert w3c_trace_id(header) == TRACE


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "nonsense",
        TRACE,
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}-01-more",
        f"01-{TRACE}-{PARENT}-01more",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}g-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01\n00",
    ],
)
def test_anything_else_is_no_trace_id(header: str | None) -> None:
    assert w3c_trace_id(header) is None


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("warm cache, run 3", "warm cache, run 3"),
        ("  spaced  ", "spaced"),
        ("größer", "größer"),
        ("x" * 64, "x" * 64),
        ("x" * 65, "x" * 64),
        ("", None),
        ("   ", None),
        (None, None),
        ("two\nlines", None),
        ("bell\x07", None),
        ("broken\udcff", None),
        ("rtl\u202eoverride", None),
    ],
)
def test_a_label_is_printable_and_at_most_64_characters(value, kept) -> None:
    assert label(value) == kept
