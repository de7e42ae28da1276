"""Fixtures of the end-to-end tests: real processes whose logs are shown when a test fails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.fleets import Fleet, fleet
from tests.processes import Processes

FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    before = report.when != "setup" and item.stash.get(FAILED, False)
    item.stash[FAILED] = before or report.failed
    return report


@pytest.fixture
async def processes(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Processes]:
    """Starts processes and ends them after the test: `await processes.start(SimWorker())`."""
    async with Processes(tmp_path) as started:
        yield started
    if request.node.stash.get(FAILED, False):
        print(started.logs())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet_of_module(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Fleet]:
    """Started once for a module, with the settings that its FLEET names."""
    directory = tmp_path_factory.mktemp(request.module.__name__)
    async with Processes(directory) as started, fleet(started, **request.module.FLEET) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def shared(fleet_of_module: Fleet, request: pytest.FixtureRequest) -> AsyncIterator[Fleet]:
    """The fleet of the module, well behaved at the start of each test and at rest after it."""
    await fleet_of_module.faults()
    for worker in fleet_of_module.workers:
        await worker.forget_requests()
    yield fleet_of_module
    if request.node.stash.get(FAILED, False):
        print(fleet_of_module.processes.logs())
        await fleet_of_module.start_over()  # whatever the test has left there
    else:
        await fleet_of_module.settled()
