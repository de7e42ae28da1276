"""`trace-router traces ...` before routers that run."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from router.app import App
from router.cli import main
from tests.processes import free_port
from tests.running import call, running, sim_worker
from tracking.query import FILTERS

Json = dict[str, object]


@pytest.fixture(autouse=True)
def _no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REDIS_URL", "TRACE_ROUTER_URL", "TRACE_ROUTER_API_KEY", "TRACE_ROUTER_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def app(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[App]:
    """A router with four traces; the commands ask it unless told otherwise."""
    async with (
        sim_worker() as worker,
        running(
            worker.url, enable_request_tracking=True, api_key="k", admin_api_key="a"
        ) as started,
    ):
        monkeypatch.setenv("TRACE_ROUTER_URL", f"http://127.0.0.1:{started.port}")
        monkeypatch.setenv("TRACE_ROUTER_API_KEY", "k")
        for number in range(3):
            await generate(started, f"r-{number}")
        bad = {"X-Request-Id": "bad", "Content-Type": "application/json"}
        assert (await call(started, "POST", "/generate", b"{", key="k", headers=bad)).status == 400
        yield started


async def generate(app: App, request_id: str, **headers: str) -> None:
    body = {"text": "hi", "sampling_params": {"max_new_tokens": 2}}
    sent = {"X-Request-Id": request_id, **{k.replace("_", "-"): v for k, v in headers.items()}}
    assert (await call(app, "POST", "/generate", body, key="k", headers=sent)).status == 200


class Run:
    """Runs a command as from a shell."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys = capsys
        self._monkeypatch = monkeypatch
        self.out = self.err = ""

    def at_a_terminal(self) -> None:
        self._monkeypatch.setattr("sys.stdout.isatty", lambda: True)

    async def __call__(self, *words: str) -> int:
        status = await asyncio.to_thread(main, ["traces", *words])
        self.out, self.err = self._capsys.readouterr()
        return status

    @property
    def json(self) -> list[Json]:
        return [msgspec.json.decode(line, type=Json) for line in self.out.splitlines()]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(capsys, monkeypatch)


async def test_in_a_pipe_each_trace_is_a_line_of_json(app: App, run: Run) -> None:
    assert await run("get", "r-1", "r-0") == 0
    assert [trace["request_id"] for trace in run.json] == ["r-1", "r-0"]
    assert all(trace["attempts"] and trace["decision"] for trace in run.json)
    assert await run("list") == 0
    assert [trace["request_id"] for trace in run.json] == ["bad", "r-2", "r-1", "r-0"]
    assert await run("list", "--limit", "2", "--fields", "request_id,status") == 0
    assert run.json == [
        {"request_id": "bad", "status": "rejected"},
        {"request_id": "r-2", "status": "completed"},
    ]
    assert await run("stats") == 0
    (stats,) = run.json
    assert stats["requests_per_status"] == {"completed": 3, "rejected": 1}


async def test_at_a_terminal_they_are_tables(app: App, run: Run) -> None:
    run.at_a_terminal()
    assert await run("list", "--status", "completed") == 0
    heading, *rows = run.out.splitlines()
    assert heading.split() == [
        *("time", "(UTC)", "request", "route", "worker", "status"),
        *("queued", "ttft", "took", "tokens", "cached", "error"),
    ]
    assert [row.split()[2:6] for row in rows] == [
        [f"r-{number}", "/generate", "worker-0", "completed"] for number in (2, 1, 0)
    ]
    starts = [row.index("/generate") for row in rows]
    assert starts == [heading.index("route")] * 3
    assert await run("list", "--fields", "request_id,stream", "--limit", "1") == 0
    assert run.out.split() == ["request_id", "stream", "bad", "-"]

    assert await run("get", "r-1") == 0
    lines = run.out.splitlines()
    assert [line.split() for line in lines[:2]] == [
        ["request_id", "r-1"],
        ["node_id", "worker-0"],
    ]
    assert any(
        line.startswith("cache_aware: only_candidate, exact, of 1 workers") for line in lines
    )
    assert await run("stats") == 0
    assert run.out.startswith("4 requests ever, 4 held, 0 running\n")
    assert await run("stats", "--json") == 0
    assert run.json[0]["total_requests"] == 4

    assert await run("stats", "--window", "15m", "--by", "node,route") == 0
    cells = [line.split() for line in run.out.splitlines()]
    at = cells.index(
        [*("node", "requests", "errors", "queued", "p50", "p99", "ttft", "p50", "p99")]
        + [*("took", "p50", "p99", "tokens/s", "cached")]
    )
    assert sorted(line[:3] for line in cells[at + 1 : at + 3]) == [
        ["none", "1", "100%"],
        ["worker-0", "3", "0%"],
    ]
    assert await run("stats", "--window", "soon") == 2
    assert "parameter 'window' must be an age" in run.err


