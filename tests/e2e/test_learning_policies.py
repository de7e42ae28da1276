"""Policies that learn hold the fleet's finished requests, and the recorder writes what they saw."""

from __future__ import annotations

import asyncio
import csv
from pathlib import Path

import msgspec
import pytest

from router.decision_csv import COLUMNS
from tests.fleets import body, fleet, post
from tests.processes import Json, Processes
from tests.waiting import PATIENCE_SECONDS, POLL_SECONDS

pytestmark = [pytest.mark.e2e, pytest.mark.redis]
COUNT = 12


def numbers(trace: Json) -> list[dict[str, float]]:
    decision = msgspec.convert(trace["decision"], Json)
    candidates = msgspec.convert(decision["candidates"], list[Json])
    return [msgspec.convert(each["numbers"], dict[str, float]) for each in candidates]


def rows_in(folder: Path) -> list[dict[str, str]]:
    (path,) = folder.glob("*.csv")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


async def test_the_window_holds_what_all_replicas_finished_and_what_was_before(
    processes: Processes,
):
    flags = ["--policy=marginal_utility"]
    async with fleet(processes, workers=1, replicas=2, redis=True, flags=flags) as running:
        first, second = running.routers
        for number in range(COUNT):
            await post(first, "/generate", body(), request_id=f"first-{number}")
        number, seen = 0, 0.0
        async with asyncio.timeout(PATIENCE_SECONDS):  # until the feed has told the other
            while seen < min(20, COUNT + number - 1):
                await post(second, "/generate", body(), request_id=f"second-{number}")
                seen = numbers(await running.ended(f"second-{number}", second))[0]["window_size"]
                number += 1
                await asyncio.sleep(POLL_SECONDS)


async def test_the_recorder_has_a_row_for_each_decision_and_each_end(
    processes: Processes, tmp_path: Path
):
    flags = ["--policy=marginal_utility", f"--marginal-utility-output-dir={tmp_path}/out"]
    traces = {}
    async with fleet(processes, workers=2, flags=flags) as running:
        for number in range(40):
            await running.generate(f"text {number}", request_id=f"r-{number}", tokens=3)
        for number in range(40):
            traces[f"r-{number}"] = await running.ended(f"r-{number}")
        assert await running.router.stop() == 0
    rows = rows_in(tmp_path / "out")
    assert tuple(rows[0]) == COLUMNS
    decisions = {r["request_id"]: r for r in rows if r["selection_reason"] == "gradient_based"}
    ends = {r["request_id"]: r for r in rows if r["selection_reason"] == "completion_record"}
    assert len(rows) == len(decisions) + len(ends) == 80
    assert decisions.keys() == ends.keys() == traces.keys()
    scored = 0
    for request_id, trace in traces.items():
        row, end = decisions[request_id], ends[request_id]
        assert row["worker_url"] == end["worker_url"] == trace["worker_url"]
        shown = numbers(trace)[0]
        assert float(row["outstanding_requests"]) == shown["in_flight"]
        for name in ("throughput_gradient", "latency_gradient", "score", "window_size"):
            assert (float(row[name]) if row[name] else None) == shown.get(name)
        scored += bool(row["score"])
        assert float(row["decision_time_ms"]) > 0
        assert int(end["actual_output_tokens"]) == trace["output_tokens"] == 3
        engine = msgspec.convert(trace["engine"], Json)
        assert float(end["server_latency"]) == engine["e2e_latency"]
        assert float(end["queue_time"]) == engine["queue_time"]
        assert row["actual_output_tokens"] == end["score"] == ""
    assert scored > 0


async def test_other_policies_leave_the_columns_of_the_research_policy_empty(
    processes: Processes, tmp_path: Path
):
    flags = [f"--marginal-utility-output-dir={tmp_path}"]
    async with fleet(processes, workers=2, flags=flags) as running:
        await running.generate(request_id="one")
        await running.ended("one")
        assert await running.router.stop() == 0
    decision, end = rows_in(tmp_path)
    assert decision["score"] == decision["window_size"] == ""
    assert decision["outstanding_requests"] == "0"
    assert end["request_id"] == decision["request_id"] == "one"
