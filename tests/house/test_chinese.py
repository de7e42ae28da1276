"""What the Chinese README and the Chinese guide say is run, too."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from router.configure import from_arguments
from tests.documents import ROOT, AsWritten, Document, asked, said
from tests.processes import Processes, RedisProcess, SimWorker
from tracking.embedded import find_server
from tracking.query import STATUSES

README, OURS = Document("README.md"), Document("README.zh.md")
GUIDE = Document("docs/request-tracing.zh.md")
HEADINGS = """
概述 已修改的文件 编译步骤 测试步骤 预期结果 故障排查 注意事项
""".split()


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    async with Processes(tmp_path) as started:
        yield started


def test_the_commands_of_the_chinese_readme_are_those_of_the_other() -> None:
    assert OURS.unmarked == []
    assert {name: README.blocks[name] for name in OURS.blocks} == OURS.blocks
    assert {"demo", "serve", "python", "compose", "ask", "commands"} == set(OURS.blocks)
    rows = [
        set(re.findall(r"^\| (`(?:GET|POST|DELETE) .*?) \|", d.text, re.M)) for d in (README, OURS)
    ]
    assert {row.replace("`、`", "`, `") for row in rows[1]} == rows[0]


def test_the_guide_has_the_headings_of_the_original_and_every_block_has_a_test() -> None:
    assert re.findall(r"^## (.*)$", GUIDE.text, re.MULTILINE) == HEADINGS
    assert GUIDE.unmarked == []
    source = Path(__file__).read_text()
    for name in GUIDE.blocks:
        assert f'GUIDE.blocks["{name}"]' in source or f'GUIDE.commands("{name}")' in source, name


def test_it_is_installed_as_the_guide_says() -> None:
    pip, version = GUIDE.commands("install")
    assert pip == ["pip", "install", "."]
    told = subprocess.run(
        [sys.executable, "-c", "from router.cli import main; main()", *version[1:]],
        capture_output=True,
        text=True,
        check=True,
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert told.stdout == f"{project['name']} {project['version']}\n"


@pytest.mark.e2e
@pytest.mark.slow
async def test_the_guide_leads_from_workers_to_traces(processes: Processes) -> None:
    ports: dict[str, int] = {}
    for python, minus_m, module, *flags in GUIDE.commands("workers"):
        assert (python, minus_m, module) == ("python", "-m", "sglang.launch_server")
        assert "--enable-cache-report" in flags
        started = await processes.start(SimWorker("--enable-cache-report"))
        ports[flags[flags.index("--port") + 1]] = started.port
    ports["6379"] = (await processes.start(RedisProcess(program=find_server()))).port
    ((_, *words),) = GUIDE.commands("serve")
    assert from_arguments(words[2:], {}).warnings == ()
    router = await processes.start(AsWritten(words, ports))
    assert "Initializing request tracker" in router.log()

    node, policy, status = said([GUIDE.blocks["script"]], router, "-c").split()
    assert (policy, status) == ("cache_aware", "completed")
    answers = [
        asked([router.with_ports(word) for word in words]) for _, *words in GUIDE.commands("ask")
    ]
    generated, by_id, newest, stats, batch = answers
    assert generated["meta_info"]["prompt_tokens"] > 0
    assert list(by_id)[:8] == list(json.loads(GUIDE.blocks["trace"]))
    assert [trace["request_id"] for trace in newest] == ["test-manual-123", "test-req-123"]
    assert list(stats)[:4] == list(json.loads(GUIDE.blocks["stats"]))
    assert stats["total_requests"] == stats["active_traces"] == 2
    assert batch == [by_id]
    assert node in stats["requests_per_node"]


def test_the_script_of_the_guide_is_that_of_the_readme() -> None:
    assert GUIDE.blocks["python"] == README.blocks["python"]  # test_readme.py runs it


def test_the_guide_knows_every_status() -> None:
    table = GUIDE.text[GUIDE.text.index("| 状态 |") :].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", table)) >= set(STATUSES)
