"""What the list may be asked, how a wrong question is answered, and which records a filter passes."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tracking.traces import live
from tracking.query import (
    DETAIL_FIELDS,
    FIELDS,
    FILTERS,
    PARAMETERS,
    Matcher,
    QueryError,
    TraceQuery,
    parse_query,
    shape,
)
from tracking.record import Record
from tracking.trace import Decision, TraceError
from tracking.values import decode_cursor, encode_cursor

NOON_US = 1_767_268_800_123_456  # 2026-01-01T12:00:00.123456Z
LONG = "x" * 257

# For each parameter: a text and what it means, and texts that are refused.
EXAMPLES: dict[str, tuple[str, object, list[str]]] = {
    "node_id": ("gpu-2", "gpu-2", ["", LONG]),
    "prefill_node_id": ("gpu-2", "gpu-2", ["", LONG]),
    "status": ("failed", "failed", ["done", "", "failed,lost"]),
    "session_id": ("s 1", "s 1", ["", LONG]),
    "http_status": ("5xx", "5xx", ["", "600", "99", "5x", "xxx", "0xx", "5XX", "200 "]),
    "error_type": ("worker_cut", "worker_cut", ["", "broken"]),
    "route": ("/generate", "/generate", ["", LONG]),
    "model": ("m", "m", ["", LONG]),
    "policy": ("cache_aware", "cache_aware", ["", LONG]),
    "reason": ("prefix_match", "prefix_match", ["", LONG]),
    "router_id": ("router-0", "router-0", ["", LONG]),
    "label": ("run 7", "run 7", ["", LONG]),
    "request_id_prefix": ("test-", "test-", ["", LONG]),
    "stream": ("0", False, ["", "yes", "2"]),
    "cache": ("miss", "miss", ["", "none"]),
    "min_duration_seconds": ("0.25", 0.25, ["", "-1", "1e3", "nan", "inf", "1s", " 1", "1_0", "٣"]),
    "max_duration_seconds": ("30", 30.0, ["", ".5", "5."]),
    "min_ttft_seconds": ("1.5", 1.5, ["", "+1"]),
    "since": (
        "15m", NOON_US // 1000 * 1000 - 900_000_000,
        ["", "15", "m", "-15m", "1.5h", "15 m", "15min", "2026-01-01", "2026-01-01T12:00:00",
         "2026-02-30T12:00:00Z", "2026-01-01T25:00:00Z", "T", "\ud800T", "9999999999d"],
    ),
    "until": ("2026-01-01T13:00:00.5+01:00", NOON_US - 123_456 + 500_000, ["now", "1767268800"]),
    "limit": ("1000", 1000, ["0", "1001", "-1", "ten", "", "1.5", "٣", "9" * 5000, " 5"]),
    "order": ("asc", "asc", ["", "newest", "ASC"]),
    "cursor": (
        encode_cursor(17, "k:1"), (17, "k:1"),
        ["", "!", "é", "bm8", encode_cursor(2**60, "k"), encode_cursor(1, "")],
    ),
    "detail": ("1", True, ["", "yes"]),
    "fields": ("request_id,decision", ("request_id", "decision"), ["", "request_id,", "prompt"]),
}  # fmt: skip


def facts(**fields: object) -> Record:
    """A stored trace with these fields; `decision_reason` and `error_type` go where they belong."""
    one = live("key-1", request_id="test-7", node="worker-0", session="s")
    for name, value in fields.items():
        if name == "decision_reason":
            one.decision = Decision("p", str(value), "exact", 1, [], 0.0, 0.0)
        elif name == "error_type":
            one.error = TraceError("broke", value)  # type: ignore[arg-type]
        else:
            assert hasattr(one, name)
            setattr(one, name, value)
    return Record(one, "a/1")


# For each filter but the time range: a text, a trace that passes and traces that do not.
PASSES: dict[str, tuple[str, Record, list[Record]]] = {
    "node_id": ("worker-1", facts(node_id="worker-1"), [facts(node_id="worker-11")]),
    "prefill_node_id": (
        "worker-1", facts(prefill_node_id="worker-1"),
        [facts(node_id="worker-1"), facts(prefill_node_id="worker-11")],
    ),
    "status": ("failed", facts(status="failed"), [facts(status="completed")]),
    "session_id": ("s", facts(), [facts(session_id="S"), facts(session_id=None)]),
    "http_status": (
        "5xx", facts(http_status=503),
        [facts(http_status=499), facts(http_status=600), facts(http_status=None)],
    ),
    "error_type": ("connect", facts(error_type="connect"), [facts(), facts(error_type="worker_cut")]),
    "route": ("/generate", facts(), [facts(route="/generate2"), facts(route=None)]),
    "model": ("a", facts(model="a"), [facts(model="b"), facts(model=None)]),
    "policy": ("random", facts(routing_policy="random"), [facts()]),
    "reason": ("tie", facts(decision_reason="tie"), [facts(), facts(decision_reason="ties")]),
    "router_id": ("r-1", facts(router_id="r-1"), [facts(router_id=None)]),
    "label": ("a", facts(label="a"), [facts(label="A"), facts()]),
    "request_id_prefix": ("test-7", facts(), [facts(request_id="test-8"), facts(request_id="a-test-7")]),
    "stream": ("1", facts(stream=True), [facts(stream=False), facts(stream=None)]),
    "cache": (
        "hit", facts(cache_hit_rate=0.01), [facts(cache_hit_rate=0.0), facts(cache_hit_rate=None)],
    ),
    "min_duration_seconds": (
        "2", facts(duration_seconds=2.0), [facts(duration_seconds=1.999), facts()],
    ),
    "max_duration_seconds": (
        "2", facts(duration_seconds=2.0), [facts(duration_seconds=2.001), facts()],
    ),
    "min_ttft_seconds": ("0.5", facts(ttft_seconds=0.5), [facts(ttft_seconds=0.4), facts()]),
}  # fmt: skip


def ask(*params: tuple[str, str]) -> TraceQuery:
    return parse_query(params, NOON_US)


def test_no_parameters_ask_for_the_newest_hundred():
    assert ask() == TraceQuery(limit=100, order="desc")


def test_every_parameter_has_an_example_here():
    assert list(EXAMPLES) == list(PARAMETERS)
    assert {*PASSES, "since", "until"} == set(FILTERS)


def test_all_parameters_can_be_given_at_once():
    query = ask(*((name, text) for name, (text, _, _) in EXAMPLES.items()))
    assert list(msgspec.structs.astuple(query)) == [value for _, value, _ in EXAMPLES.values()]


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, text) for name, (_, _, refused) in EXAMPLES.items() for text in refused],
)
def test_a_wrong_value_is_refused_naming_the_parameter_and_what_is_allowed(name, value):
    with pytest.raises(QueryError) as refused:
        ask((name, value))
    assert refused.value.parameter == name
    assert repr(name) in str(refused.value)
    assert PARAMETERS[name].allowed in str(refused.value)


def test_an_unknown_parameter_is_refused_naming_the_known_ones():
    with pytest.raises(QueryError) as refused:
        ask(("limt", "5"))
    assert refused.value.parameter == "limt"
    for known in PARAMETERS:
        assert known in str(refused.value)


def test_where_only_some_parameters_make_sense_the_others_are_unknown():
    query = parse_query([("model", "m")], NOON_US, allowed=FILTERS)
    assert query == TraceQuery(model="m")
    with pytest.raises(QueryError, match="unknown parameter 'limit'"):
        parse_query([("limit", "5")], NOON_US, allowed=FILTERS)


def test_a_parameter_given_twice_is_refused():
    with pytest.raises(QueryError, match="'since' is given more than once"):
        ask(("since", "5m"), ("since", "5m"))


@given(st.integers(0, 2**53 - 1), st.text("abc:%_-é", min_size=1))
def test_a_cursor_comes_back_as_it_went(arrived_us, key):
    assert decode_cursor(encode_cursor(arrived_us, key)) == (arrived_us, key)


@pytest.mark.parametrize("name", PARAMETERS)
@given(text=st.text())
def test_any_text_is_a_value_or_a_refusal(name, text):
    try:
        query = ask((name, text))
    except QueryError:
        return
    assert query != TraceQuery() or text in ("100", "desc", "0", "false")


# --- what passes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PASSES)
def test_a_filter_passes_what_it_names_and_nothing_else(name):
    text, passing, others = PASSES[name]
    matcher = Matcher(ask((name, text)))
    assert matcher(passing.row, passing.detail)
    assert not any(matcher(other.row, other.detail) for other in others)


@pytest.mark.parametrize(
    ("state", "rate", "passes"),
    [("miss", 0.0, True), ("miss", 0.5, False), ("miss", None, False),
     ("unknown", None, True), ("unknown", 0.0, False)],
)  # fmt: skip
def test_a_cache_is_hit_missed_or_unknown(state, rate, passes):
    assert Matcher(ask(("cache", state)))(facts(cache_hit_rate=rate).row) is passes


def test_one_status_code_is_that_code_only():
    matcher = Matcher(ask(("http_status", "429")))
    assert [matcher(facts(http_status=code).row) for code in (428, 429, 430)] == [
        False,
        True,
        False,
    ]


def test_all_filters_given_must_match():
    matcher = Matcher(ask(("model", "a"), ("stream", "1")))
    assert matcher(facts(model="a", stream=True).row)
    assert not matcher(facts(model="a", stream=False).row)


def test_words_of_a_newer_version_are_read_without_error():
    row = b'{"request_id":"r","status":"paused","error":{"type":"new"},"novel":{"a":[1]}}'
    assert Matcher(ask(("request_id_prefix", "r")))(row)
    assert not Matcher(ask(("error_type", "connect")))(row)


def test_a_range_begins_with_its_first_moment_and_ends_before_its_last():
    query = TraceQuery(since_us=10, until_us=20)
    assert [query.covers(us, "k") for us in (9, 10, 19, 20)] == [False, True, True, False]


def test_a_cursor_is_followed_in_the_order_asked():
    places = [(1, "a"), (1, "c"), (2, "a")]
    down, up = TraceQuery(cursor=(1, "b")), TraceQuery(cursor=(1, "b"), order="asc")
    assert [down.covers(*place) for place in places] == [True, False, False]
    assert [up.covers(*place) for place in places] == [False, True, True]


# --- what is shown ---------------------------------------------------------------------------------


def shown(record: Record, *params: tuple[str, str]) -> dict[str, object]:
    return msgspec.json.decode(shape(ask(*params), record.row, record.detail))


def test_the_detail_is_shown_when_asked_for():
    record = facts(decision_reason="tie")
    assert not set(DETAIL_FIELDS) & set(shown(record))
    assert {"attempts", "decision"} <= set(shown(record, ("detail", "1")))


def test_only_the_fields_asked_for_are_shown_in_their_usual_order_and_as_stored():
    record = facts(decision_reason="tie", cache_hit_rate=None)
    picked = shown(record, ("fields", "decision,cache_hit_rate,node_id,label"))
    assert list(picked) == ["node_id", "cache_hit_rate", "decision"]
    assert picked["cache_hit_rate"] is None
    assert list(shown(record, ("fields", "key"), ("detail", "1"))) == [
        "key",
        "attempts",
        "decision",
    ]


def test_every_field_of_a_trace_can_be_asked_for():
    record = facts(decision_reason="tie")
    assert shown(record, ("fields", ",".join(FIELDS))) == msgspec.json.decode(record.whole())
