"""Documents point at things that exist, and say nothing of the machine they were written on."""

from __future__ import annotations

import importlib
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from router.errors import kinds

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/*.md")])
LINK = re.compile(r"\[[^\]]*\]\((?!https?://)([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    targets = LINK.findall(document.read_text())
    assert [target for target in targets if not (document.parent / target).exists()] == []


def test_every_decision_is_listed_in_order() -> None:
    folder = ROOT / "docs" / "decisions"
    records = sorted(path.name for path in folder.glob("0*.md"))
    listed = re.findall(r"\d+\. \[(.+)\]\((.+)\)", (folder / "README.md").read_text())
    assert [name for _, name in listed] == records
    for number, (title, name) in enumerate(listed, start=1):
        assert (folder / name).read_text().startswith(f"# {number}. {title}\n")


def test_the_changelog_knows_the_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def test_no_file_speaks_of_one_machine() -> None:
    git = ["git", "grep", "-nIE", r"/(root|home/[a-z]+|work)/", "--", ":!tests/house/test_docs.py"]
    found = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode == 128:
        pytest.skip("not a git checkout")
    assert found.stdout == ""


def test_every_error_of_the_router_is_in_the_table_with_its_status() -> None:
    importlib.import_module("router.app")  # and with it every module that declares one
    text = (ROOT / "docs" / "reliability.md").read_text()
    rows = re.findall(r"^\| (\d{3}) \| (.*?) \|", text, re.MULTILINE)
    told = {(int(status), code) for status, codes in rows for code in re.findall(r"`(\w+)`", codes)}
    assert told == {(kind.status, kind.code) for kind in kinds()}
