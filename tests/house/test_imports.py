"""Imports go one way, deciding code stays pure, and every module stands on its own."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]

# Who may import whom: a module imports from its own line and the lines below it.
LAYERS: list[set[str]] = [
    {"router"},
    {"router.__main__", "router.launch", "router.replica"},
    {"router.cli"},
    {"router.processes"},
    {"router.compiled"},
    {"router.extension_types"},
    {"router.extension_names"},
    {"router.traces_cli"},
    {"router.tables"},
    {"router.serving"},
    {"router.app", "router.lab"},
    {"router.parts"},
    {"router.settings"},
    {"router.api"},
    {"router.learning", "router.shared"},
    {"router.roster"},
    {"router.discovery"},
    {"router.models", "router.registry"},
    {"router.new_member"},
    {"router.targets"},
    {"router.member"},
    {"router.fleet", "router.upstream"},
    {"router.caches"},
    {
        "router.clock",
        "router.telemetry",
        "router.decision_csv",
        "router.logs",
        "router.metrics",
        "router.names",
        "router.outbox",
        "router.tasks",
    },
    {"router.configure", "router.flag_docs", "router.policy_choice"},
    {"router.arguments", "router.compat", "router.worker_names"},
    {"router.config"},
    {"router.pd_flags"},
    {"router.discovery_flags"},
    {"router.limit_flags"},
    {"router.access_flags"},
    {"router.flag_types"},
    {"router.shown_settings"},
    {"router.flags", "router.policy_file", "router.policytype"},
    {"router.policies"},
    {"router.core"},
    {"router.errors"},
    {"tracking"},
]
# Deciding code: it is told the time and given its randomness, and does no I/O.
PURE = (
    "router.core",
    "router.policies",
    "router.errors",
    "tracking.client.asking",
    "tracking.client.events",
    "tracking.client.results",
    "tracking.export",
    "tracking.export_csv",
    "tracking.export_perfetto",
    "tracking.exported",
    "tracking.feed",
    "tracking.filters",
    "tracking.finished",
    "tracking.histogram",
    "tracking.keys",
    "tracking.lifecycle",
    "tracking.query",
    "tracking.stats_query",
    "tracking.sums",
    "tracking.trace",
    "tracking.values",
    "tracking.workers",
)
IMPURE = {
    *("aiohttp", "asyncio", "datetime", "logging", "prometheus_client", "random", "redis"),
    *("selectors", "socket", "subprocess", "threading", "time", "uvloop"),
}
ALLOWED_NAMES = {
    ("random", "Random"),  # the type; the instance is passed in
    ("time", "gmtime"),  # arithmetic on a time that was passed in
    ("datetime", "datetime"),  # the type that a text is converted to
    ("datetime", "timedelta"),
    ("prometheus_client.parser", "text_string_to_metric_families"),  # reads a text
}


class Import(NamedTuple):
    importer: str
    module: str
    name: str | None
    line: int

    def __str__(self) -> str:
        name = f" ({self.name})" if self.name else ""
        return f"{self.importer}:{self.line} imports {self.module}{name}"


def modules() -> dict[str, Path]:
    found = {}
    for package in ("router", "tracking"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports_of(module: str) -> Iterator[Import]:
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, alias.name, None, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: relative import"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if whole in MODULES:
                    yield Import(module, whole, None, node.lineno)
                else:
                    yield Import(module, node.module, alias.name, node.lineno)


ALL = [found for module in MODULES for found in imports_of(module)]
OURS = [found for found in ALL if found.module in MODULES]


def layer(module: str) -> int:
    """Number of the line in LAYERS that `module` is on: the one with the longest name that fits."""
    fits = [
        (len(name), number)
        for number, names in enumerate(LAYERS)
        for name in names
        if module == name or (module.startswith(f"{name}.") and name != "router")
    ]
    assert fits, f"{module} has no place in LAYERS: decide who may import it"
    return max(fits)[1]


def is_pure(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in PURE)


def test_the_code_is_found() -> None:
    assert {"router.errors", "router.core.worker", "tracking.trace"} <= set(MODULES)
    assert any(found.importer == "router.errors" for found in OURS)


def test_every_module_has_its_place() -> None:
    for module in MODULES:
        layer(module)


def test_imports_only_go_down() -> None:
    wrong = [str(found) for found in OURS if layer(found.module) < layer(found.importer)]
    assert wrong == []


def test_tracking_knows_nothing_of_the_router() -> None:
    wrong = [
        str(found)
        for found in ALL
        if found.importer.split(".")[0] == "tracking"
        and found.module.split(".")[0] in ("router", "aiohttp")
        # The client asks routers over HTTP: it is beside the store, not a part of it.
        and (found.importer, found.module) != ("tracking.client.aio", "aiohttp")
    ]
    assert wrong == []


def test_deciding_code_reads_no_clock_draws_no_lots_and_does_no_io() -> None:
    wrong = [
        str(found)
        for found in ALL
        if is_pure(found.importer)
        and found.module.split(".")[0] in IMPURE
        and (found.module, found.name) not in ALLOWED_NAMES
    ]
    assert wrong == []


def test_deciding_code_imports_only_deciding_code() -> None:
    wrong = [str(found) for found in OURS if is_pure(found.importer) and not is_pure(found.module)]
    assert wrong == []


def test_no_module_imports_itself_by_a_detour() -> None:
    graph: dict[str, set[str]] = {module: set() for module in MODULES}
    for found in OURS:
        graph[found.importer].add(found.module)
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module not in done:
            for other in sorted(graph[module]):
                visit(other, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


ALONE = """
import importlib, logging, os, sys, threading, traceback
import aiohttp.web, hiredis, httptools, msgspec, prometheus_client, redis.asyncio.cluster, uvloop

def alone(module):
    importlib.import_module(module)
    assert threading.active_count() == 1, "importing starts a thread"
    assert not logging.root.handlers, "importing sets up logging"

for module in sys.argv[1:]:
    if os.fork() == 0:
        try:
            alone(module)
        except BaseException:
            print(module, traceback.format_exc(), sep="\\n")
            os._exit(1)
        os._exit(0)
    os.wait()
"""


@pytest.mark.slow
def test_every_module_can_be_imported_alone_without_a_warning_or_a_side_effect() -> None:
    """Each in a process that has imported no module of ours: copies of one that knows the libraries."""
    names = [name for name in MODULES if not name.endswith("__main__")]
    run = subprocess.run(
        [sys.executable, "-W", "error", "-u", "-c", ALONE, *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
