"""The hot path as machine code: the same sources, compiled by Cython into modules beside them.

    python -m router.compiled [DIRECTORY]     compiles the installed router, or the one in DIRECTORY
    python -m router.compiled --clean [DIRECTORY]

Python alone is always enough; compiled, its part of a request is a third smaller. It takes the extra
`compiled` and a C compiler. Nothing in the sources is written for it, they are compiled as they
are but for one thing: a class that inherits from nothing becomes an extension type, and what its
methods assign to `self` its fields, which is most of the gain. So tests that replace a method of a
class cannot do so here (`interpreted` in their markers).

Python prefers a compiled module to its source, so one that is older than its source would run
yesterday's code: `how` refuses that, and is asked at each start.
"""

from __future__ import annotations

import argparse
import ast
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Literal

ROOT: Final = Path(__file__).parents[1]
SUFFIX: Final = sysconfig.get_config_var("EXT_SUFFIX") or ".so"
# What a request goes through, and what it leaves behind. Others would gain nothing.
HOT: Final = tuple(
    f"{package}/{name}.py"
    for package, names in {
        "router": "caches clock fleet member models",
        "router/api": (
            "access connection dispatch forwarding gate inference leg record relay request"
            " request_log routing sending watch"
        ),
        "router/core": (
            "admission ages answers breaker engines evictions facts headers health ids model_names"
            " outcome paths prefix prefix_news retry rid shared_load splice sse usage worker"
        ),
        "router/metrics": "histogram labels record",
        "router/policies": (
            "base bucket cache_aware consistent_hashing expected_ttft manual marginal_utility"
            " power_of_two prefix_hash random receipt round_robin shortest_queue weighted"
        ),
        "router/upstream": "connection pool pools",
        "tracking": "lifecycle record trace writer",
    }.items()
    for name in names.split()
)
# Their only use of a base class is to say that they are protocols; uvloop and asyncio ask methods.
LOOSE_BASES: Final[tuple[list[str], ...]] = ([], ["asyncio.Protocol"])
# Arithmetic on lengths is done in C: an overflow must be an error, never another number.
DIRECTIVES: Final = (
    "language_level=3",
    "annotation_typing=False",
    "binding=False",
    "overflowcheck=True",
)


class StaleModule(Exception):
    """A compiled module is older than its source. The message says which, and what to do."""


def how(root: Path = ROOT) -> Literal["compiled", "interpreted"]:
    """Which of the two runs here. Raises StaleModule."""
    found = [(path, built) for path in sources(root) if (built := beside(path)).exists()]
    for path, built in found:
        if built.stat().st_mtime < path.stat().st_mtime:
            raise StaleModule(
                f"{built} is older than its source: compile again (python -m router.compiled) "
                "or remove it (python -m router.compiled --clean)"
            )
    return "compiled" if found else "interpreted"


def sources(root: Path) -> Iterator[Path]:
    return (path for name in HOT if (path := root / name).exists())


def beside(path: Path) -> Path:
    """Where the compiled module of a source lies."""
    return path.with_name(path.stem + SUFFIX)


def clean(root: Path) -> None:
    for path in sources(root):
        beside(path).unlink(missing_ok=True)


def build(root: Path) -> int:
    """Compile the modules below `root`; how many. Raises subprocess.CalledProcessError."""
    paths = list(sources(root))
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        for path in paths:
            source, fields = as_extension(path.read_text())
            copy = work / path.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            for package in (p / "__init__.py" for p in copy.parents if work in p.parents):
                package.touch()  # so that Cython knows the whole name of a module
            copy.write_text(source)
            if fields:
                copy.with_suffix(".pxd").write_text(fields)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            built = list(pool.map(_compile, (work / p.relative_to(root) for p in paths)))
        for path, module in zip(paths, built, strict=True):
            new = beside(path).with_suffix(".new")
            new.write_bytes(module.read_bytes())
            new.replace(beside(path))
    return len(paths)


def _compile(source: Path) -> Path:
    c_file, module = source.with_suffix(".c"), beside(source)
    directives = [part for directive in DIRECTIVES for part in ("-X", directive)]
    cython = [sys.executable, "-m", "cython", *directives, "-o", str(c_file), str(source)]
    subprocess.run(cython, check=True)
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    flags = ["-O2", "-s", "-w", "-fPIC", "-shared", "-fno-strict-aliasing"]
    include = ["-I", sysconfig.get_path("include")]
    subprocess.run([compiler, *flags, *include, "-o", str(module), str(c_file)], check=True)
    return module


def as_extension(source: str) -> tuple[str, str]:
    """The source for Cython, and the declarations that make extension types of its classes."""
    lines = source.split("\n")
    declared = ""
    for found in ast.parse(source).body:
        if not isinstance(found, ast.ClassDef) or found.decorator_list or found.keywords:
            continue
        if [ast.unparse(base) for base in found.bases] not in LOOSE_BASES:
            continue
        fields = _fields(found)
        if not fields:
            continue
        declared += f"cdef class {found.name}:\n"
        declared += "".join(f"    cdef public object {name}\n" for name in fields)
        if found.bases:
            lines[found.lineno - 1] = f"class {found.name}:"
        for part in found.body:
            slots = isinstance(part, ast.Assign) and ast.unparse(part.targets[0]) == "__slots__"
            bare = isinstance(part, ast.AnnAssign) and part.value is None
            if slots or bare:
                for number in range(part.lineno - 1, part.end_lineno or part.lineno):
                    lines[number] = ""
    return "\n".join(lines), declared


def _fields(found: ast.ClassDef) -> list[str]:
    """Its slots and what its methods assign to `self`, but for its properties."""
    names = {
        node.attr
        for node in ast.walk(found)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }
    for part in found.body:
        if isinstance(part, ast.Assign) and ast.unparse(part.targets[0]) == "__slots__":
            names.update(ast.literal_eval(part.value))
    return sorted(names - {p.name for p in found.body if isinstance(p, ast.FunctionDef)})


def main() -> None:
    parser = argparse.ArgumentParser("python -m router.compiled")
    parser.add_argument("directory", nargs="?", type=Path, default=ROOT)
    parser.add_argument("--clean", action="store_true", help="remove the compiled modules")
    asked = parser.parse_args()
    if asked.clean:
        clean(asked.directory)
        return
    count = build(asked.directory)
    sys.stdout.write(f"{count} modules compiled, {how(asked.directory)}\n")


if __name__ == "__main__":
    main()
