"""The answers of a real router are what its OpenAPI document says: Schemathesis asks, and judges."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from router.core.paths import GENERATION
from tests.fleets import fleet
from tests.processes import Processes

# One stream without end (test_tail_api.py reads it); and the inference paths are one way through the
# router: two will do.
LEFT_OUT = {"/v1/traces/stream", *GENERATION} - {"/generate", "/v1/chat/completions"}
TESTS = Path(__file__).parents[1]

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


async def test_whatever_is_asked_is_answered_as_documented(tmp_path: Path) -> None:
    flags = ["--api-key=secret", "--worker-startup-timeout-secs=1"]
    async with (
        Processes(tmp_path) as processes,
        fleet(processes, workers=2, flags=flags, key="secret") as running,
    ):
        run = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli"),
            *("--config-file", TESTS / "schemathesis.toml"),
            *("run", f"{running.router.url}/openapi.json", "--max-examples", "3", "--no-color"),
            *(f"--exclude-path={path}" for path in LEFT_OUT),
            cwd=tmp_path,  # it leaves a cache
            env=os.environ
            | {
                "KEY": "secret",
                "PYTHONPATH": str(TESTS.parent),
                "SCHEMATHESIS_HOOKS": "tests.schemathesis_hooks",
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said = (await run.communicate())[0].decode()
        assert run.returncode == 0, said
        tested = re.search(r"Tested: (\d+)", said)
        assert tested is not None and int(tested[1]) > 30
        assert "crashed" not in running.router.log()
