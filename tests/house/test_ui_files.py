"""The page at /ui: plain files that ask nobody else and put text in as text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UI = ROOT / "router" / "ui"
SCRIPTS = sorted(UI.glob("*.js"))
FILES = sorted(path for path in UI.iterdir() if path.is_file())


def words(table: str) -> set[str]:
    """The names that words.js explains in one of its tables."""
    body = re.search(rf"export const {table} = {{(.*?)\n}};", (UI / "words.js").read_text(), re.S)
    assert body is not None
    return set(re.findall(r"^  (\w+):", body[1], re.MULTILINE))


def column(number: int) -> set[str]:
    """The words in backticks in a column of the table of policies."""
    text = (ROOT / "docs" / "policies.md").read_text()
    rows = re.findall(r"^\| `\w+`.*\|$", text, re.MULTILINE)
    table = text.split("| policy | rule | reasons | numbers |")[1].split("\n\n")[0]
    own = [row for row in rows if row in table]
    assert len(own) > 4
    return {word for row in own for word in re.findall(r"`(\w+)`", row.split("|")[number])}


def test_every_reason_of_a_policy_is_explained_on_the_page() -> None:
    assert column(3) <= words("REASONS"), "a sentence in router/ui/words.js is missing"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_makes_elements_or_code_from_text(path: Path) -> None:
    found = re.findall(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function"
        r"|createContextualFragment|javascript:|setHTML",
        path.read_text(),
    )
    assert found == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_names_another_host(path: Path) -> None:
    text = path.read_text().replace("http://www.w3.org/2000/svg", "")
    assert re.findall(r"(?:https?:|wss?:)?//[a-z0-9.-]+\.[a-z]+", text, re.IGNORECASE) == []


def test_every_file_that_is_named_is_there() -> None:
    names = {path.name for path in FILES}
    named = set(re.findall(r'(?:href|src)="ui/([^"]+)"', (UI / "index.html").read_text()))
    for path in SCRIPTS:
        named |= set(re.findall(r'from "\./([^"]+)"', path.read_text()))
    assert named == names - {"index.html"}


def test_the_page_needs_no_inline_script_or_style() -> None:
    page = (UI / "index.html").read_text()
    assert re.findall(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page) == []
