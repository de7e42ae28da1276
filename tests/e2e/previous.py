"""Routers of the version before this one, for tests of rolling upgrades."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.processes import ROOT, RouterProcess

PREVIOUS = "5679489"
"""The last commit of 0.1.0. To be moved with each release."""


def install(directory: Path) -> Path:
    """A folder with that version as `pip` installs its wheel; the libraries are those of here."""
    archive = subprocess.run(
        ["git", "archive", "--format=tar", PREVIOUS], cwd=ROOT, capture_output=True
    )
    if archive.returncode:
        pytest.skip(f"commit {PREVIOUS} is not in this clone: fetch the whole history")
    source, target = directory / "source", directory / "installed"
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(source, filter="data")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    subprocess.run([*pip, "--no-deps", "--target", target, source], check=True)
    return target


class PreviousRouter(RouterProcess):
    """A router as it was in `installed`."""

    name = "previous"
    installed = Path()

    def environment(self) -> dict[str, str]:
        # Safe path: `-m` does not put the working directory, which is ours, in front.
        return {"PYTHONPATH": str(self.installed), "PYTHONSAFEPATH": "1"}
