"""The guards that every other test relies on do guard."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import pytest
from blockbuster import BlockingError

import router


async def test_a_blocking_call_of_ours_in_the_event_loop_is_an_error() -> None:
    in_the_router = str(Path(router.__file__).with_name("guarded.py"))
    with pytest.raises(BlockingError):
        exec(compile("time.sleep(0.001)", in_the_router, "exec"), {"time": time})


def test_a_warning_is_an_error() -> None:
    with pytest.raises(DeprecationWarning):
        warnings.warn("of old", DeprecationWarning, stacklevel=1)
