"""The guards that every other test relies on do guard."""

from __future__ import annotations

import re
import time
import warnings
from pathlib import Path
from typing import get_args

import pytest
from blockbuster import BlockingError

import router
from tests.sim.faults import Kind

TESTS = Path(__file__).parent.parent


async def test_a_blocking_call_of_ours_in_the_event_loop_is_an_error() -> None:
    in_the_router = str(Path(router.__file__).with_name("guarded.py"))
    with pytest.raises(BlockingError):
        exec(compile("time.sleep(0.001)", in_the_router, "exec"), {"time": time})


def test_a_warning_is_an_error() -> None:
    with pytest.raises(DeprecationWarning):
        warnings.warn("of old", DeprecationWarning, stacklevel=1)


def test_each_misbehaviour_of_the_simulated_worker_is_put_before_the_router() -> None:
    files = [*TESTS.glob("e2e/*.py"), *TESTS.glob("router/*.py")]
    text = "".join(file.read_text() for file in files)
    assert [kind for kind in get_args(Kind) if not re.search(rf"""["']{kind}["':]""", text)] == []
