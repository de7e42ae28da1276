"""docs/flags.md, made from the declared flags: `python -m router.flag_docs > docs/flags.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from router.compat import Accepted
from router.config import Config
from router.flags import Option, argument, options_of, variable

INTRODUCTION = f"""\
<!-- Made by `python -m router.flag_docs`; a test compares. Change router/config.py instead. -->
# Flags

`trace-router serve`, `python -m router` and `Router(...)` take the same settings:

| | |
|---|---|
| on the command line | `--trace-ttl 600` |
| in the environment | `{variable("trace_ttl")}=600`; lists separated by spaces, switches `true` or `false`; an empty variable is none |
| from Python | `Router(trace_ttl=600)` |

A flag or keyword wins over the environment, the environment over the default. A setting that cannot
be used refuses the start with exit status 2 and a message that names the flag and what is allowed; what
shows only while starting (a port in use, a certificate or a policy's file that cannot be used) with 1.
`--...-file PATH` reads the value from a file, for secrets. Secrets are never logged.

Flags of `sglang_router.launch_router` 0.3.2 keep their names and defaults; three defaults differ:
`--request-timeout-secs` (a stream is cut by silence, not by its length), `--prometheus-port` (the
metrics are on the serving port) and `--cors-allowed-origins` (none means none).
"""
WITHOUT_EFFECT = """\
The following flags of sglang-router are accepted so that its command lines start here. Those that
are given are named in one warning at start.
"""


def markdown() -> str:
    """The whole page."""
    return "\n".join([INTRODUCTION, *_tables(Config), WITHOUT_EFFECT, *_tables(Accepted)])


def _tables(declarations: type[Config] | type[Accepted]) -> Iterator[str]:
    options = options_of(declarations)
    for group in dict.fromkeys(option.flag.group for option in options):
        yield f"## {group}\n\n| flag | default | values | meaning |\n|---|---|---|---|"
        yield from map(_row, (option for option in options if option.flag.group == group))
        yield ""


def _row(option: Option) -> str:
    names = ", ".join(f"`{argument(spelling)}`" for spelling, _ in option.spellings())
    default = f"`{option.default_text}`" if option.default_text else ""
    meaning = option.flag.help
    if option.flag.env:
        meaning += f" Also `{option.flag.env}`."
    return _cells(names, default, _values(option), meaning)


def _values(option: Option) -> str:
    unit = option.metavar.lower() if option.metavar in ("SECONDS", "MILLISECONDS", "BYTES") else ""
    if option.is_switch:
        return "switch"
    return f"{option.allowed} ({unit})" if unit else option.allowed


def _cells(*cells: str) -> str:
    return "| " + " | ".join(_escaped(cells)) + " |"


def _escaped(cells: Iterable[str]) -> Iterator[str]:
    return (cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells)


if __name__ == "__main__":
    sys.stdout.write(markdown())
