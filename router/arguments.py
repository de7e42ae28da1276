"""The command line of `serve`: argparse, filled from the declared flags."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Sequence
from typing import NoReturn

from router.compat import Accepted
from router.config import Config
from router.flags import ENV_PREFIX, ConfigError, Option, argument, did_you_mean, options_of

DESCRIPTION = f"""\
Route inference requests to workers and keep a trace of each.

  python -m router --worker-urls http://gpu1:30000 http://gpu2:30000 --policy cache_aware

Every flag is also an environment variable: --trace-ttl is {ENV_PREFIX}TRACE_TTL. Lists are
separated by spaces, switches are true or false. A flag wins over its variable.
"""


class _Help(argparse.RawDescriptionHelpFormatter):
    """Names stay whole: no line is broken at a hyphen."""

    def __init__(self, prog: str) -> None:
        width = min(shutil.get_terminal_size().columns, 110) - 2
        super().__init__(prog, max_help_position=36, width=width)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def parse_arguments(arguments: Sequence[str]) -> dict[str, object]:
    """The flags given, by spelling, with values as text. Raises ConfigError for what is no flag.

    Prints the help and raises SystemExit when asked to.
    """
    parser = build_parser()
    given, rest = parser.parse_known_args(arguments)
    if rest:
        raise ConfigError(_unknown(rest, list(parser._option_string_actions)))
    return vars(given)


def build_parser() -> argparse.ArgumentParser:
    """The parser of `serve`. Flags not given are absent from its namespace."""
    accepted = options_of(Accepted)
    parser = _Parser(
        prog="trace-router serve",
        usage="trace-router serve [--worker-urls URL ...] [flags]",
        description=DESCRIPTION,
        epilog=_epilog(accepted),
        formatter_class=_Help,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    groups: dict[str, argparse._ArgumentGroup] = {}
    for option in options_of(Config):
        title = option.flag.group
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        _add(groups[title], option, help_text(option))
    for option in accepted:
        _add(parser, option, argparse.SUPPRESS)
    return parser


def help_text(option: Option) -> str:
    """What the flag does, with its other names and its default."""
    notes = [f"also {argument(alias)}" for alias in option.flag.aliases]
    if option.default_text:
        notes.append(f"default: {option.default_text}")
    return f"{option.flag.help} ({', '.join(notes)})" if notes else option.flag.help


def _add(group: argparse._ActionsContainer, option: Option, help: str) -> None:
    for spelling, kind in option.spellings():
        name = argument(spelling)
        shown = help if spelling == option.name else argparse.SUPPRESS
        if kind == "file":
            group.add_argument(name, metavar="PATH", help=f"Read {option.argument} from a file.")
        elif kind == "negated":
            group.add_argument(
                name,
                dest=option.name,
                action="store_const",
                const="false",
                help=f"The opposite of {option.argument}.",
            )
        elif option.is_switch:
            group.add_argument(
                name, dest=option.name, action="store_const", const="true", help=_escape(shown)
            )
        elif option.is_list:
            group.add_argument(
                name,
                dest=option.name,
                nargs="*",
                action="extend",
                metavar=option.metavar,
                help=_escape(shown),
            )
        else:
            group.add_argument(name, dest=option.name, metavar=option.metavar, help=_escape(shown))


def _escape(help: str) -> str:
    return help if help == argparse.SUPPRESS else help.replace("%", "%%")


def _epilog(accepted: Sequence[Option]) -> str:
    lines = []
    for title in dict.fromkeys(option.flag.group for option in accepted):
        names = " ".join(o.argument for o in accepted if o.flag.group == title)
        lines.append(f"{title} (flags of sglang-router; those given are named in one warning):")
        lines += textwrap.wrap(
            names, 96, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
        )
    return "\n".join(lines)


def _unknown(rest: Sequence[str], known: Sequence[str]) -> str:
    # A value behind a misspelt flag may be a key: only names of flags are repeated.
    flags = [word.partition("=")[0] for word in rest if word.startswith("--")]
    if not flags:
        return "there is an argument that belongs to no flag: trace-router serve --help lists them"
    return f"unknown flag {', '.join(flags)}{did_you_mean(flags[0], known)}"
