"""However much is tried and weighed for one request, its record stays small and keeps its outcome."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tracking.traces import live, record
from tracking.record import Record
from tracking.size import LARGEST_RECORD
from tracking.trace import Attempt, Candidate, Decision, TraceError

LIMIT = 40_000  # the record's own limit, and room for what is in the meta line


def decision(candidates: int) -> Decision:
    return Decision(
        policy="cache_aware", reason="cached", quality="exact", candidate_count=candidates,
        candidates=[
            Candidate(f"worker-{n}", f"http://host-{n}:30005", n == 0, {"load": n, "matched": 0.5})
            for n in range(candidates)
        ],
        load_age_seconds=0.1, decision_seconds=0.001,
    )  # fmt: skip


def attempt(number: int, message: str = "") -> Attempt:
    error = TraceError(message or "refused", "connect")
    return Attempt(f"worker-{number}", f"http://host-{number}:30005", "now", 0.1, None, error)


def shown(one: Record) -> dict:
    return msgspec.json.decode(one.whole())


def test_a_common_record_is_left_alone():
    one = live()
    one.decision = decision(64)
    whole = shown(Record(one, "a/1"))
    assert len(whole["decision"]["candidates"]) == 64
    assert "trimmed" not in whole


def test_a_long_receipt_gives_way_first():
    one = live()
    one.decision = decision(1000)
    one.attempts = [attempt(n) for n in range(20)]
    whole = shown(Record(one, "a/1"))
    assert whole["trimmed"] is True
    assert len(whole["decision"]["candidates"]) == 8
    assert whole["decision"]["candidates"][0]["chosen"]
    assert whole["decision"]["candidate_count"] == 1000
    assert len(whole["attempts"]) == 20


def test_of_too_many_attempts_the_first_and_the_last_are_kept():
    one = live()
    one.attempts = [attempt(n) for n in range(1000)]
    kept = [tried["node_id"] for tried in shown(Record(one, "a/1"))["attempts"]]
    assert kept == ["worker-0", "worker-1", *(f"worker-{n}" for n in range(994, 1000))]


def test_long_words_of_workers_are_cut():
    one = live()
    one.attempts = [attempt(n, "x" * 20_000) for n in range(3)]
    assert [len(t["error"]["message"]) for t in shown(Record(one, "a/1"))["attempts"]] == [200] * 3


@settings(max_examples=60)
@given(
    st.integers(0, 1500), st.integers(0, 600), st.integers(0, 30_000), st.integers(0, 100_000),
    st.integers(0, 3000), st.sampled_from(["x", '"', "é", "\udce9", "\x01"]),
)  # fmt: skip
def test_no_record_is_larger_than_its_limit_and_the_outcome_is_kept(
    candidates, attempts, message, text, hashes, letter
):
    one = live("k", session="s")
    one.decision = decision(candidates)
    one.attempts = [attempt(n, letter * message) for n in range(min(attempts, 20))]
    one.attempts += [attempt(n) for n in range(attempts)]
    one.prefix_hashes = ["0" * 16] * hashes
    one.route = letter * text
    one.model = letter * text
    one.error = TraceError(letter * text, "worker_status")
    one.http_status = 502
    before = msgspec.to_builtins(one.detail())
    made = Record(one, "a/1")
    assert len(made.row) + len(made.detail) <= LARGEST_RECORD
    assert len(made.stored) <= LIMIT
    whole = shown(made)
    assert (whole["key"], whole["status"], whole["http_status"]) == ("k", "completed", 502)
    assert whole["error"]["type"] == "worker_status"
    assert msgspec.to_builtins(one.detail()) == before


@pytest.mark.redis
async def test_a_trimmed_record_is_stored_and_found(backend):
    store = backend.store()
    one = live("k")
    one.decision = decision(3000)
    await store.write([Record(one, "a/1"), record("other")])
    (found,) = await store.get(["k"])
    assert found is not None
    assert msgspec.json.decode(found.body)["trimmed"] is True
