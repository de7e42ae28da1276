"""An engine for the whole session, with all images built."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.docker.engine import Environment, engine, network_of_its_own, require_parts
from tests.docker.images import make_stand_ins
from tests.docker.project import Client, Project, asking, build


@pytest.fixture(scope="session")
def docker() -> Iterator[Environment]:
    """An engine that knows no network; this process is in there with it."""
    require_parts()
    with engine(builder=True) as builder:
        make_stand_ins(builder)
        build(builder)
    with network_of_its_own(), engine(builder=False) as environment:
        left_over = Project(
            environment, Path(os.devnull), "--profile=*"
        )  # of a run that was killed
        left_over.compose("down", "--volumes", "--remove-orphans", "--timeout=1")
        yield environment


@pytest.fixture
async def client(docker: Environment) -> AsyncIterator[Client]:
    async with asking() as client:
        yield client
