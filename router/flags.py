"""What a flag is: one declaration that the command line, the environment, Python keywords, the
help text, the docs and every error message are derived from.

A declaration is a field of a struct, its type with bounds, and a `Flag`:

    port: Annotated[int, Meta(ge=0, le=65535), Flag(SERVER, "TCP port to listen on")] = 30000

It is known by several *spellings* (underscored): the field's own name, aliases, a negation, and a
`_file` twin that reads the value from a file. Each spelling is a flag (`--trace-ttl`), an
environment variable (`TRACE_ROUTER_TRACE_TTL`) and a keyword (`trace_ttl`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Literal, get_type_hints

import msgspec
from msgspec import inspect as types

ENV_PREFIX = "TRACE_ROUTER_"
TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")

SpellingKind = Literal["value", "negated", "file"]


class ConfigError(ValueError):
    """The settings cannot be used. One line per problem, each naming the flag and what is allowed."""


class Flag(msgspec.Struct, frozen=True):
    """What the type of a field does not say about its flag.

    `allowed` replaces the description derived from the type; `default` the shown default value.
    `env` is a further environment variable. `separator` splits a list given as one text (None:
    white space, also inside the items). `parse` turns a text, or each text of a list, into what
    the type expects; it raises ConfigError for a message of its own, other ValueErrors for the
    usual one. `gather` puts the words of a list together where an item is more than one.
    """

    group: str
    help: str
    aliases: tuple[str, ...] = ()
    negation: str | None = None
    file_twin: bool = False
    secret: bool = False
    env: str | None = None
    metavar: str | None = None
    allowed: str | None = None
    default: str | None = None
    separator: str | None = None
    parse: Callable[[str], object] | None = None
    gather: Callable[[Sequence[object]], list[object]] | None = None


class Option:
    """One declared flag, resolved."""

    def __init__(self, field: msgspec.structs.FieldInfo, annotation: object, flag: Flag) -> None:
        self.name = field.name
        self.flag = flag
        self.annotation = annotation
        self.field = field
        self.info = _without_none(types.type_info(annotation))

    @property
    def argument(self) -> str:
        return argument(self.name)

    @property
    def is_switch(self) -> bool:
        return isinstance(self.info, types.BoolType)

    @property
    def is_list(self) -> bool:
        return isinstance(self.info, types.VarTupleType)

    @property
    def default(self) -> object:
        """The value when nobody gives one; None for one that is made at start."""
        if self.field.default is not msgspec.NODEFAULT:
            return self.field.default
        return {} if self.field.default_factory is dict else None

    @property
    def default_text(self) -> str:
        """The default as help and docs show it; empty for none."""
        if self.flag.default is not None:
            return self.flag.default
        if self.is_switch:
            return "on" if self.default else "off"
        return "" if self.default in (None, "", (), {}) else plain(self.default)

    @property
    def allowed(self) -> str:
        """Which values are allowed, in words."""
        return self.flag.allowed or _describe(self.info)

    @property
    def metavar(self) -> str:
        return self.flag.metavar or _metavar(self.name, self.info)

    def spellings(self) -> Iterator[tuple[str, SpellingKind]]:
        """Every name of this flag, the main one first."""
        yield self.name, "value"
        for alias in self.flag.aliases:
            yield alias, "value"
        if self.flag.negation:
            yield self.flag.negation, "negated"
        if self.flag.file_twin:
            yield f"{self.name}_file", "file"

    def convert(self, value: object, kind: SpellingKind, label: str) -> object:
        """`value`, given under the name `label`, as the field's type. Raises ConfigError."""
        if kind == "file":
            value = _read_file(value, label)
        shown = "" if self.flag.secret else f", got {plain(value)!r}"
        try:
            converted = msgspec.convert(self._prepare(value), self.annotation, strict=False)
            if not _finite(converted):
                raise ValueError("not finite")
        except ConfigError as reason:
            raise ConfigError(f"{label}: {reason}") from None
        except ValueError:  # msgspec's own errors are ValueErrors
            raise ConfigError(f"{label}: expected {self.allowed}{shown}") from None
        return not converted if kind == "negated" else converted

    def _prepare(self, value: object) -> object:
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if self.is_list:
            items = [self._parse(item) for item in self._items(value)]
            return items if self.flag.gather is None else self.flag.gather(items)
        if isinstance(value, str):
            if self.is_switch:
                word = value.strip().lower()
                return True if word in TRUE else False if word in FALSE else value
            return self._parse(value)
        return value

    def _items(self, value: object) -> list[object]:
        if isinstance(value, str):
            return [word for word in map(str.strip, value.split(self.flag.separator)) if word]
        if isinstance(value, Mapping):
            return [f"{key}={item}" for key, item in value.items()]
        if not isinstance(value, Sequence):
            raise ValueError("not a list")
        if self.flag.separator is not None:
            return list(value)
        # Container manifests often pass a whole list as one argument.
        return [w for item in value for w in (item.split() if isinstance(item, str) else [item])]

    def _parse(self, value: object) -> object:
        parse = self.flag.parse
        return parse(value) if parse is not None and isinstance(value, str) else value


