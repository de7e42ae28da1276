"""Which Python our router runs on in a benchmark: one built with optimizations, as our image's is.

One built without them takes a sixth more instructions for the same request.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from typing import Final

import msgspec

NAMES: Final = ("python3", "python3.14", "python3.13", "python3.12", "python3.11")
ASK: Final = """
import json, pathlib, platform, sys, sysconfig
print(json.dumps({
    "program": sys.executable,
    "version": platform.python_version(),
    "new_enough": sys.version_info >= (3, 11),
    "options": sysconfig.get_config_var("CONFIG_ARGS") or "",
    "of_distribution": pathlib.Path(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED").exists(),
    "headers": pathlib.Path(sysconfig.get_path("include"), "Python.h").exists(),
}))
"""


class Interpreter(msgspec.Struct, frozen=True):
    """What one says of itself. `options`: what its build was configured with."""

    program: str
    version: str
    new_enough: bool
    options: str
    of_distribution: bool
    headers: bool

    @property
    def optimized(self) -> bool:
        # Debian, Ubuntu and Fedora optimize theirs by rules of their own, which it knows nothing of.
        return "--enable-optimizations" in self.options or self.of_distribution

    @property
    def built(self) -> str:
        if "--enable-optimizations" in self.options:
            return "--enable-optimizations"
        if self.of_distribution:
            return "its distribution's build"
        return "built without --enable-optimizations, none with them found"

    @property
    def usable(self) -> bool:
        """Whether our router can be compiled for it, and gains by it."""
        return self.new_enough and self.headers and self.optimized


def ask(program: str) -> Interpreter | None:
    said = subprocess.run([program, "-c", ASK], capture_output=True, text=True)
    return msgspec.json.decode(said.stdout, type=Interpreter) if said.returncode == 0 else None


def choose(running: Interpreter, others: Iterable[Interpreter | None]) -> Interpreter:
    """The first that is usable; if none is, the running one."""
    found = (other for other in (running, *others) if other is not None and other.usable)
    return next(found, running)


@cache
def chosen() -> Interpreter:
    running = ask(sys.executable)
    assert running is not None
    system = (shutil.which(name, path="/usr/local/bin:/usr/bin") for name in NAMES)
    return choose(running, map(ask, filter(None, system)))
