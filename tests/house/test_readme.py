"""The README is true: each command in it is run, each answer in it is what a router answers.

Every block of code carries a mark, `<!-- tested: NAME -->`, and a test below by that name.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from router.configure import from_arguments
from tests.documents import ROOT, AsWritten, Document, asked, said
from tests.processes import Processes, RedisProcess, SimWorker
from tests.programs import program
from tracking.embedded import find_server
from tracking.trace import Trace, TraceDetail

README = Document("README.md")
BLOCKS, commands = README.blocks, README.commands


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    async with Processes(tmp_path) as started:
        yield started


@pytest.fixture
async def ports(processes: Processes) -> dict[str, int]:
    """What stands in for the ports of the README: two workers and a store."""
    workers = [await processes.start(SimWorker()) for _ in range(2)]
    store = await processes.start(RedisProcess(program=find_server()))
    return {"30005": workers[0].port, "30006": workers[1].port, "6379": store.port}


def test_every_block_of_code_has_a_test() -> None:
    assert README.unmarked == []
    tested = set(
        re.findall(r"""(?:BLOCKS\[|commands\()["'](\w+)["']""", Path(__file__).read_text())
    )
    assert set(BLOCKS) == tested


@pytest.mark.parametrize(
    ("target", "runs"), [("demo", "-m deploy.demo"), ("test", "-m pytest"), ("check", "-m pytest")]
)
def test_make_knows_its_targets(target: str, runs: str) -> None:
    make = [program("make"), "--dry-run", "--no-print-directory", target]
    run = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert runs in run.stdout


def test_the_two_commands_are_make_demo_and_make_test() -> None:
    # test_demo.py runs the one; you are being run by the other.
    assert commands("demo") == [["make", "demo"]]
    assert commands("test") == [["make", "test"]]


def test_compose_is_started_with_options_it_has() -> None:
    copy, (docker, compose, up, *options) = commands("compose")
    assert copy == ["cp", ".env.example", ".env"]
    assert (ROOT / ".env.example").is_file()
    assert (docker, compose) == ("docker", "compose")
    run = subprocess.run(
        [program("docker-compose"), up, "--help"], capture_output=True, text=True, check=True
    )
    assert options
    for option in options:
        assert f"{option} " in run.stdout


def test_the_shell_command_is_accepted_as_it_stands() -> None:
    ((python, minus_m, module, *flags),) = commands("serve")
    assert (python, minus_m, module) == ("python", "-m", "router")
    config = from_arguments(flags, {})
    assert config.warnings == ()
    assert config.port == 30009


@pytest.mark.e2e
@pytest.mark.slow
async def test_the_questions_are_answered_by_a_router_started_from_the_shell(
    processes: Processes, ports: dict[str, int]
) -> None:
    ((_, *words),) = commands("serve")
    router = await processes.start(AsWritten(words, ports))
    answers = []
    for curl, *arguments in commands("ask"):
        assert curl == "curl"
        answers.append(asked([router.with_ports(argument) for argument in arguments]))
    generated, by_id, newest, stats, batch = answers
    assert generated["meta_info"]["prompt_tokens"] > 0
    assert (by_id["request_id"], by_id["status"]) == ("test-manual-123", "completed")
    assert [trace["request_id"] for trace in newest] == ["test-manual-123"]
    assert stats["requests_per_status"] == {"completed": 1}
    assert batch == [by_id]
    assert list(json.loads(BLOCKS["stats"])) == list(stats)
    listed, got, counted, exported = [
        said([*words[1:]], router) for words in commands("commands") if words[0] == "trace-router"
    ]
    assert json.loads(listed)["request_id"] == "test-manual-123"
    assert json.loads(got) == by_id
    assert json.loads(counted)["requests_per_status"] == {"completed": 1}
    assert exported.splitlines()[1].startswith("test-manual-123,")
    assert said([BLOCKS["client"]], router, "-c") == f"{by_id['node_id']}\ntest-manual-123 None\n"


@pytest.mark.e2e
@pytest.mark.slow
async def test_a_router_is_started_from_python(processes: Processes, ports: dict[str, int]) -> None:
    router = await processes.start(AsWritten(["-c", BLOCKS["python"]], ports))
    assert "Initializing request tracker" in router.log()
    assert await router.json("/v1/traces") == []
    assert await router.stop() == 0


def test_the_trace_shown_is_a_whole_trace() -> None:
    shown = json.loads(BLOCKS["trace"])
    fields = [*msgspec.structs.fields(Trace), *msgspec.structs.fields(TraceDetail)]
    names = [field.encode_name for field in fields]
    assert list(shown) == [name for name in names if name in shown]
    assert list(shown)[:8] == names[:8]
    msgspec.convert(shown, Trace)
    msgspec.convert(shown, TraceDetail)


def test_the_table_shown_is_the_demos() -> None:
    from deploy.demo import ASKS, HEADINGS

    heading, *rows = README.plain[0].splitlines()
    assert re.split(r"\s{2,}", heading) == HEADINGS
    assert [row.split()[0] for row in rows] == [ask.request_id for ask in ASKS]
