"""What the compiler is told of classes, and what of their sources it is given."""

from __future__ import annotations

import ast

from router.extension_types import typed

PLAIN = """
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
WORKER = """
class Worker:
    def __init__(self, url: str) -> None:
        self.url = url
"""
USER = """
from a.worker import Worker, elsewhere
from other import Stranger

class Group(Generic[T]):
    def __init__(self, first: Worker, rest: list[Worker], stranger: Stranger) -> None:
        self.first = first
        self.last: Worker | None = None
        self.made = first or Worker("u")
        self.rest = rest
        self.stranger = stranger
"""
CALLED = """
def plain(text: str, times: int = 2) -> str: ...
def by_name(*, text: str) -> str: ...
def closure(texts): return sum(len(text) for text in texts)
async def waiting() -> None: ...
@cache
def decorated() -> None: ...

class Worker:
    def __init__(self) -> None:
        self.peer: Worker | None = None
    def met(self, peer: Worker | None, now: float) -> Worker | None: ...
    async def wait(self) -> None: ...
"""


INTERFACES = """
class Heard:
    __slots__ = ()
    def said(self, text: str) -> None:
        raise NotImplementedError

class Structural(Protocol):
    __slots__ = ()
    def said(self, text: str) -> None: ...
"""


DISPLAYS = """
class Kept:
    def __init__(self, given: dict[str, int]) -> None:
        self.by_name: dict[str, int] = {}
        self.squares = {n: n * n for n in range(9)}
        self.all: list[int] = []
        self.some = [n for n in given]
        self.given = given
        self.counted: dict[str, int] = defaultdict(int)
        self.later: list[int] | None = None
"""


def declared(source: str) -> list[str]:
    return typed({"m": source})["m"][1].splitlines()


def fields_of_users() -> dict[str, str]:
    lines = typed({"a.worker": WORKER, "a.user": USER})["a.user"][1].splitlines()
    fields = (line.split() for line in lines if line.startswith("    cdef public"))
    return {name: kind for _, _, kind, name in fields}


def test_a_class_that_inherits_nothing_gets_fields_for_its_slots_and_what_it_assigns_to_itself():
    assert declared(PLAIN) == [
        "cdef class Plain",
        "cdef class Plain:",
        *(f"    cdef public object {n}" for n in ("first", "kept", "rest", "seen", "transport")),
    ]


def test_a_field_has_the_class_of_another_module_that_its_first_assignment_says():
    assert fields_of_users() == {
        "first": "Worker",
        "last": "Worker",
        "made": "Worker",
        "rest": "object",
        "stranger": "object",
    }


def test_a_field_that_begins_as_a_dict_or_a_list_is_one_and_no_other_is():
    fields = (line.split()[2:] for line in declared(DISPLAYS)[2:])
    assert {name: kind for kind, name in fields} == {
        "by_name": "dict",
        "squares": "dict",
        "all": "list",
        "some": "list",
        "given": "object",
        "counted": "object",
        "later": "object",
    }


def test_a_class_of_another_module_is_known_where_it_is_imported():
    made = typed({"a.worker": WORKER, "a.user": USER})
    assert made["a.user"][1].splitlines()[0] == "from a.worker cimport Worker"
    assert "cimport" not in made["a.worker"][1]


def test_what_has_no_closure_and_takes_arguments_by_their_places_is_called_directly():
    assert [line.strip() for line in declared(CALLED) if "cpdef" in line] == [
        "cpdef object plain(object text, object times=*)",
        "cpdef Worker met(self, Worker peer, object now)",
    ]


def test_what_only_computes_with_floats_takes_and_returns_c_doubles_and_nothing_else_does():
    source = (
        "def half(whole: float, part: float = 0.5) -> float: return whole * part\n"
        "def scaled(whole: float) -> float: return whole * SCALE\n"
        "def whole(part: float) -> int: return part // 1\n"
        "def times(whole: float, often: int) -> float: return whole * often\n"
        "def bare(whole) -> float: return whole * 2.0\n"
        "class Rate:\n"
        "    def __init__(self) -> None: self.rate = 1.0\n"
        "    def of(self, whole: float) -> float: return whole * 2.0\n"
    )
    given, declared = typed({"m": source})["m"]
    assert [line.strip() for line in declared.splitlines() if "cpdef" in line] == [
        "cpdef double half(double whole, double part=*)",
        "cpdef object scaled(object whole)",
        "cpdef object whole(object part)",
        "cpdef object times(object whole, object often)",
        "cpdef object bare(object whole)",
        "cpdef object of(self, object whole)",
    ]
    assert given.splitlines()[0] == source.splitlines()[0]
    assert "float" not in "".join(given.splitlines()[1:])


def test_a_function_of_another_module_is_called_directly_where_it_is_imported():
    user = "from m import plain, by_name, plain as renamed"
    made = typed({"m": CALLED, "user": user})
    assert made["user"][1] == "from m cimport plain\n"


def test_an_interface_stays_the_base_of_those_that_name_it_in_whichever_module():
    user = """
from m import Heard, Structural

class Listener(asyncio.Protocol, Heard):
    def __init__(self, other: Heard) -> None:
        self.other = other
    def said(self, text: str) -> None: ...

class Other(Structural):
    def __init__(self) -> None:
        self.kept = 1
"""
    source, declarations = typed({"m": INTERFACES, "user": user})["user"]
    assert declarations.splitlines() == [
        "from m cimport Heard",
        "cdef class Listener(Heard)",
        "cdef class Listener(Heard):",
        "    cdef public Heard other",
        "    cpdef object said(self, object text)",
    ]
    assert "\nclass Listener(Heard):\n" in source
    assert "\nclass Other(Structural):\n" in source
    assert (
        "cdef class Heard:\n    cpdef object said(self, object text)\n"
        in typed({"m": INTERFACES})["m"][1]
    )


def test_its_base_and_its_slots_are_not_compiled():
    before, after = PLAIN.split("\n"), typed({"m": PLAIN})["m"][0].split("\n")
    changed = {old: new for old, new in zip(before, after, strict=True) if old != new}
    assert changed["class Plain(asyncio.Protocol):"] == "class Plain:"
    assert changed['    __slots__ = ("kept", "transport")'] == ""
    assert changed["    transport: object"] == ""


def test_only_annotations_with_our_classes_stay_but_those_of_a_struct():
    source = (
        "class Worker:\n"
        "    def use(self, key: str, by: Worker | None, often: dict[\n        str, int\n    ]) -> None:\n"
        "        self.key = 'é'; at: dict[\n            str, int\n        ] = {}; n: int = 1\n"
        "class Struct(msgspec.Struct):\n"
        "    kept: int\n"
    )
    given = typed({"m": source})["m"][0]
    assert ast.unparse(ast.parse(given)) == ast.unparse(
        ast.parse(
            "class Worker:\n"
            "    def use(self, key: object, by: Worker | None, often: object) -> object:\n"
            "        self.key = 'é'; at: object = {}; n: object = 1\n"
            "class Struct(msgspec.Struct):\n"
            "    kept: int\n"
        )
    )


def test_a_coroutine_does_not_return_what_it_is_awaited_for():
    source = CALLED + "\nasync def found(worker: Worker) -> Worker | None: ...\n"
    assert "async def found(worker: Worker) -> object:" in typed({"m": source})["m"][0]


def test_no_line_moves():
    for source in (PLAIN, USER, CALLED):
        lines = [
            [node.lineno for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt)]
            for text in (source, typed({"m": source})["m"][0])
        ]
        assert set(lines[1]) <= set(lines[0])
