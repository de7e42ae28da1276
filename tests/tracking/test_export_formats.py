"""Traces in other people's formats: columns, cells, slices."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracking.export import FORMATS, Mooncake
from tracking.export_csv import DECISIONS, REQUESTS
from tracking.trace import Attempt, Candidate, Decision, Trace, TraceDetail, TraceError, join_parts

DOCS = Path(__file__).parents[2] / "docs" / "export-and-tail.md"
RECORDER = (
    "timestamp", "worker_url", "request_id", "throughput_gradient", "latency_gradient", "score",
    "outstanding_requests", "avg_throughput", "avg_latency", "window_size", "selection_reason",
    "actual_output_tokens", "server_latency", "queue_time", "ttft", "decision_time_ms",
)  # fmt: skip


def trace(**facts: object) -> Trace:
    given: dict[str, object] = {
        "request_id": "r1",
        "key": "k1",
        "node_id": "worker-0",
        "worker_url": "http://localhost:30005",
        "routing_policy": "cache_aware",
        "status": "completed",
        "timestamp": "2026-01-31T12:00:00.250Z",
        "cache_hit_rate": None,
        "queue_size": 0,
    }
    return msgspec.convert({**given, **facts}, Trace)


def body(one: Trace, detail: TraceDetail | None = None) -> bytes:
    encode = msgspec.json.encode
    return join_parts(encode(one), encode(detail or TraceDetail()))


def exported(name: str, *pages: list[bytes]) -> str:
    form = FORMATS[name]()
    parts = [form.begin(), *(form.page(page) for page in pages), form.end()]
    return b"".join(parts).decode()


def rows(name: str, *pages: list[bytes]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(exported(name, *pages), newline="")))


WHOLE = TraceDetail(
    attempts=[Attempt("worker-0", "http://localhost:30005", "2026-01-31T12:00:00.260Z", 1.5, 200)],
    decision=Decision(
        "cache_aware", "prefix_match", "exact", 2,
        [
            Candidate("worker-0", "http://localhost:30005", True, {"in_flight": 3, "prefix_match": 0.5}),
            Candidate("worker-1", "http://localhost:30006", False, {"in_flight": 1, "strange": 0.25}),
        ],
        0.0, 0.000104,
    ),
    prefix_hashes=["00000000000007ff", "ffffffffffffffff"],
)  # fmt: skip


def test_ndjson_is_the_trace_objects_line_by_line():
    one = body(trace(), WHOLE)
    assert exported("ndjson", [one, one], [], [one]) == (one.decode() + "\n") * 3


def test_a_request_is_a_row_and_what_nobody_knows_is_an_empty_cell():
    one = trace(http_status=200, stream=True, ttft_seconds=0.2, input_tokens=7, cache_hit_rate=0.5)
    (row,) = rows("csv", [body(one, WHOLE)])
    assert row["request_id"] == "r1"
    assert row["reason"] == "prefix_match"
    assert (row["stream"], row["http_status"], row["attempts"]) == ("true", "200", "1")
    assert (row["ttft_seconds"], row["cache_hit_rate"], row["queue_size"]) == ("0.2", "0.5", "0")
    unknown = ["output_tokens", "error_type", "session_id", "completion_time", "duration_seconds"]
    assert [row[name] for name in unknown] == [""] * len(unknown)


def test_text_with_commas_quotes_and_lines_comes_back_as_it_was():
    text = 'a,b "c"\nd;é'
    one = trace(label=text, session_id=text)
    (row,) = rows("csv", [body(one)])
    assert (row["label"], row["session_id"]) == (text, text)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1"])
def test_text_that_a_spreadsheet_would_run_is_kept_from_it(text):
    (row,) = rows("csv", [body(trace(request_id=text, model=text, label=text))])
    assert {row["request_id"], row["model"], row["label"]} == {"'" + text}


def test_numbers_below_zero_stay_numbers():
    candidate = Candidate("w", "u", True, {"score": -0.5})
    detail = TraceDetail(decision=Decision("p", "r", "exact", 1, [candidate], 0.0, 0.0))
    (row,) = rows("decisions-csv", [body(trace(), detail)])
    assert row["score"] == "-0.5"


def test_each_candidate_of_a_decision_is_a_row_and_the_outcome_is_the_chosen_ones():
    one = trace(output_tokens=12, queue_seconds=0.01, ttft_seconds=0.2, duration_seconds=1.51)
    chosen, other = rows("decisions-csv", [body(one, WHOLE)])
    assert [chosen["chosen"], other["chosen"]] == ["true", "false"]
    assert (chosen["outstanding_requests"], other["outstanding_requests"]) == ("3", "1")
    assert (chosen["prefix_match"], other["other_numbers"]) == ("0.5", '{"strange":0.25}')
    outcome = ["actual_output_tokens", "server_latency", "queue_time", "ttft"]
    assert [chosen[name] for name in outcome] == ["12", "1.5", "0.01", "0.2"]
    assert [other[name] for name in outcome] == ["", "", "", ""]
    assert {chosen["decision_time_ms"], other["decision_time_ms"]} == {"0.104"}
    assert {chosen["selection_reason"], other["selection_reason"]} == {"prefix_match"}


def test_a_request_that_was_never_routed_has_no_decisions():
    assert rows("decisions-csv", [body(trace(status="rejected"))]) == []


def test_the_recorders_columns_come_first_under_its_names():
    assert tuple(DECISIONS)[: len(RECORDER)] == RECORDER


@pytest.mark.parametrize(("heading", "columns"), [("csv", REQUESTS), ("decisions-csv", DECISIONS)])
def test_the_docs_list_every_column_in_order(heading, columns):
    section = DOCS.read_text().split(f"\n### `{heading}`", 1)[1].split("\n### ", 1)[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == list(columns)


def test_the_docs_have_every_format():
    assert re.findall(r"^### `([\w-]+)`", DOCS.read_text(), re.MULTILINE) == list(FORMATS)


def test_mooncake_counts_from_the_first_and_leaves_out_what_cannot_be_replayed():
    first = trace(input_tokens=600, output_tokens=5)
    later = trace(input_tokens=7, output_tokens=1, timestamp="2026-01-31T12:00:03.251Z")
    form = Mooncake()
    text = form.page([body(trace()), body(first, WHOLE)]) + form.page([body(later)])
    lines = [json.loads(line) for line in text.splitlines()]
    assert form.left_out == 1
    assert lines == [
        {"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [0, 2**53 - 1]},
        {"timestamp": 3001, "input_length": 7, "output_length": 1, "hash_ids": []},
    ]


def test_words_of_another_version_are_no_error():
    strange = json.loads(body(trace(), WHOLE))
    strange |= {"status": "paused", "colour": "red", "error": {"type": "newer", "message": "m"}}
    strange["decision"]["quality"] = "hazy"
    one = json.dumps(strange).encode()
    for name in FORMATS:
        exported(name, [one])
    (row,) = rows("csv", [one])
    assert (row["status"], row["error_type"], row["quality"]) == ("paused", "newer", "hazy")


# --- Perfetto ------------------------------------------------------------------------------------

Event = dict[str, object]


def slices(events: list[Event]) -> dict[tuple[object, str], list[tuple[str, int, int]]]:
    """(name, begin, end) by track and id, as a viewer pairs them; fails where they do not nest."""
    open_: dict[tuple[object, str], list[Event]] = {}
    found: dict[tuple[object, str], list[tuple[str, int, int]]] = {}
    for event in sorted(events, key=lambda e: int(str(e["ts"]))):
        if event["ph"] == "M":
            continue
        track = event["pid"], str(event["id2"])
        if event["ph"] == "b":
            open_.setdefault(track, []).append(event)
        else:
            begun = open_[track].pop()
            assert begun["name"] == event["name"]
            times = int(str(begun["ts"])), int(str(event["ts"]))
            found.setdefault(track, []).append((str(event["name"]), *times))
    assert not any(open_.values())
    return found


def events_of(*pages: list[bytes]) -> list[Event]:
    return msgspec.convert(json.loads(exported("perfetto", *pages))["traceEvents"], list[Event])


def test_a_request_is_a_waterfall_on_its_worker():
    one = trace(stream=True, queue_seconds=0.01, ttft_seconds=0.2, duration_seconds=1.511)
    events = events_of([body(one, WHOLE)], [], [body(one, WHOLE)])
    names = [e["args"] for e in events if e["ph"] == "M"]
    assert names == [{"name": "worker-0"}]
    start = 1769860800250000
    (track,) = slices(events[: len(events) // 2 + 1]).values()
    assert track == [
        ("queue", start, start + 10_000),
        ("until first token", start + 10_000, start + 200_000),
        ("decode", start + 200_000, start + 1_510_000),
        ("attempt", start + 10_000, start + 1_510_000),
        ("request", start, start + 1_511_000),
    ]


def test_a_retry_is_shown_at_the_worker_that_failed():
    failed = Attempt(
        "worker-1", "http://localhost:30006", "2026-01-31T12:00:00.255Z", 0.003, None,
        TraceError("refused", "connect"),
    )  # fmt: skip
    detail = msgspec.structs.replace(WHOLE, attempts=[failed, *WHOLE.attempts])
    one = trace(queue_seconds=0.005, duration_seconds=1.6)
    events = events_of([body(one, detail)])
    names = {e["pid"]: msgspec.convert(e["args"], Event)["name"] for e in events if e["ph"] == "M"}
    found = {names[pid]: [one[0] for one in track] for (pid, _), track in slices(events).items()}
    assert found == {"worker-1": ["attempt 1"], "worker-0": ["queue", "attempt 2", "request"]}
    (begun,) = (e for e in events if e["name"] == "attempt 1" and e["ph"] == "b")
    assert begun["args"] == {"request_id": "r1", "error": "connect"}


def test_a_pair_is_one_attempt_with_its_prefill_at_its_own_worker():
    prefill = Attempt("prefill-0", "u", "2026-01-31T12:00:00.255Z", 0.1, 200, leg="prefill")
    decode = Attempt("worker-0", "u", "2026-01-31T12:00:00.255Z", 1.5, 200, leg="decode")
    one = trace(queue_seconds=0.005, duration_seconds=1.6)
    events = events_of([body(one, TraceDetail(attempts=[prefill, decode]))])
    found = [[name for name, *_ in track] for track in slices(events).values()]
    assert sorted(found) == [["prefill"], ["queue", "attempt", "request"]]


def test_an_export_of_nothing_is_still_json():
    assert events_of([]) == []
    assert rows("csv", []) == []


TIMES = st.one_of(st.none(), st.floats(0, 100))


@given(st.lists(st.tuples(TIMES, TIMES, TIMES, TIMES, st.integers(0, 3)), max_size=4))
def test_slices_of_ended_requests_always_nest(requests):
    bodies = []
    for number, (queue, ttft, duration, attempt, count) in enumerate(requests):
        one = trace(
            key=f"k{number}", queue_seconds=queue, ttft_seconds=ttft, duration_seconds=duration or 0
        )
        tried = Attempt("worker-0", "u", "2026-01-31T12:00:00.200Z", attempt)
        bodies.append(body(one, TraceDetail(attempts=[tried] * count)))
    slices(events_of(bodies))
