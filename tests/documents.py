"""Commands as documents have them, and a router that is started as they say.

A block of code that a test runs carries a mark, `<!-- tested: NAME -->`.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.processes import RouterProcess
from tests.programs import program

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(
    r"(?:<!-- tested: (?P<name>\w+) -->\n)?^ *```(?P<kind>\w+)\n(?P<text>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)


class Document:
    """Its marked blocks by name; `unmarked` are the others, without those of plain text."""

    def __init__(self, name: str) -> None:
        self.text = (ROOT / name).read_text()
        found = list(BLOCK.finditer(re.sub(r"^ +(?=<!-- tested)", "", self.text, flags=re.M)))
        self.blocks = {block["name"]: block["text"] for block in found if block["name"]}
        self.plain = [block["text"] for block in found if block["kind"] == "text"]
        self.unmarked = [b["text"] for b in found if not b["name"] and b["kind"] != "text"]

    def commands(self, block: str) -> list[list[str]]:
        """The words of each command of a block, lines joined where they are continued."""
        text = self.blocks[block].replace("\\\n", " ")
        lines, open_line = [], ""
        for line in text.splitlines():
            open_line += line + "\n"
            if open_line.count("'") % 2 == 0:  # a quoted text may go over lines
                lines.append(open_line)
                open_line = ""
        return [words for line in lines if (words := shlex.split(line, comments=True))]


class AsWritten(RouterProcess):
    """A router started with the words of a document, on ports that are free."""

    def __init__(self, words: Sequence[str], ports: dict[str, int]) -> None:
        super().__init__([])
        self._words = words
        self._ports = ports

    def with_ports(self, text: str) -> str:
        for written, port in self._ports.items():
            assert re.fullmatch(r"\d+", written)
            text = re.sub(rf"\b{written}\b", str(port), text)
        return text

    def command(self) -> Sequence[str]:
        super().command()  # takes a port
        self._ports["30009"] = self.port
        return [sys.executable, *map(self.with_ports, self._words)]


def asked(curl_arguments: list[str]) -> Any:
    """The JSON that curl prints."""
    curl = [program("curl"), "--silent", "--show-error", "--fail", *curl_arguments]
    run = subprocess.run(curl, capture_output=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def said(words: list[str], router: AsWritten, *python: str) -> str:
    """What `trace-router WORDS` prints, or Python itself."""
    start = python or ("-c", "import sys; from router.cli import main; sys.exit(main())")
    command = [sys.executable, *start, *map(router.with_ports, words)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