async def test_every_filter_is_a_flag(
    app: App, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["traces", "list", "--help"])
    assert ended.value.code == 0
    help = capsys.readouterr().out
    assert [name for name in FILTERS if f"--{name.replace('_', '-')} " not in help] == []
    asked = ("--error-type", "bad_request", "--since", "1h", "--stream", "0", "--cache", "unknown")
    assert await run("list", *asked) == 0
    assert run.json == []
    assert await run("list", "--http-status", "4xx", "--max-duration-seconds", "100") == 0
    assert [trace["request_id"] for trace in run.json] == ["bad"]


async def test_what_is_wrong_is_told_in_a_line_and_by_the_status(app: App, run: Run) -> None:
    assert await run("get", "r-0", "nobody") == 1
    assert len(run.json) == 1
    assert run.err == "trace-router: no trace with id 'nobody'\n"
    assert await run("list", "--status", "sleeping") == 2
    assert "parameter 'status' must be one of queued" in run.err
    assert await run("list", "--limit", "-1") == 2
    assert "--limit: expected a whole number of at least 0, got '-1'" in run.err
    assert await run("list", "--api-key-file", "/nowhere/key") == 2
    assert run.err.startswith("trace-router: --api-key-file: cannot read '/nowhere/key': ")
    assert await run("list", "--nodes", "x") == 2
    assert "--nodes" in run.err
    assert await run("stats", "--api-key", "wrong") == 1
    assert "k" not in run.err.split()
    gone = f"http://127.0.0.1:{free_port()}"
    assert await run("list", "--url", gone) == 1
    assert run.err.startswith(f"trace-router: no router can be reached: {gone}: ")
    assert await run("list", "--url", "localhost:1") == 2
    assert run.err.startswith("trace-router: --url: expected http://")


async def test_of_several_replicas_one_that_answers_is_enough(app: App, run: Run) -> None:
    gone, here = f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{app.port}"
    assert await run("list", "--url", gone, "--url", here) == 0
    assert len(run.json) == 4


async def test_an_export_is_written_as_it_comes_or_into_a_file_that_is_whole(
    app: App, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "traces.csv"
    words = ("--format", "csv", "--status", "completed", "--order", "asc", "--output", str(file))
    assert await run("export", *words) == 0
    heading, *rows = file.read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["r-0", "r-1", "r-2"]
    assert run.err == f"trace-router: {file.stat().st_size} bytes in {file}\n"
    assert await run("export", "--output", str(tmp_path / "nowhere" / "f")) == 2
    assert await run("export", "--format", "parquet", "--output", str(file)) == 2
    assert "parameter 'format' must be one of ndjson, " in run.err
    assert file.read_text().splitlines()[0] == heading
    assert os.listdir(tmp_path) == ["traces.csv"]


async def test_deletion_takes_the_administrators_key(
    app: App, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert await run("delete", "r-0") == 1
    key = tmp_path / "key"
    key.write_text("a\n")
    monkeypatch.setenv("TRACE_ROUTER_ADMIN_API_KEY_FILE", str(key))
    assert await run("delete", "r-0", "nobody", "r-1") == 1
    assert (run.out, run.err) == ("2 traces deleted\n", "trace-router: no trace with id 'nobody'\n")
    await generate(app, "of-a-session", X_Session_Id="chat")
    assert await run("delete", "--session-id", "chat") == 0
    assert run.out == "1 traces deleted\n"
    assert await run("clear", "--url", f"http://127.0.0.1:{app.port}") == 0
    assert run.out == "2 traces deleted\n"
    assert await run("list") == 0
    assert run.json == []


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("show",),
        ("get",),
        ("get", ""),
        ("get", "stats"),
        ("delete",),
        ("delete", "", "r"),
        ("delete", "r", "--session-id", "s"),
        ("clear", "--url", "http://a:1", "--redis-url", "redis://b:1"),
    ],
)
async def test_a_command_that_makes_no_sense_is_refused(run: Run, words: tuple[str, ...]) -> None:
    assert await run(*words) == 2
    assert run.err.startswith("trace-router: ")