@cache
def options_of(declarations: type[msgspec.Struct]) -> tuple[Option, ...]:
    """The flags that a struct declares, in its order, and behind them those it inherits."""
    hints = get_type_hints(declarations, include_extras=True)
    fields = msgspec.structs.fields(declarations)
    return tuple(
        Option(field, hints[field.name], extra)
        for field in sorted(fields, key=lambda f: f.name not in declarations.__annotations__)
        for extra in getattr(hints[field.name], "__metadata__", ())
        if isinstance(extra, Flag)
    )


def argument(spelling: str) -> str:
    """`trace_ttl` as `--trace-ttl`."""
    return "--" + spelling.replace("_", "-")


def variable(spelling: str) -> str:
    """`trace_ttl` as `TRACE_ROUTER_TRACE_TTL`."""
    return ENV_PREFIX + spelling.upper()


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name; empty when nothing is close."""
    from difflib import get_close_matches  # costs a tenth of the start, needed only for mistakes

    close = get_close_matches(name, list(known), n=2, cutoff=0.8)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def plain(value: object) -> str:
    """A value as a user would write it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else str(value)
    if isinstance(value, Mapping):
        return msgspec.json.encode(value).decode()
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return " ".join(plain(item) for item in value)
    return str(value)


def _finite(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _read_file(path: object, label: str) -> str:
    try:
        content = Path(os.fsdecode(str(path))).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{label}: cannot read {str(path)!r}: {reason}") from None
    if not content:
        raise ConfigError(f"{label}: {str(path)!r} is empty")
    return content


def _without_none(info: types.Type) -> types.Type:
    if not isinstance(info, types.UnionType):
        return info
    rest = tuple(t for t in info.types if not isinstance(t, types.NoneType))
    return rest[0] if len(rest) == 1 else types.UnionType(rest)


def _describe(info: types.Type) -> str:
    match info:
        case types.BoolType():
            return f"one of {', '.join((*TRUE, *FALSE))}"
        case types.IntType():
            return "a whole number" + _bounds(info)
        case types.FloatType():
            return "a number" + _bounds(info)
        case types.LiteralType((only,)):
            return str(only)
        case types.LiteralType(values):
            return "one of " + ", ".join(map(str, values))
        case types.EnumType(enum):
            return "one of " + ", ".join(str(member.value) for member in enum)
        case types.VarTupleType(item):
            return f"a list, each {_describe(item)}"
        case types.UnionType(alternatives):
            return " or ".join(map(_describe, alternatives))
        case types.DictType():
            return "a JSON object"
        case types.StrType(min_length=1):
            return "some text"
        case _:
            return "text"


def _bounds(info: types.IntType | types.FloatType) -> str:
    if info.ge is not None and info.le is not None:
        return f" from {info.ge} to {info.le}"
    if info.ge is not None:
        return f" of at least {info.ge}"
    return f" above {info.gt}" if info.gt is not None else ""


def _metavar(name: str, info: types.Type) -> str:
    match info:
        case types.LiteralType(values):
            return "{" + ",".join(map(str, values)) + "}"
        case types.EnumType(enum):
            return "{" + ",".join(str(member.value) for member in enum) + "}"
        case types.VarTupleType():
            return name.removesuffix("s").split("_")[-1].upper()
        case types.DictType():
            return "JSON"
        case types.StrType():
            return name.split("_")[-1].upper()
    units = {"_secs": "SECONDS", "_ms": "MILLISECONDS", "_bytes": "BYTES", "_ttl": "SECONDS"}
    return next((unit for suffix, unit in units.items() if name.endswith(suffix)), "N")
