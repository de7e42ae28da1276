"""What is compiled, that it does as the sources do, and when it counts no longer."""

from __future__ import annotations

import ast
import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from router.compiled import HOT, ROOT, StaleModule, beside, build, clean, how, sources


def test_every_module_of_the_list_exists():
    assert [name for name in HOT if not (ROOT / name).exists()] == []


def test_a_protocol_has_all_of_its_methods_itself_for_compiled_it_has_no_base():
    asked = {name for name in dir(asyncio.Protocol) if not name.startswith("_")}
    asked.remove("connection_made")  # `Line` takes over connections that have been made
    lacking = {}
    for path in sources(ROOT):
        for each in ast.parse(path.read_text()).body:
            if isinstance(each, ast.ClassDef) and "asyncio.Protocol" in map(
                ast.unparse, each.bases
            ):
                has = {one.name for one in each.body if isinstance(one, ast.FunctionDef)}
                lacking[each.name] = asked - has
    assert lacking.keys() == {"ClientConnection", "UpstreamConnection", "Line"}
    assert [name for name, missing in lacking.items() if missing] == []


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / HOT[0]
    source.parent.mkdir()
    source.write_text("")
    return source


def test_without_compiled_modules_the_code_is_interpreted(source: Path, tmp_path: Path):
    assert how(tmp_path) == "interpreted"


def test_a_compiled_module_counts_until_its_source_changes(source: Path, tmp_path: Path):
    module = beside(source)
    module.write_bytes(b"")
    os.utime(source, (1, 1))
    os.utime(module, (2, 2))
    assert how(tmp_path) == "compiled"
    os.utime(source, (3, 3))
    with pytest.raises(StaleModule, match=module.name):
        how(tmp_path)
    clean(tmp_path)
    assert how(tmp_path) == "interpreted"


# Two modules of the list, in the order of their imports.
NEAR, FAR = "router/clock.py", "router/fleet.py"
NEAR_SOURCE = """
LEAST = 64 * 1024

class Near:
    def __init__(self, kept: int) -> None:
        self.kept = kept

    def more(self, by: int) -> int:
        return self.kept + by
"""
FAR_SOURCE = """
from math import inf
from router.clock import LEAST, Near

class Far:
    def __init__(self, near: Near | None) -> None:
        self.near = near

    def kept(self) -> int:
        return self.near.kept

    def more(self) -> int:
        return self.near.more(1)

    def limits(self) -> tuple[int, float]:
        return LEAST + 1, inf
"""
USE = """
import router.clock, router.fleet
from router.clock import Near
from router.fleet import Far

class Nearer(Near):
    def more(self, by):
        return 10

def refused(kept):
    try:
        return kept()
    except AttributeError:
        return "refused"

print(router.fleet.__file__.endswith(".py"))
print(Far(Near(1)).kept(), Far(Near(1)).more(), Far(Nearer(1)).more())
print(refused(Far(None).kept), refused(Far(None).more))
print(Far(None).limits(), router.fleet.LEAST, router.fleet.inf)
"""


@pytest.mark.slow
def test_compiled_or_not_none_has_no_fields_subclasses_have_methods_and_modules_names(
    tmp_path: Path,
):
    pytest.importorskip("Cython")
    for name, text in {NEAR: NEAR_SOURCE, FAR: FAR_SOURCE}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    def said() -> list[str]:
        command = [sys.executable, "-c", USE]
        return subprocess.check_output(command, cwd=tmp_path, text=True).splitlines()

    interpreted, *before = said()
    assert build(tmp_path) == 2
    compiled, *after = said()
    assert (interpreted, compiled) == ("True", "False")
    assert before == after == ["1 2 10", "refused refused", "(65537, inf) 65536 inf"]
