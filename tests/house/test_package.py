"""What is installed: the two packages with their data, nothing else."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_package_holds_all_it_needs_and_no_more(tmp_path: Path) -> None:
    # These are the files that the Dockerfile copies, too.
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for package in ("router", "tracking"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, source / package, ignore=ignored)
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-compile", "--quiet"]
    subprocess.run([*pip, "--target", str(target), str(source)], check=True, timeout=170)

    for package in ("router", "tracking"):
        expected = {p.relative_to(source) for p in (source / package).rglob("*") if p.is_file()}
        installed = {p.relative_to(target) for p in (target / package).rglob("*") if p.is_file()}
        assert installed == expected
    folders = {path.name.split("-")[0] for path in target.iterdir()}
    assert folders == {"router", "tracking", "bin", "llm_trace_router"}

    run = subprocess.run(
        [sys.executable, str(target / "bin" / "trace-router"), "--version"],
        env={**os.environ, "PYTHONPATH": str(target)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == "llm-trace-router 0.1.0\n"


def test_what_is_imported_is_installed_with_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[^A-Za-z0-9-]", line)[0] for line in project["dependencies"]}
    distributions = packages_distributions()
    imported: dict[str, Path] = {}
    for package in ("router", "tracking"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names = [node.module]
                else:
                    continue
                imported |= {name.partition(".")[0]: path for name in names}
    foreign = set(imported) - sys.stdlib_module_names - {"router", "tracking"}
    assert {"aiohttp", "redis", "msgspec", "prometheus_client"} <= foreign
    for name in foreign:
        offered = {distribution.replace("_", "-") for distribution in distributions[name]}
        assert declared & offered, f"{imported[name]} imports {name}"
