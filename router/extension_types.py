"""Which of the sources' classes Cython makes extension types of, and what it is told of their fields.

A class that inherits from nothing becomes an extension type. Its fields are its slots and what its
methods assign to `self`; its methods, and the functions beside it, are called directly where Cython
can do so. Everything is read from the sources and their annotations: what is annotated with such a
class (`worker: Worker`, `self._permit: Permit | None`), in whichever module it is written, is
found in its place instead of by its name. An interface, a class whose `__slots__` are `()`, is such a
class, too, and those that name it as their base keep it. A field that begins as a `{...}` or a `[...]` is
an exact dict or list, whose methods are called directly. All other annotations are taken away, since
Cython means other things by `int` and `dict` than Python does, but for those of functions that only compute
with floats: they take and return C doubles. Elsewhere floats are handed on and kept, and a double would be
made an object again at each step.

No line moves, so that tracebacks stay true.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from router.extension_names import literals, named

# Bases that a class can do without: uvloop and asyncio ask for methods, of which a class has to have
# all, and a type checker is done.
LOOSE_BASES: Final = ("asyncio.Protocol", "Generic[")
# Cython has none of these in what it calls directly.
CLOSURES: Final = (
    *(ast.Lambda, ast.GeneratorExp, ast.FunctionDef, ast.AsyncFunctionDef),
    *(ast.Yield, ast.YieldFrom),
)


@dataclass
class Module:
    """One source, and what it knows by name of all sources, name -> the module it is from.

    `types` are classes, `functions` those that are called directly, `doubles` the annotations of those
    that only compute with floats, `interfaces` classes without fields. `literals` are as written.
    """

    name: str
    source: str
    tree: ast.Module = field(init=False)
    types: dict[str, str] = field(default_factory=dict)
    functions: dict[str, str] = field(default_factory=dict)
    doubles: set[ast.expr | None] = field(init=False)
    interfaces: set[str] = field(default_factory=set)
    literals: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tree = ast.parse(self.source)
        self.doubles = {
            annotation
            for function in directly_called(self.tree.body)
            if only_computes(function)
            for annotation in hints(function)
        }

    def classes(self) -> Iterator[ast.ClassDef]:
        """Those that become extension types."""
        for found in self.tree.body:
            if (
                isinstance(found, ast.ClassDef)
                and not (found.decorator_list or found.keywords)
                and all(ast.unparse(base).startswith(LOOSE_BASES) for base in self._left(found))
                and (field_names(found) or found.name in self.interfaces)
            ):
                yield found

    def base(self, cls: ast.ClassDef) -> str:
        """The interface it has, in brackets; empty without."""
        left = self._left(cls)
        return "".join(f"({ast.unparse(base)})" for base in cls.bases if base not in left)

    def _left(self, cls: ast.ClassDef) -> list[ast.expr]:
        return [b for b in cls.bases if not (isinstance(b, ast.Name) and b.id in self.interfaces)]

    def type_of(self, annotation: ast.expr | None) -> str:
        """The extension type that an annotation names, alone or beside None, or C's double; else
        `object`."""
        if annotation in self.doubles:
            return "double"
        match annotation:
            case ast.Name(id=name) if name in self.types:
                return name
            case ast.Subscript(value=generic):
                return self.type_of(generic)
            case ast.BinOp(left=one, op=ast.BitOr(), right=ast.Constant(value=None)):
                return self.type_of(one)
        return "object"


def typed(sources: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """For each module, by its full name, the source for Cython and the declarations beside it."""
    modules = {name: Module(name, source) for name, source in sources.items()}
    interfaces = {name: interface_names(module.tree) for name, module in modules.items()}
    for module in modules.values():
        module.interfaces = interfaces[module.name] | imported(module.tree, interfaces)
    for module in modules.values():
        module.types = {found.name: module.name for found in module.classes()}
        module.functions = {found.name: module.name for found in directly_called(module.tree.body)}
        module.literals = literals(module.tree)
    own = {m.name: (set(m.types), set(m.functions), dict(m.literals)) for m in modules.values()}
    for module in modules.values():
        for found in module.tree.body:
            if isinstance(found, ast.ImportFrom) and found.module in own:
                types, functions, written = own[found.module]
                names = {alias.name for alias in found.names if alias.asname is None}
                module.types |= dict.fromkeys(names & types, found.module)
                module.functions |= dict.fromkeys(names & functions, found.module)
                module.literals |= {name: written[name] for name in names & written.keys()}
    return {name: _written(module) for name, module in modules.items()}


def _written(module: Module) -> tuple[str, str]:
    known = module.types.keys() | module.functions.keys()
    source, variables = named(_source(module), known, module.literals)
    declared = "".join(f"cdef object {name}\n" for name in variables)
    return source, _declared(module) + declared


def interface_names(tree: ast.Module) -> set[str]:
    """Classes without bases and fields, which say so."""
    return {
        found.name
        for found in tree.body
        if isinstance(found, ast.ClassDef)
        and not (found.bases or found.keywords or found.decorator_list)
        and any(ast.unparse(part) == "__slots__ = ()" for part in found.body)
    }


def imported(tree: ast.Module, of: Mapping[str, set[str]]) -> set[str]:
    """Which of the names that modules have it imports."""
    return {
        alias.name
        for found in tree.body
        if isinstance(found, ast.ImportFrom) and found.module is not None
        for alias in found.names
        if alias.asname is None and alias.name in of.get(found.module, ())
    }


# -- declarations --------------------------------------------------------------------------


def _declared(module: Module) -> str:
    known = module.types | module.functions
    lines = [
        f"from {origin} cimport {name}"
        for name, origin in sorted(known.items())
        if origin != module.name
    ]
    # What is written first may name what is written last.
    lines += [f"cdef class {cls.name}{module.base(cls)}" for cls in module.classes()]
    lines += [_signature(module, found) for found in directly_called(module.tree.body)]
    for cls in module.classes():
        lines.append(f"cdef class {cls.name}{module.base(cls)}:")
        kinds = _field_types(module, cls)
        lines += [
            f"    cdef public {kinds.get(name, 'object')} {name}" for name in field_names(cls)
        ]
        lines += [f"    {_signature(module, m)}" for m in directly_called(cls.body)]
    return "".join(f"{line}\n" for line in lines)


def field_names(cls: ast.ClassDef) -> list[str]:
    """Its slots and what its methods assign to `self`, but for its properties."""
    names = {
        node.attr
        for node in ast.walk(cls)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }
    for part in cls.body:
        if isinstance(part, ast.Assign) and ast.unparse(part.targets[0]) == "__slots__":
            names.update(ast.literal_eval(part.value))
    return sorted(names - {p.name for p in cls.body if isinstance(p, ast.FunctionDef)})


def _field_types(module: Module, cls: ast.ClassDef) -> dict[str, str]:
    """What the first assignment to each field says of it, as a type checker reads it."""
    kinds: dict[str, str] = {}
    for method in cls.body:
        if not isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        parameters = {a.arg: a.annotation for a in (*method.args.args, *method.args.kwonlyargs)}
        for node in ast.walk(method):
            match node:
                case ast.AnnAssign(
                    target=ast.Attribute(value=ast.Name(id="self"), attr=name),
                    annotation=annotation,
                    value=value,
                ):
                    kind = module.type_of(annotation)
                    kinds.setdefault(name, _display_type(value) if kind == "object" else kind)
                case ast.Assign(targets=[ast.Attribute(value=ast.Name(id="self"), attr=name)]):
                    kinds.setdefault(name, _value_type(module, node.value, parameters))
    return kinds


def _display_type(value: ast.expr | None) -> str:
    match value:
        case ast.Dict() | ast.DictComp():
            return "dict"
        case ast.List() | ast.ListComp():
            return "list"
    return "object"


def _value_type(module: Module, value: ast.expr, parameters: Mapping[str, ast.expr | None]) -> str:
    """Of a parameter, a new object, or one or the other."""
    match value:
        case ast.Name(id=given):
            return module.type_of(parameters.get(given))
        case ast.Call(func=made):
            return module.type_of(made)
        case ast.IfExp(body=one, orelse=ast.Constant(value=None)):
            return _value_type(module, one, parameters)
        case ast.BoolOp(values=(one, other)) | ast.IfExp(body=one, orelse=other):
            kind = _value_type(module, one, parameters)
            return kind if kind == _value_type(module, other, parameters) else "object"
    return _display_type(value)


def directly_called(body: list[ast.stmt]) -> Iterator[ast.FunctionDef]:
    """Those that have no closure, and take arguments by their places."""
    for found in body:
        if isinstance(found, ast.FunctionDef) and not (
            found.decorator_list
            or found.name.startswith("__")
            or found.args.kwonlyargs
            or found.args.vararg
            or found.args.kwarg
            or any(isinstance(n, CLOSURES) for part in found.body for n in ast.walk(part))
        ):
            yield found


def hints(function: ast.FunctionDef) -> list[ast.expr | None]:
    return [function.returns, *(a.annotation for a in function.args.args)]


def only_computes(function: ast.FunctionDef) -> bool:
    """Whether it takes and returns floats, and knows nothing but these by name. An int given as one of
    them comes out as a float."""
    given = {a.arg for a in function.args.args}
    names = (n.id for part in function.body for n in ast.walk(part) if isinstance(n, ast.Name))
    return given.issuperset(names) and all(
        isinstance(annotation, ast.Name) and annotation.id == "float"
        for annotation in hints(function)
    )


def _signature(module: Module, function: ast.FunctionDef) -> str:
    takes = function.args.args
    needed = len(takes) - len(function.args.defaults)
    arguments = ", ".join(
        ("self" if a.arg == "self" else f"{module.type_of(a.annotation)} {a.arg}")
        + ("=*" if number >= needed else "")
        for number, a in enumerate(takes)
    )
    return f"cpdef {module.type_of(function.returns)} {function.name}({arguments})"


# -- sources -------------------------------------------------------------------------------


def _source(module: Module) -> str:
    lines = module.source.encode().split(b"\n")
    # To Cython it is what the call returns, which is a coroutine.
    awaited = {n.returns for n in ast.walk(module.tree) if isinstance(n, ast.AsyncFunctionDef)}
    for annotation in sorted(_annotations(module.tree), key=_place, reverse=True):
        if annotation in awaited or module.type_of(annotation) == "object":
            _replace(lines, annotation, b"object")
    for cls in module.classes():
        if cls.bases:
            lines[cls.lineno - 1] = f"class {cls.name}{module.base(cls)}:".encode()
        for part in cls.body:
            slots = isinstance(part, ast.Assign) and ast.unparse(part.targets[0]) == "__slots__"
            bare = isinstance(part, ast.AnnAssign) and part.value is None
            if slots or bare:
                for number in range(part.lineno - 1, part.end_lineno or part.lineno):
                    lines[number] = b""
    return b"\n".join(lines).decode()


def _annotations(tree: ast.Module) -> Iterator[ast.expr]:
    """Those of functions, and of names of their own. A struct needs its fields' as they are."""
    fields = {part for cls in ast.walk(tree) if isinstance(cls, ast.ClassDef) for part in cls.body}
    for node in ast.walk(tree):
        match node:
            case ast.arg(annotation=ast.expr() as found):
                yield found
            case ast.FunctionDef(returns=ast.expr() as found):
                yield found
            case ast.AsyncFunctionDef(returns=ast.expr() as found):
                yield found
            case ast.AnnAssign(annotation=found) if node not in fields:
                yield found


def _place(node: ast.expr) -> tuple[int, int]:
    return node.lineno, node.col_offset


def _replace(lines: list[bytes], node: ast.expr, by: bytes) -> None:
    """Put `by` in the place of `node`, which ends on the line it ended on."""
    first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
    rest = lines[last][node.end_col_offset :]
    lines[first] = lines[first][: node.col_offset] + by
    for number in range(first, last):
        lines[number] += b" \\"
        lines[number + 1] = b" "
    lines[last] += rest
