"""docs/migration.md says of each flag of vllm-router what is so, and names flags that there are."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "migration.md").read_text()
FLAGS = set(re.findall(r"`(--[a-z0-9-]+)`", (DOCS / "flags.md").read_text()))


def named(mark: str) -> set[str]:
    paragraph = TEXT.split(f"<!-- vllm-router: {mark} -->")[1].split("\n\n")[0]
    return set(re.findall(r"`(--[a-z0-9-]+)`", paragraph))


def test_flags_of_vllm_router_said_to_be_accepted_are_flags_of_ours() -> None:
    assert named("accepted") <= FLAGS
    assert len(named("accepted")) == 41


def test_flags_of_vllm_router_said_to_be_unknown_are() -> None:
    assert not named("refused") & FLAGS
    assert len(named("refused")) == 19


def test_flags_of_sglang_router_that_are_named_are_flags_of_ours() -> None:
    section = TEXT.split("## sglang-router")[1].split("## vllm-router")[0]
    flags = {flag for flag in re.findall(r"`(--[a-z0-9-]+)", section) if not flag.endswith("-")}
    assert len(flags) > 20
    assert flags <= FLAGS
