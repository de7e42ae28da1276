"""The commands `trace-router traces ...`: ask any router, in tables at a terminal, in JSON in a pipe."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import IO, Final, NoReturn

import msgspec

from router import tables
from router.config import Config
from router.configure import from_flags
from router.flags import ENV_PREFIX, ConfigError
from router.shown_settings import masked
from tracking import stats_query
from tracking.client import ClientError, FullTrace, NotFound, Notice, Refused, SyncTraceClient
from tracking.client.asking import askable
from tracking.export import FORMATS
from tracking.query import FILTERS, PARAMETERS

OK, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130
URL_VARIABLE: Final = f"{ENV_PREFIX}URL"
KEY_VARIABLES: Final = tuple(
    f"{ENV_PREFIX}{name}{twin}" for name in ("API_KEY", "ADMIN_API_KEY") for twin in ("", "_FILE")
)
STORE_SECONDS: Final = 5.0
DEFAULT_LIMIT: Final = 100


class Parser(argparse.ArgumentParser):
    """Wrong usage is a ConfigError, as everywhere."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def traces_command(arguments: Sequence[str], own_url: str) -> int:
    """Run one of the commands; the exit status. `own_url` is asked where none is named."""
    asked = build_parser(own_url).parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = asked.run
    try:
        with telling_warnings():
            return run(asked)
    except Refused as error:
        _say(str(error))
        return MISUSED if error.status == 400 else FAILED
    except ClientError as error:
        _say(str(error))
        return FAILED
    except KeyboardInterrupt:
        _write_no_more()
        return INTERRUPTED
    except BrokenPipeError:
        _write_no_more()  # whoever read us has seen enough
        return OK
    except OSError as error:
        _write_no_more()
        _say(f"cannot write: {error.strerror}")
        return FAILED


