"""docs/traces.md shows what the code declares."""

from __future__ import annotations

import json
from pathlib import Path

from tracking.query import FIELDS, PARAMETERS
from tracking.stats_query import PARAMETERS as STATS
from tracking.sums import Sums

PAGE = (Path(__file__).parents[2] / "docs" / "traces.md").read_text()


def table(heading: str) -> list[list[str]]:
    """The rows of the first table below a heading, without its head."""
    lines = PAGE[PAGE.index(f"\n## {heading}\n") :].splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_every_parameter_of_the_list_is_there_as_it_is_declared() -> None:
    allowed = {"fields": "field names separated by commas"}  # which: every field of the trace
    assert table("Asking") == [
        [f"`{name}`", parameter.help, allowed.get(name, parameter.allowed)]
        for name, parameter in PARAMETERS.items()
    ]
    assert PARAMETERS["fields"].allowed == f"{allowed['fields']}: {', '.join(FIELDS)}"


def test_the_parameters_of_the_stats_are_there_as_they_are_declared() -> None:
    assert table("Stats") == [
        [f"`{name}`", parameter.help, parameter.allowed] for name, parameter in STATS.items()
    ]


def test_the_window_shown_has_every_field_of_a_summary() -> None:
    shown = json.loads(PAGE[PAGE.index("```json") + 7 : PAGE.index("```\n\n- **What")])
    assert list(shown["window"]["total"]) == list(Sums().summary(1))
