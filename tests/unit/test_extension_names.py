"""Names of modules: which of them the compiler is given as literals or as C variables, and where."""

from __future__ import annotations

import ast

from router.extension_names import literals, named
from router.extension_types import typed


def given(source: str, known: frozenset[str] = frozenset()) -> list[str]:
    """What became of the lines of the source."""
    return named(source, known, literals(ast.parse(source)))[0].splitlines()


def test_a_literal_is_written_where_it_is_used_and_kept_where_it_is_bound():
    source = (
        "LEAST: Final = 64 * 1024  # bytes\nNAME = b'é'.x\nSIGN = -1\ndef f(): return LEAST + SIGN"
    )
    assert given(source.replace("é", "e"))[0] == "LEAST: Final = 64 * 1024  # bytes"
    assert given(source.replace("é", "e"))[-1] == "def f(): return (64 * 1024) + (-1)"


def test_anything_else_is_bound_again_as_a_variable_that_functions_use():
    assert given(
        "from deep.place import (\n"
        "    one,  # é\n"
        "    two as other,\n"
        ")  # both\n"
        "import a.b\n"
        "LIMIT = len(other)  # 'é'\n"
        "class Kept(Struct):\n"
        "    size: int = LIMIT\n"
        "\n"
        "async def f(by=LIMIT):\n"
        "    return 'é', one(other, LIMIT), a.b.c, Kept\n"
    ) == [
        "from deep.place import (",
        "    one,  # é",
        "    two as other,",
        "); _c_one = one; _c_other = other  # both",
        "import a.b; _c_a = a",
        "LIMIT = len(other); _c_LIMIT = LIMIT  # 'é'",
        "class Kept(Struct):",
        "    size: int = LIMIT",
        "_c_Kept = Kept",
        "async def f(by=LIMIT):",
        "    return 'é', _c_one(_c_other, _c_LIMIT), _c_a.b.c, _c_Kept",
    ]


def test_what_is_bound_twice_or_perhaps_or_by_a_function_is_looked_up():
    source = (
        "from m import twice, kept, hidden, parted\n"
        "try:\n    import perhaps\nexcept ImportError:\n    perhaps = None\n"
        "def twice(): ...\n"
        "def f(hidden):\n"
        "    global kept\n"
        "    kept = [parted for parted in hidden]\n"
        "    return kept, parted, perhaps, twice\n"
        "class G:\n"
        "    def parted(self): return hidden, parted, f'{hidden}'\n"
    )
    assert given(source) == [
        "from m import twice, kept, hidden, parted; _c_hidden = hidden; _c_parted = parted",
        *source.splitlines()[1:-1],
        "    def parted(self): return _c_hidden, _c_parted, f'{hidden}'",
    ]


def test_what_cython_knows_is_left_to_it():
    source = "from m import Worker, used\ndef f(): return Worker, used()"
    assert given(source, frozenset({"Worker", "used"})) == source.splitlines()


def test_literals_of_other_modules_are_written_too_and_variables_are_declared():
    made = typed(
        {
            "m": "LEAST: Final = 1\nMOST: Final = f()\n",
            "user": "from m import LEAST, MOST\ndef f(): return LEAST < MOST\n",
        }
    )
    assert made["user"] == (
        "from m import LEAST, MOST; _c_MOST = MOST\ndef f(): return (1) < _c_MOST\n",
        "cpdef object f()\ncdef object _c_MOST\n",
    )
