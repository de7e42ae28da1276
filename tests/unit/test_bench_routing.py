"""The benchmark of routing says by itself what was reached, and makes traces of its own."""

from __future__ import annotations

import pytest

from bench.routing import Result, aims
from bench.sessions import main as print_sessions
from router.lab.traces import read_jobs


def run(target: str, replicas: int, load: float, *, p50: float, cached: float = 0.5) -> Result:
    return Result(target, replicas, load, 100, 0, cached, p50, 4 * p50, 1.1, 0.5, 0.2)


def test_ours_is_held_against_the_peer_at_the_same_load():
    results = [
        run("sglang-router", 4, 1.0, p50=1.0),
        run("expected_ttft", 1, 1.0, p50=0.5),
        run("expected_ttft", 4, 1.0, p50=0.6, cached=0.48),
        run("sglang-router", 4, 2.0, p50=1.0),
        run("expected_ttft", 4, 2.0, p50=0.5),
    ]
    said = [(aim.load, aim.what, aim.reached, aim.met) for aim in aims(results)]
    assert said == [
        (1.0, "cached, 4 replicas : 1", 0.96, False),
        (1.0, "TTFT p50 : sglang-router", 0.6, True),
        (1.0, "TTFT p99 : sglang-router", 0.6, True),
        (1.0, "hottest worker : mean", 1.1, True),
        (2.0, "TTFT p50 : sglang-router", 0.5, False),
        (2.0, "TTFT p99 : sglang-router", 0.5, True),
        (2.0, "hottest worker : mean", 1.1, True),
    ]
    assert aims(results[:1]) == []


def test_a_made_trace_has_sessions_that_share_their_beginnings(
    capsys: pytest.CaptureFixture[str], tmp_path
):
    print_sessions(["--minutes", "2", "--seed", "3"])
    file = tmp_path / "chat.jsonl"
    file.write_text(capsys.readouterr().out)
    jobs, left_out = read_jobs(str(file), limit=None, speed=1.0, seed=1)
    assert left_out == 0
    assert len(jobs) > 100
    seen: set[int] = set()
    shared = 0
    for job in jobs:
        assert len(job.blocks) == -(-job.input_tokens // 512)
        shared += len(seen.intersection(job.blocks))
        seen.update(job.blocks)
    assert 0.5 < shared / sum(len(job.blocks) for job in jobs) < 0.95
