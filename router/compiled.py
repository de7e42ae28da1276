"""The hot path as machine code: the same sources, compiled by Cython into modules beside them.

    python -m router.compiled [DIRECTORY]     compiles the installed router, or the one in DIRECTORY
    python -m router.compiled --clean [DIRECTORY]

Python alone is always enough; compiled, its part of a request is a third smaller. It takes the extra
`compiled` and a C compiler. Nothing in the sources is written for it; what Cython is told of classes
and of names is read from them (`router/extension_types.py`, `router/extension_names.py`). Methods of a
class that became an extension type, and what a module has by name, cannot be replaced: tests that do
so are marked `interpreted`.

Python prefers a compiled module to its source, so one that is older than its source would run
yesterday's code: `how` refuses that, and is asked at each start.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Literal

from router.extension_types import typed

ROOT: Final = Path(__file__).parents[1]
SUFFIX: Final = sysconfig.get_config_var("EXT_SUFFIX") or ".so"
# What a request goes through, and what it leaves behind. Others would gain nothing.
HOT: Final = tuple(
    f"{package}/{name}.py"
    for package, names in {
        "router": "caches clock fleet member models outbox",
        "router/api": (
            "access connection dispatch forwarding gate incoming inference known_head leg record relay"
            " request request_log routing sending taking watch"
        ),
        "router/core": (
            "admission ages answer_head answers asked blocks breaker chunks engines evictions facts followers headers health ids kept"
            " known_length model_names outcome paths prefill prefix prefix_news retry rid rounding shared_load splice sse"
            " usage worker"
        ),
        "router/metrics": "histogram labels record",
        "router/policies": (
            "base bucket cache_aware consistent_hashing expected_ttft manual marginal_utility"
            " power_of_two prefix_hash random receipt round_robin shortest_queue weighted"
        ),
        "router/upstream": "connection known_answers pool pools",
        "tracking": "changes health histogram lifecycle lines recent record store sums trace waiters writer",
    }.items()
    for name in names.split()
)
DIRECTIVES: Final = (
    "language_level=3",
    "annotation_typing=True",
    "binding=False",
    "nonecheck=True",  # a field that is None has no fields of its own: an error, as in Python
    "overflowcheck=True",  # lengths are C integers: an overflow is an error, never another number
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
    paths = {_name(path, root): path for path in sources(root)}
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        copies = []
        made = typed({name: path.read_text() for name, path in paths.items()})
        for name, (source, declared) in made.items():
            copy = work / name.replace(".", "/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            for package in (p / "__init__.py" for p in copy.parents if work in p.parents):
                package.touch()  # so that Cython knows the whole name of a module
            copy.with_suffix(".py").write_text(source)
            copy.with_suffix(".pxd").write_text(declared)
            copies.append(copy.with_suffix(".py"))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            built = list(pool.map(lambda source: _compile(source, work), copies))
        for path, module in zip(paths.values(), built, strict=True):
            new = beside(path).with_suffix(".new")
            new.write_bytes(module.read_bytes())
            new.replace(beside(path))
    return len(paths)


def _name(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts)


def _compile(source: Path, root: Path) -> Path:
    c_file, module = source.with_suffix(".c"), beside(source)
    directives = [part for directive in DIRECTIVES for part in ("-X", directive)]
    cython = [sys.executable, "-m", "cython", *directives, "-I", str(root)]
    subprocess.run([*cython, "-o", str(c_file), str(source)], check=True)
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    # -fno-plt: what Python has is called without a detour, whose code would fill the caches, too.
    # -DNDEBUG, as Python itself is built: its headers check by `assert` what Cython has checked.
    # A function called by a wrong type is an error of GCC 14, and so of every compiler here. A product
    # and a sum are rounded each, as in Python, also where a machine could do it once for both.
    strict = ["-Werror=incompatible-pointer-types", "-fno-strict-aliasing", "-ffp-contract=off"]
    flags = ["-O2", "-s", "-DNDEBUG", *strict, "-fPIC", "-fno-plt", "-shared"]
    include = ["-I", sysconfig.get_path("include")]
    subprocess.run([compiler, *flags, *include, "-o", str(module), str(c_file)], check=True)
    return module


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
