"""`make demo`, run for real: what it shows, and that it leaves nothing behind however it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from deploy.demo import ASKS, free_ports, model

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
UP = "Ctrl-C ends everything."

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc for what is left"),
]


class Demo:
    """A demo whose processes carry a mark in their environment, so that all can be found."""

    def __init__(self, log: Path, *arguments: str) -> None:
        self.mark = f"DEMO_TEST={uuid4()}"
        name, value = self.mark.split("=")
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "deploy.demo", *arguments],
                cwd=ROOT,
                # A router of the user's own must not matter.
                env={**os.environ, name: value, "TRACE_ROUTER_API_KEY": "secret"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    @property
    def output(self) -> str:
        return self._log.read_text()

    def processes(self) -> dict[int, str]:
        """Command lines by pid of all that is left of it."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    if self.mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                        words = (entry / "cmdline").read_bytes().split(b"\0")
                        found[int(entry.name)] = b" ".join(words).decode()
                except OSError:
                    continue  # it has just ended, or is another user's
        return found

    def until_it_says(self, text: str) -> None:
        while text not in self.output:
            assert self.process.poll() is None, self.output
            time.sleep(0.05)

    def until_nothing_is_left(self) -> None:
        while self.processes():
            time.sleep(0.05)


Start = Callable[..., Demo]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started = []

    def start(*arguments: str) -> Demo:
        started.append(Demo(tmp_path / "demo.log", *arguments))
        return started[-1]

    yield start
    for demo in started:
        for pid in demo.processes():
            os.kill(pid, signal.SIGKILL)
        demo.process.wait(10)


def rows(output: str) -> list[dict[str, str]]:
    lines = output.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("request id "))
    heading, *body = lines[start : start + 1 + len(ASKS)]
    columns = re.split(r"\s{2,}", heading)
    return [dict(zip(columns, re.split(r"\s{2,}", line), strict=True)) for line in body]


def assert_shows_what_was_promised(output: str) -> None:
    shown = rows(output)
    assert [row["request id"] for row in shown] == [ask.request_id for ask in ASKS]
    assert {row["status"] for row in shown} == {"completed"}
    # Whatever the routers have heard of each other by then, or the README would show another table.
    assert [row["worker"] for row in shown] == [row["worker"] for row in rows(README)]
    assert all(row["asked at"] != row["told by"] for row in shown)
    assert all(row["TTFT"].endswith(" ms") for row in shown if "(stream)" in row["route"])
    # The first of a topic cannot be cached; what follows shares most of its prompt.
    hits = {row["request id"]: int(row["cache hit"].rstrip("%")) for row in shown}
    reasons = {row["request id"]: row["reason"] for row in shown}
    for topic in ("travel", "cook"):
        assert hits[f"{topic}-1"] == 0
        assert min(hits[f"{topic}-2"], hits[f"{topic}-3"]) > 50
        assert reasons[f"{topic}-2"] == reasons[f"{topic}-3"] == "prefix_match"


def test_the_demo_shows_traces_told_by_the_other_router(start: Start) -> None:
    demo = start("--once", "--simulated")
    assert demo.process.wait(60) == 0, demo.output
    assert_shows_what_was_promised(demo.output)
    assert "/generate (stream)" in demo.output
    assert demo.processes() == {}


def test_the_demo_works_with_real_workers(start: Start) -> None:
    if model() is None:
        if os.environ.get("CI"):
            pytest.fail("llama.cpp or its model is not installed: make demo-parts")
        pytest.skip("llama.cpp or its model is not installed: make demo-parts")
    demo = start("--once")
    assert demo.process.wait(110) == 0, demo.output
    assert "llama.cpp workers" in demo.output
    assert "SIMULATED" not in demo.output
    assert_shows_what_was_promised(demo.output)
    assert demo.processes() == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_demo_stays_up_until_it_is_asked_to_end(start: Start, number: signal.Signals) -> None:
    demo = start("--simulated")
    demo.until_it_says(UP)
    demo.process.send_signal(number)
    assert demo.process.wait(30) == 0, demo.output
    assert demo.processes() == {}


def test_the_commands_that_the_demo_suggests_work(start: Start) -> None:
    demo = start("--simulated")
    demo.until_it_says(UP)
    commands = re.findall(r"^  (curl .*)$", demo.output, re.MULTILINE)
    assert len(commands) == 5
    for command in commands:
        run = subprocess.run(
            command.replace("curl ", "curl --fail --silent --show-error ", 1),
            shell=True,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, f"{command}: {run.stderr}"
        assert run.stdout, command


def test_the_demo_can_be_interrupted_while_it_starts(start: Start) -> None:
    demo = start("--simulated")
    demo.until_it_says("Starting")
    while len(demo.processes()) < 3:
        time.sleep(0.01)
    demo.process.send_signal(signal.SIGINT)
    assert demo.process.wait(30) == 0, demo.output
    assert demo.processes() == {}


@pytest.mark.parametrize("words", ["tests.sim", "router store"])
def test_the_demo_ends_with_the_first_of_its_parts(start: Start, words: str) -> None:
    demo = start("--simulated")
    demo.until_it_says(UP)
    pids = [pid for pid, command in demo.processes().items() if words in command]
    os.kill(pids[0], signal.SIGKILL)
    assert demo.process.wait(30) == 1
    assert "ended with -9" in demo.output
    demo.until_nothing_is_left()


def test_the_demo_leaves_nothing_behind_even_when_it_is_killed(start: Start) -> None:
    demo = start("--simulated")
    demo.until_it_says(UP)
    demo.process.kill()
    demo.process.wait(10)
    demo.until_nothing_is_left()


def test_the_demo_takes_other_ports_where_its_own_are_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ports = free_ports(port, 2)
    assert len(set(ports)) == 2
    assert port not in ports
