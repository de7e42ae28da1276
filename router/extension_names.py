"""What functions use of their module: its literals as they are, and the rest as C variables.

A name of a module is looked up in its dict at each use; only up to Python 3.11 can Cython tell that the
dict is the same. But a name that is bound once says the same ever after. A literal is written where it
is used, so that it is a number of C beside others. Anything else is bound again, as a C variable that
the functions use. It keeps its name as well: for imports, for pickle, for who resolves annotations.

No line moves, so that tracebacks stay true.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from typing import Final

PREFIX: Final = "_c_"
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def literals(tree: ast.Module) -> dict[str, str]:
    """The names that are bound once, to a literal; and it, as an expression of one line."""
    once = _bound_once(tree)
    return {
        name: f"({ast.unparse(value)})"
        for statement in tree.body
        for name, value in _assigned(statement)
        if name in once and _is_literal(value)
    }


def named(source: str, known: Set[str], literals: Mapping[str, str]) -> tuple[str, list[str]]:
    """The source with names replaced in its functions, and the C variables that it has then.

    `known` are the names that Cython finds by itself; `literals` may be of other modules.
    """
    tree = ast.parse(source)
    lines = source.encode().split(b"\n")
    places = {
        name: place
        for statement in tree.body
        if (place := _place_behind(statement, lines))
        for name in _bound_by(statement)
    }
    names = (places.keys() & _bound_once(tree)) - known
    uses = [use for use in _uses(tree) if use.id in names]
    variables = sorted({use.id for use in uses} - literals.keys())
    edits = [
        (use.lineno, use.col_offset, use.end_col_offset or 0, literals.get(use.id, PREFIX + use.id))
        for use in uses
    ]
    for name in variables:
        at, column, separator = places[name]
        edits.append((at, column, column, f"{separator}{PREFIX}{name} = {name}"))
    for number, first, last, by in sorted(edits, reverse=True):
        line = lines[number - 1]
        lines[number - 1] = line[:first] + by.encode() + line[last:]
    return b"\n".join(lines).decode(), [PREFIX + name for name in variables]


def _bound_once(tree: ast.Module) -> Set[str]:
    count = Counter(name for statement in tree.body for name in _bound_by(statement))
    count.update(n for node in ast.walk(tree) if isinstance(node, ast.Global) for n in node.names)
    return {name for name, times in count.items() if times == 1}


def _bound_by(statement: ast.stmt) -> Iterator[str]:
    """In the scope of the statement itself."""
    if isinstance(statement, Definition):
        yield statement.name
    else:
        yield from _bound_within(statement)


def _bound_within(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        match part:
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()) | ast.arg(arg=name):
                yield name
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield part.name
            case ast.alias(name=name, asname=other):
                yield other or name.partition(".")[0]
            case (
                ast.ExceptHandler(name=str(name))
                | ast.MatchAs(name=str(name))
                | ast.MatchStar(name=str(name))
                | ast.MatchMapping(rest=str(name))
            ):
                yield name


def _assigned(statement: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    match statement:
        case (
            ast.Assign(targets=[ast.Name(id=name)], value=value)
            | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
        ):
            yield name, value


def _is_literal(value: ast.expr) -> bool:
    match value:
        case ast.Constant(value=int() | float() | str() | bytes()):
            return True
        case ast.UnaryOp(operand=one):
            return _is_literal(one)
        case ast.BinOp(left=one, right=other):
            return _is_literal(one) and _is_literal(other)
    return False


def _place_behind(statement: ast.stmt, lines: list[bytes]) -> tuple[int, int, str] | None:
    """Line and column where a name can be bound again, and what stands between the two."""
    last = statement.end_lineno or statement.lineno
    match statement:
        case ast.ImportFrom(module="__future__"):
            return None
        case ast.Import() | ast.ImportFrom() | ast.Assign() | ast.AnnAssign(value=ast.expr()):
            return last, statement.end_col_offset or 0, "; "
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            # Behind a block only a line of its own will do.
            return (last + 1, 0, "") if lines[last : last + 1] == [b""] else None
    return None


def _uses(tree: ast.Module) -> Iterator[ast.Name]:
    """What functions and methods find in their module, but within f-strings, which have no places."""
    for statement in tree.body:
        for function in statement.body if isinstance(statement, ast.ClassDef) else [statement]:
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                parts = (function.args, *function.body)
                own = {name for part in parts for name in _bound_within(part)}
                uses = (use for part in function.body for use in _loads(part))
                yield from (use for use in uses if use.id not in own)


def _loads(node: ast.AST) -> Iterator[ast.Name]:
    match node:
        case ast.JoinedStr():
            return
        case ast.Name(ctx=ast.Load()):
            yield node
    for part in ast.iter_child_nodes(node):
        yield from _loads(part)
