"""What the packages import is what they declare."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]


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
    # An extra's is imported in one file, and only where that was asked for.
    assert imported["opentelemetry"] == ROOT / "router" / "telemetry" / "export.py"
    for name in foreign - {"opentelemetry"}:
        offered = {distribution.replace("_", "-") for distribution in distributions[name]}
        assert declared & offered, f"{imported[name]} imports {name}"
