"""The command `trace-router`: dispatch, and the commands that are no more than a few lines."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Final

from router.flags import ConfigError, did_you_mean

if TYPE_CHECKING:
    from router.config import Config

log = logging.getLogger("router.cli")

USAGE: Final = """\
usage: trace-router COMMAND ...

  serve           route requests; all flags: trace-router serve --help
  store           run a private Valkey for several routers on this host
  traces ...      get, list, stats, tail, export, delete, clear: trace-router traces --help
  replay          stored traces under other policies, before modelled workers
  health          exit 0 when the router answers; for container health checks
  --version       print the version
"""
OK, FAILED, MISUSED = 0, 1, 2
STORE_CHECK_SECONDS: Final = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 for a failure, 2 for wrong usage."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    first = words[0] if words else ""
    try:
        if first in COMMANDS:
            return COMMANDS[first](words[1:])
        if first in ("--version", "-V"):
            return _print_version()
        if first in ("", "--help", "-h"):
            sys.stdout.write(USAGE)
            return OK if first else MISUSED
        if first.startswith("-"):
            return serve_command(words)
        hint = did_you_mean(first, COMMANDS) or "; trace-router --help lists them"
        raise ConfigError(f"there is no command {first!r}{hint}")
    except ConfigError as error:
        for line in str(error).splitlines():
            sys.stderr.write(f"trace-router: {line}\n")
        return MISUSED


def serve_command(arguments: Sequence[str]) -> int:
    """`serve`: route requests until SIGINT or SIGTERM."""
    from router.configure import from_arguments

    return serve(from_arguments(arguments, os.environ))


def serve(config: Config) -> int:
    """Serve with logging set up; blocks until stopped and returns the exit status."""
    from router import processes
    from router.compiled import StaleModule, how
    from router.serving import run
    from router.shown_settings import effective

    try:
        form = how()
    except StaleModule as error:
        raise ConfigError(str(error)) from None
    with logging_of(config):
        log.info("The code that forwards requests is %s", form)
        log.info("Settings: %s", effective(config))
        for warning in config.warnings:
            log.warning("%s", warning)
        count = processes.count_of(config)
        return run(config) if count == 1 else processes.run(config, count)


@contextmanager
def logging_of(config: Config) -> Iterator[None]:
    """Log as `config` says. Raises ConfigError."""
    from router.logs import logging_to

    with ExitStack() as stack:
        logs = logging_to(
            level=config.log_level, format=config.log_format, directory=config.log_dir
        )
        try:
            stack.enter_context(logs)
        except OSError as error:
            reason = f"cannot log to {config.log_dir!r}: {error.strerror}"
            raise ConfigError(f"--log-dir: {reason}") from None
        yield


def store_command(arguments: Sequence[str]) -> int:
    """`store`: run an embedded Valkey in the foreground until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(
        prog="trace-router store",
        description="Run a private Valkey that keeps the traces of several routers on this host. "
        "It holds them in memory only. Prints the --redis-url to give to the routers.",
        allow_abbrev=False,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=6379, help="0 for a free one (default: 6379)")
    parser.add_argument(
        "--unixsocket", action="store_true", help="listen on a unix socket only, for this user"
    )
    asked = parser.parse_args(arguments)
    if not 0 <= asked.port <= 65535:
        raise ConfigError(f"--port: expected a whole number from 0 to 65535, got {asked.port}")
    port = 0 if asked.unixsocket else asked.port or _free_port(asked.host)
    return asyncio.run(_run_store(asked.host, port))


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        try:
            probe.bind((host, 0))
        except OSError as error:
            raise ConfigError(f"--host: cannot listen on {host!r}: {error.strerror}") from None
        return int(probe.getsockname()[1])


async def _run_store(host: str, port: int) -> int:
    from tracking.embedded import EmbeddedStore, NoServerProgram

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    store = EmbeddedStore(host=host, port=port)
    try:
        await store.start()
        sys.stdout.write(f"{store.url}\n")
        sys.stdout.flush()
        while store.running:
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), STORE_CHECK_SECONDS)
                return OK
        sys.stderr.write("trace-router: the store ended by itself\n")
    except NoServerProgram as error:
        sys.stderr.write(f"trace-router: {error}\n")
    finally:
        await store.stop()
    return FAILED


def traces_command(arguments: Sequence[str]) -> int:
    """`traces ...`: ask a router about requests."""
    from router import traces_cli

    return traces_cli.traces_command(arguments, _own_url(os.environ))


def replay_command(arguments: Sequence[str]) -> int:
    """`replay`: what stored requests would have seen under other policies."""
    from router.lab import command

    return command.replay_command(arguments)


def health_command(arguments: Sequence[str]) -> int:
    """`health`: whether a router answers on this host."""
    parser = argparse.ArgumentParser(
        prog="trace-router health",
        description="Exit 0 when GET /health answers 200, else 1.",
        allow_abbrev=False,
    )
    parser.add_argument("--url", default=_own_url(os.environ), help="(default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=2, metavar="SECONDS")
    asked = parser.parse_args(arguments)
    problem = _health_problem(asked.url, asked.timeout)
    if problem is not None:
        sys.stderr.write(f"{asked.url}: {problem}\n")
        return FAILED
    return OK


def _own_url(environ: Mapping[str, str]) -> str:
    scheme = "https" if environ.get("TRACE_ROUTER_TLS_CERT_PATH") else "http"
    port = environ.get("TRACE_ROUTER_PORT", "")
    return f"{scheme}://127.0.0.1:{port if port.isdecimal() else 30000}"


def _health_problem(url: str, timeout_seconds: float) -> str | None:
    import http.client
    import ssl
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme, parts.hostname, parts.port
    except ValueError:
        scheme, host, port = "", None, None
    if host is None or scheme not in ("http", "https"):
        raise ConfigError(f"--url: expected http://HOST:PORT or https://HOST:PORT, got {url!r}")
    if scheme == "https":
        # This asks whether our own server answers, not who it is.
        context = ssl._create_unverified_context()
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, port, timeout=timeout_seconds, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, port, timeout=timeout_seconds)
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    finally:
        connection.close()
    return None if status == 200 else f"status {status}"


def _print_version() -> int:
    from importlib.metadata import PackageNotFoundError, version

    try:
        sys.stdout.write(f"llm-trace-router {version('llm-trace-router')}\n")
    except PackageNotFoundError:
        sys.stderr.write("trace-router: not installed as a package, so it has no version\n")
        return FAILED
    return OK


COMMANDS: Final[Mapping[str, Callable[[Sequence[str]], int]]] = {
    "serve": serve_command,
    "store": store_command,
    "traces": traces_command,
    "replay": replay_command,
    "health": health_command,
}
