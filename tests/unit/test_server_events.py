"""Server-sent events out of bytes, however they are cut."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracking.client.asking import Answer, Replicas, error_of, next_page, query, text_of
from tracking.client.events import EventReader, ServerEvent, Tailing

STREAM = (
    b"retry: 2500\n: a comment\nid: 1-1\n\n"
    b"event: trace\r\nid: 1-2\r\ndata: {\r\ndata:  }\r\n\r\n"
    b"data\rdata: x\r\r"
    b"id: 1-3\n\nevent: nothing\n\n: end\n\ndata: unfinished\n"
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_events_are_the_same_however_the_stream_is_cut(cuts: list[int]) -> None:
    reader = EventReader()
    events: list[ServerEvent] = []
    ends = [*sorted(cuts), len(STREAM)]
    for start, end in zip([0, *ends], ends, strict=False):
        events += reader.feed(STREAM[start:end])
    assert events == [("trace", "{\n }"), ("message", "\nx")]
    assert (reader.last_id, reader.retry_seconds) == ("1-3", 2.5)


def test_what_was_unfinished_is_forgotten_by_the_next_stream() -> None:
    reader = EventReader()
    reader.feed(b"data: old\nid: 5")
    reader.restart()
    assert reader.feed(b"data: new\n\n") == [("message", "new")]
    assert reader.last_id == ""


def test_pauses_between_connections_grow_until_one_brings_something() -> None:
    tailing = Tailing({}, "")
    assert [tailing.pause_seconds() for _ in range(5)] == [1, 2, 4, 8, 10]
    tailing.feed(b": hello\n\n")
    assert tailing.pause_seconds() == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "1"),
        (False, "0"),
        (3, "3"),
        (0.25, "0.25"),
        (5.0, "5"),
        (1e-7, "0.0000001"),
        ("5xx", "5xx"),
        (["node", "model"], "node,model"),
        (timedelta(minutes=15), "900s"),
        (datetime(2026, 1, 31, 12, tzinfo=UTC), "2026-01-31T12:00:00+00:00"),
    ],
)
def test_values_are_written_as_the_router_reads_them(value: object, text: str) -> None:
    assert text_of(value) == text  # type: ignore[arg-type]


def test_a_time_without_a_zone_could_be_any_and_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        text_of(datetime(2026, 1, 31))  # noqa: DTZ001


def test_the_next_page_is_asked_of_any_replica() -> None:
    link = '</v1/traces?status=failed&cursor=abc>; rel="next"'
    ask = next_page(Answer(200, {"link": link}, b"[]"))
    assert ask is not None
    assert ask.target == "/v1/traces?status=failed&cursor=abc"
    assert next_page(Answer(200, {}, b"[]")) is None


def test_nothing_is_asked_of_a_parameter_that_is_none() -> None:
    assert query("GET", "/stats", {"window": None}).target == "/v1/traces/stats"
    assert query("GET", "", {"label": "a b", "limit": 5}).target == "/v1/traces?label=a+b&limit=5"


def test_an_answer_that_is_no_error_object_is_told_as_it_is() -> None:
    error = error_of(Answer(502, {}, b"<html>bad gateway"))
    assert (error.status, error.code, str(error)) == (502, "", "<html>bad gateway")


@pytest.mark.parametrize("urls", [[], ["localhost:30009"], ["ftp://a"], ["http://"]])
def test_a_url_must_be_one(urls: list[str]) -> None:
    with pytest.raises(ValueError, match="http"):
        Replicas(urls)
