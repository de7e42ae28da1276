"""What of the sources is given to the compiler, and when its work counts no longer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from router.compiled import HOT, ROOT, StaleModule, as_extension, beside, clean, how

SOURCE = """
class Plain(asyncio.Protocol):
    __slots__ = ("kept", "transport")
    transport: object

    def __init__(self) -> None:
        self.kept = 1
        self.seen, (self.first, *self.rest) = 2, (3, 4)

    @property
    def name(self) -> str:
        return self.kept

    @name.setter
    def name(self, name: str) -> None:
        self.kept = name


class Struct(msgspec.Struct):
    kept: int


@dataclass
class Decorated:
    def __init__(self) -> None:
        self.kept = 1


class Constants:
    LEAST = 1
"""


def test_a_class_that_inherits_nothing_gets_fields_for_its_slots_and_what_it_assigns_to_itself():
    _, declared = as_extension(SOURCE)
    assert declared.split("\n") == [
        "cdef class Plain:",
        *(f"    cdef public object {n}" for n in ("first", "kept", "rest", "seen", "transport")),
        "",
    ]


def test_its_base_and_its_slots_are_not_compiled_and_no_line_moves():
    source, _ = as_extension(SOURCE)
    before, after = SOURCE.split("\n"), source.split("\n")
    changed = {old: new for old, new in zip(before, after, strict=True) if old != new}
    assert changed == {
        "class Plain(asyncio.Protocol):": "class Plain:",
        '    __slots__ = ("kept", "transport")': "",
        "    transport: object": "",
    }


def test_every_module_of_the_list_exists():
    assert [name for name in HOT if not (ROOT / name).exists()] == []


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
