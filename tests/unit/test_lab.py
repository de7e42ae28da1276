"""The policy laboratory: three formats of traces, a model of workers, the same result every time."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from xml.etree import ElementTree

import pytest

from router.cli import main
from router.core.blocks import BOUNDARIES
from router.lab.model import ModelledWorker, WorkerModel, shared_part
from router.lab.replay import Outcome, Replay, Setting
from router.lab.report import hottest, percentile, plot, table
from router.lab.traces import BLOCK_TOKENS, Job, TraceFileError, read_jobs, spread
from router.policies import PolicyConfig, build_policy
from tests.running import call, running, sim_worker

QUICK = WorkerModel(prefill_tokens_per_second=50_000)


def mooncake(path: Path, requests: list[tuple[int, list[int]]]) -> Path:
    """(milliseconds, ids of 512 tokens each)."""
    lines = [
        {"timestamp": at, "input_length": 512 * len(ids), "output_length": 11, "hash_ids": ids}
        for at, ids in requests
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def conversations(count: int = 43, turns: int = 6) -> list[tuple[int, list[int]]]:
    """Each turn repeats what came before it; conversations overlap in time."""
    chance = Random(5)
    return sorted(
        (
            2000 * turn + 40 * conversation + chance.randrange(40),
            [conversation * 100 + block for block in range(8 + 4 * turn)],
        )
        for conversation in range(count)
        for turn in range(turns)
    )


def jobs_of(path: Path, **settings: float) -> list[Job]:
    given = {"limit": None, "speed": 1.0, "seed": 1, **settings}
    return read_jobs(str(path), **given)[0]  # type: ignore[arg-type]


def run(name: str, jobs: list[Job], **setting: object) -> Outcome:
    config = PolicyConfig()
    given = {"workers": 4, "model": QUICK, **setting}
    return Replay(lambda random: build_policy(name, config, random), Setting(**given)).run(jobs)  # type: ignore[arg-type]


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    return mooncake(tmp_path / "talks.jsonl", conversations())


# -- traces ----------------------------------------------------------------------------------------


def test_mooncake_lines_are_read_and_shared_prefixes_have_equal_blocks(tmp_path: Path) -> None:
    path = mooncake(tmp_path / "m.jsonl", [(1000, [1, 2, 3]), (3000, [1, 2, 4])])
    one, two = jobs_of(path)
    assert (one.arrived, two.arrived) == (0.0, 2.0)
    assert (one.input_tokens, one.output_tokens, one.blocks) == (1536, 11, [1, 2, 3])
    shared = BOUNDARIES.index(2 * BLOCK_TOKENS * 4)  # in blocks of text
    assert one.facts.blocks[:shared] == two.facts.blocks[:shared]
    assert not set(one.facts.blocks[shared:]) & set(two.facts.blocks[shared:])


def test_our_export_is_read(tmp_path: Path) -> None:
    lines = [
        {
            "timestamp": f"2026-01-01T00:00:0{number}.500Z",
            "input_tokens": tokens,
            "output_tokens": 7,
            "prefix_hashes": ["00000000000000aa", f"00000000000000b{number}"],
            "session_id": "s",
            "node_id": "worker-0",
        }
        for number, tokens in enumerate((600, 700, None))
    ]
    path = tmp_path / "export.ndjson"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    jobs, left_out = read_jobs(str(path), limit=None, speed=1, seed=1)
    assert left_out == 1
    assert [job.arrived for job in jobs] == [0.0, 1.0]
    assert [job.blocks for job in jobs] == [[0xAA, 0xB0], [0xAA, 0xB1]]
    assert jobs[0].facts.session_id == "s"


def test_azure_rows_are_read_and_share_nothing(tmp_path: Path) -> None:
    path = tmp_path / "azure.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.9799600,3180,8\n"
    )
    one, two = jobs_of(path)
    assert two.arrived == pytest.approx(1.0)
    assert (two.input_tokens, two.output_tokens) == (3180, 8)
    assert not set(one.blocks) & set(two.blocks)


def test_equal_times_are_spread_over_their_step() -> None:
    times = spread([0, 0, 0, 3, 3, 6], Random(1))
    assert times == sorted(times)
    assert [int(at / 1.5) for at in times[3:]] == [2, 3, 4]
    assert [int(at) for at in times[:3]] == [0, 1, 2]
    assert times == spread([0, 0, 0, 3, 3, 6], Random(1))


def test_requests_can_come_faster_and_fewer(talks: Path) -> None:
    assert jobs_of(talks, speed=2.0)[-1].arrived == pytest.approx(jobs_of(talks)[-1].arrived / 2)
    assert len(jobs_of(talks, limit=7)) == 7


@pytest.mark.parametrize("content", ["", "{}", "a,b\n1,2\n", '{"timestamp": 1}', "{broken"])
def test_a_file_without_requests_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x"
    path.write_text(content)
    with pytest.raises(TraceFileError, match="no requests found"):
        jobs_of(path)


# -- the model -------------------------------------------------------------------------------------


def test_prefills_wait_for_each_other_and_a_cached_prefix_is_not_computed(tmp_path: Path) -> None:
    path = mooncake(tmp_path / "m", [(0, [1, 2]), (0, [1, 2, 3]), (9000, [4])])
    model = WorkerModel(prefill_tokens_per_second=1024, token_seconds=0.1)
    worker = ModelledWorker(model)
    one, two, three = jobs_of(path)
    assert worker.serve(one, 0.0) == (1.0, 2.0, 0)
    assert worker.serve(two, 0.0) == (1.5, 2.5, 1024)
    assert worker.serve(three, 9.0)[0] == 9.5
    assert worker.busy_seconds == 2.0


def test_what_is_shared_is_what_an_earlier_prompt_began_with(tmp_path: Path) -> None:
    path = mooncake(
        tmp_path / "m.jsonl", [(0, [1, 2]), (1, [1, 3]), (2, [4, 2]), (3, [1, 3, 5, 6])]
    )
    assert shared_part(jobs_of(path)) == 3 / 10


def test_a_cache_keeps_what_was_used_last(tmp_path: Path) -> None:
    requests = [(0, [1, 2]), (1, [3, 4]), (2, [1, 2]), (3, [5, 6]), (4, [3, 4]), (5, [1, 2])]
    path = mooncake(tmp_path / "m", requests)
    worker = ModelledWorker(WorkerModel(cache_tokens=4 * BLOCK_TOKENS))
    cached = [worker.serve(job, job.arrived).cached_tokens for job in jobs_of(path)]
    assert cached == [0, 0, 1023, 0, 0, 0]  # the last token of a prompt is always computed


# -- a replay --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["random", "cache_aware", "expected_ttft", "marginal_utility"])
def test_equal_arguments_give_equal_results(talks: Path, name: str) -> None:
    outcomes = [run(name, jobs_of(talks), replicas=3) for _ in range(2)]
    assert outcomes[0] == outcomes[1]
    assert len(outcomes[0].ttft_seconds) == sum(outcomes[0].requests) == 258


def test_policies_that_know_prefixes_find_what_round_robin_misses(talks: Path) -> None:
    jobs = jobs_of(talks)
    shares = {
        name: (found := run(name, jobs)).cached_tokens / found.input_tokens
        for name in ("round_robin", "cache_aware", "expected_ttft")
    }
    assert shares["cache_aware"] > 0.5 > shares["round_robin"]
    assert shares["expected_ttft"] > 0.5


@pytest.mark.parametrize("name", ["cache_aware", "expected_ttft"])
def test_replicas_that_share_find_what_one_finds_and_others_do_not(talks: Path, name: str) -> None:
    jobs = jobs_of(talks)
    one = run(name, jobs).cached_tokens
    assert run(name, jobs, replicas=4).cached_tokens >= 0.97 * one
    assert run(name, jobs, replicas=4, share_seconds=None).cached_tokens < 0.7 * one


def test_expected_ttft_is_quicker_than_round_robin_and_even(talks: Path) -> None:
    jobs = jobs_of(talks, speed=3.0)
    setting = {"replicas": 2, "model": WorkerModel()}
    ours, theirs = (run(name, jobs, **setting) for name in ("expected_ttft", "round_robin"))
    assert percentile(sorted(ours.ttft_seconds), 0.5) < percentile(sorted(theirs.ttft_seconds), 0.5)
    assert hottest(ours.requests) < 1.5


# -- what is said ----------------------------------------------------------------------------------


def test_percentiles_are_by_nearest_rank_and_even_work_is_one() -> None:
    assert percentile([1, 2, 3, 4], 0.5) == 2
    assert percentile([1, 2, 3, 4], 0.99) == 4
    assert percentile([1], 0.0) == 1
    assert hottest([2, 2, 2]) == 1
    assert hottest([0, 0]) == 1
    assert hottest([3, 1]) == 1.5


def test_the_table_has_a_line_for_each_policy() -> None:
    outcome = Outcome([0.1, 0.2, 0.4], 1000, 250, 300, [1.0, 3.0], [1, 2])
    lines = table({"mine": outcome, "random": outcome}).splitlines()
    assert lines[1].split() == ["mine", "25.0%", "30.0%", "0.200", "s", "0.400", "s", "1.50"]
    assert len(lines) == 3


def test_the_plot_is_an_image_with_a_line_for_each_policy() -> None:
    outcome = Outcome([0.1, 0.2, 4.0], 1000, 250, 300, [1.0, 3.0], [1, 2])
    image = ElementTree.fromstring(plot({"a": outcome, "<b>": outcome}, "title & more"))
    lines = image.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 2
    for line in lines:
        for point in line.attrib["points"].split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= 720
            assert 0 <= y <= 440


def test_the_command_prints_what_it_assumed_and_what_came_of_it(
    talks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "mine.py"
    own.write_text(
        "from router.policies.base import Choice, Policy\n"
        "class First(Policy):\n"
        "    def __init__(self, config, random): pass\n"
        "    def choose(self, request, candidates, now):\n"
        "        return Choice(candidates[0], 'first', {}, [0] * len(candidates))\n"
    )
    plotted = tmp_path / "plot.svg"
    words = ["replay", str(talks), "--policy", "round_robin", "--policy", f"{own}:First"]
    assert main([*words, "--workers", "2", "--replicas", "2", "--plot", str(plotted)]) == 0
    said = capsys.readouterr().out
    assert "Service times are modelled, not measured" in said
    assert "2 workers, 2 replicas sharing after 0.05 s" in said
    assert "258 requests in 12 s, 74% of their input shared;" in said
    first = next(line for line in said.splitlines() if ":First" in line)
    assert first.split()[-1] == "2.00"
    ElementTree.parse(plotted)


def test_wrong_usage_of_the_command_is_named(
    talks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", str(talks), "--policy", "best"]) == 2
    assert capsys.readouterr().err.startswith("trace-router: --policy: expected one of random")
    assert main(["replay", "/nowhere"]) == 1
    assert capsys.readouterr().err == "trace-router: /nowhere: No such file or directory\n"
    for words in (["--workers", "0"], ["--speed", "-1"], ["--limit", "1.5"], ["--token-ms", "x"]):
        with pytest.raises(SystemExit) as ended:
            main(["replay", str(talks), *words])
        assert ended.value.code == 2
    assert "--token-ms: expected a number of at least 0, got 'x'" in capsys.readouterr().err


async def test_what_a_router_exports_can_be_run_again(tmp_path: Path) -> None:
    async with sim_worker() as worker, running(worker.url, enable_request_tracking=True) as app:
        for number in range(3):
            body = {"text": "the same start " * 400 + f"{number} " * 600}
            await call(app, "POST", "/generate", body)
        exported = (await call(app, "GET", "/v1/traces/export")).body
    path = tmp_path / "export.ndjson"
    path.write_bytes(exported)
    jobs, left_out = read_jobs(str(path), limit=None, speed=1, seed=1)
    assert (len(jobs), left_out) == (3, 0)
    assert jobs[0].blocks[:2] == jobs[1].blocks[:2]  # 6,000 bytes
    assert jobs[0].blocks[-1] != jobs[1].blocks[-1]
    assert run("cache_aware", jobs).cached_tokens > 0