def build_parser(own_url: str) -> argparse.ArgumentParser:
    parser = Parser(
        prog="trace-router traces",
        description="Ask any router about the requests of its fleet. Tables at a terminal, JSON "
        "(one object a line) in a pipe or with --json.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)

    def add(
        name: str, run: Callable[[argparse.Namespace], int], help: str
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name, help=help, description=help[0].upper() + help[1:] + ".", allow_abbrev=False
        )
        command.set_defaults(run=run)
        return command

    get = add("get", run_get, "show everything about requests, by their ids")
    get.add_argument(
        "ids", nargs="+", type=_id, metavar="ID", help="request id, record key or engine id"
    )

    listed = add("list", run_list, "list requests, newest first")
    listed.add_argument(
        "--limit", type=_count, default=DEFAULT_LIMIT, metavar="N",
        help="at most so many, 0 for all (default: %(default)s)",
    )  # fmt: skip
    _add_parameters(listed, [*FILTERS, "order", "detail", "fields"])

    stats = add("stats", run_stats, "counts, and rates and percentiles of a window")
    for name in ("window", "by"):  # a series is for programs
        asked = stats_query.PARAMETERS[name]
        help = f"{asked.help}: {asked.allowed}"
        stats.add_argument(f"--{name}", metavar=_metavar(name), help=help)

    tail = add("tail", run_tail, "show requests as their status changes, until Ctrl-C")
    _add_parameters(tail, [name for name in FILTERS if not PARAMETERS[name].range])

    export = add("export", run_export, "write every match to a file or to standard output")
    export.add_argument(
        "--format", default="ndjson", help=f"{', '.join(FORMATS)} (default: %(default)s)"
    )
    export.add_argument("--output", metavar="FILE", help="it appears when it is whole")
    _add_parameters(export, [*FILTERS, "order"])

    delete = add("delete", run_delete, "delete what is held under ids, or of a session")
    delete.add_argument("ids", nargs="*", type=_id, metavar="ID")
    delete.add_argument("--session-id", metavar="SESSION")

    clear = add(
        "clear", run_clear, "delete all traces of a fleet, at the store or, with --url, by a router"
    )
    clear.description = (
        "Delete all traces of a fleet and set its count of requests to 0. At the store this needs "
        "no router and no key; what is not given comes from the environment, as for serve."
    )
    clear.add_argument("--redis-url", metavar="URL")
    clear.add_argument("--redis-url-file", metavar="PATH")
    clear.add_argument("--fleet", metavar="NAME", help="(default: default)")

    for command in (get, listed, stats, tail, export, delete, clear):
        _add_connection(command, own_url, named=command is clear)
    for command in (get, listed, stats, tail):
        command.add_argument("--json", action="store_true", help="JSON at a terminal, too")
    return parser


def _add_parameters(command: argparse.ArgumentParser, names: Iterable[str]) -> None:
    group = command.add_argument_group("which requests")
    for name in names:
        parameter = PARAMETERS[name]
        help = f"{parameter.help}: {parameter.allowed}".replace("%", "%%")
        group.add_argument(_flag(name), dest=name, metavar=_metavar(name), help=help)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _metavar(name: str) -> str:
    return name.rsplit("_", 1)[-1].upper()


def _add_connection(command: argparse.ArgumentParser, own_url: str, *, named: bool) -> None:
    group = command.add_argument_group("which router")
    default = "no router" if named else f"{URL_VARIABLE}, else {own_url}"
    group.add_argument(
        "--url", action="append", metavar="URL",
        help=f"of a replica; several: the next is asked where one cannot answer (default: {default})",
    )  # fmt: skip
    group.add_argument("--api-key", metavar="KEY", help=f"(default: {ENV_PREFIX}API_KEY)")
    group.add_argument("--api-key-file", metavar="PATH", help="read it from a file")
    group.add_argument("--ca-cert", metavar="PATH", help="CA certificate (PEM) of the routers")
    group.add_argument(
        "--timeout", type=float, default=10, metavar="SECONDS", help="(default: %(default)s)"
    )
    command.set_defaults(own_url=None if named else own_url)


# -- the commands --------------------------------------------------------------------------


def run_get(asked: argparse.Namespace) -> int:
    client = client_of(asked)
    missing = False
    for place, request_id in enumerate(asked.ids):
        try:
            trace = client.get(request_id)
        except NotFound as error:
            _say(str(error))
            missing = True
            continue
        if in_tables(asked):
            _write(chain([""] if place else [], tables.whole(trace)))
        else:
            _write([_json(trace)])
    return FAILED if missing else OK


def run_list(asked: argparse.Namespace) -> int:
    wanted = _parameters(asked)
    rows = client_of(asked).rows(**wanted, limit=asked.limit or None)
    if not in_tables(asked):
        _write(map(_json, rows))
    elif asked.fields:
        fields = asked.fields.split(",")
        _write(tables.table(fields, (tables.row_cells(row, fields) for row in rows)))
    else:
        traces = (msgspec.convert(row, FullTrace) for row in rows)
        _write(tables.table(tables.HEADINGS, map(tables.trace_cells, traces)))
    return OK


def run_stats(asked: argparse.Namespace) -> int:
    stats = client_of(asked).stats(asked.window, asked.by)
    _write(tables.counts(stats) if in_tables(asked) else [_json(stats)])
    return OK


def run_tail(asked: argparse.Namespace) -> int:
    shown = in_tables(asked)
    if shown:
        _write([tables.fixed(tables.HEADINGS)])
    try:
        for trace in client_of(asked).tail(on_notice=tell_notice, **_parameters(asked)):
            _write([tables.fixed(tables.trace_cells(trace)) if shown else _json(trace)])
    except KeyboardInterrupt:
        pass  # that is how one ends it
    return OK


def run_export(asked: argparse.Namespace) -> int:
    client, wanted = client_of(asked), _parameters(asked)
    if asked.output is None:
        sys.stdout.flush()
        for piece in client.export(asked.format, **wanted):
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return OK
    try:
        size = client.export_to(asked.output, asked.format, **wanted)
    except OSError as error:
        raise ConfigError(f"--output: cannot write {asked.output!r}: {error.strerror}") from None
    _say(f"{size} bytes in {asked.output}")
    return OK


def run_delete(asked: argparse.Namespace) -> int:
    if bool(asked.ids) == bool(asked.session_id):
        raise ConfigError("expected ids, or --session-id")
    client = client_of(asked, deletes=True)
    if asked.session_id:
        _write([f"{client.delete_session(asked.session_id)} traces deleted"])
        return OK
    deleted, missing = 0, False
    for request_id in asked.ids:
        try:
            deleted += client.delete(request_id)
        except NotFound as error:
            _say(str(error))
            missing = True
    _write([f"{deleted} traces deleted"])
    return FAILED if missing else OK


def run_clear(asked: argparse.Namespace) -> int:
    at_store = {name: getattr(asked, name) for name in ("redis_url", "redis_url_file", "fleet")}
    if asked.url:
        if any(at_store.values()):
            raise ConfigError("--url asks a router, --redis-url the store: give one of them")
        _write([f"{client_of(asked, deletes=True).clear()} traces deleted"])
        return OK
    config = from_flags(at_store, os.environ)
    if config.redis_url is None:
        raise ConfigError("--redis-url: expected the URL of the store to clear")
    return asyncio.run(_clear_at_store(config, config.redis_url))


async def _clear_at_store(config: Config, redis_url: str) -> int:
    from tracking.store import Retention, TraceStore
    from tracking.view import StoreUnavailable

    retention = Retention(config.max_trace_entries, config.trace_ttl)
    store = TraceStore.from_url(
        redis_url, config.fleet, retention, call_timeout_seconds=STORE_SECONDS
    )
    try:
        deleted = await store.delete_all()
    except StoreUnavailable as error:
        _say(f"{masked(redis_url)} cannot be reached: {error}")
        return FAILED
    finally:
        await store.close()
    _write([f"{deleted} traces of fleet {config.fleet!r} deleted"])
    return OK


# -- what they share -----------------------------------------------------------------------


def client_of(asked: argparse.Namespace, *, deletes: bool = False) -> SyncTraceClient:
    """For the routers named, else for the one that would be started here. Raises ConfigError."""
    urls = asked.url or os.environ.get(URL_VARIABLE, "").split() or [asked.own_url]
    key = key_of(asked, os.environ, deletes=deletes)
    try:
        return SyncTraceClient(
            *urls, api_key=key, ca_file=asked.ca_cert, timeout_seconds=asked.timeout
        )
    except ValueError as error:
        raise ConfigError(f"--url: {error}") from None
    except OSError as error:
        raise ConfigError(f"--ca-cert: cannot use {asked.ca_cert!r}: {error}") from None


def key_of(asked: argparse.Namespace, environ: Mapping[str, str], *, deletes: bool) -> str | None:
    """The key given, else that of the environment; to delete rather the administrator's."""
    given = {"api_key": asked.api_key, "api_key_file": asked.api_key_file}
    known = {name: environ[name] for name in KEY_VARIABLES if name in environ}
    config = from_flags(given, known)
    if deletes and not any(given.values()) and config.admin_api_key is not None:
        return config.admin_api_key
    return config.api_key


def in_tables(asked: argparse.Namespace) -> bool:
    return not asked.json and sys.stdout.isatty()


def tell_notice(notice: Notice) -> None:
    """What a tail says beside traces goes to standard error."""
    if notice.what == "dropped":
        _say(f"{'some' if notice.count is None else notice.count} events are missing here")
    elif notice.what == "reconnecting":
        _say(f"connecting again: {notice.message}")
    else:
        _say(f"the trace store is {'away' if notice.what == 'interrupted' else 'back'}")


@contextmanager
def telling_warnings() -> Iterator[None]:
    """Warnings of the client are lines of ours."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: IO[str] | None = None,
        line: str | None = None,
    ) -> None:
        _say(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield


def _parameters(asked: argparse.Namespace) -> dict[str, str]:
    """The parameters of /v1/traces that were given."""
    given = {name: getattr(asked, name, None) for name in PARAMETERS if name != "limit"}
    return {name: value for name, value in given.items() if value is not None}


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}")
    return int(text)


def _id(text: str) -> str:
    try:
        return askable(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _write(lines: Iterable[str]) -> None:
    for line in lines:
        sys.stdout.write(line + "\n")
    sys.stdout.flush()  # what cannot be written is told here, not by the interpreter at its end


def _write_no_more() -> None:
    """Nothing may be flushed to standard output at the exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(text: str) -> None:
    sys.stderr.write(f"trace-router: {text}\n")
    sys.stderr.flush()
