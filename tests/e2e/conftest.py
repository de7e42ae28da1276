"""Fixtures of the end-to-end tests: real processes whose logs are shown when a test fails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest

from tests.processes import Processes

FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report


@pytest.fixture
async def processes(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Processes]:
    """Starts processes and ends them after the test: `await processes.start(SimWorker())`."""
    async with Processes(tmp_path) as started:
        yield started
    if request.node.stash.get(FAILED, False):
        print(started.logs())
