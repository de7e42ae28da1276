"""The page of the benchmarks shows the results that are there, and is honest about the goals."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import msgspec
import pytest

from bench.goals import verdicts
from bench.plots import Bar, Line, bars, over_time
from bench.report import RESULTS
from bench.summary import main, page

PAGE = page(RESULTS)


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_every_result_is_on_the_page(path: Path) -> None:
    kind = path.stem.partition("-")[2].lstrip("0123456789-")
    named = {"routing": "<h2>Routing</h2>"}.get(kind) or (
        "<h2>Store</h2>" if kind.startswith("store") else f"<h2>{kind}</h2>"
    )
    assert named in PAGE


def test_a_run_of_some_parts_of_the_store_names_its_records_too(tmp_path: Path) -> None:
    run = {"at": "2026-11-24T23:17:48+00:00", "results": {"write": {"router cpu µs": 36.8}}}
    (tmp_path / "2026-11-24-store-100000-write-reads.json").write_bytes(msgspec.json.encode(run))
    assert "100,000 records" in page(tmp_path)


def test_it_needs_nothing_from_elsewhere() -> None:
    assert re.findall(r"""(?:src|href)=|url\(|@import|<script""", PAGE) == []


def test_every_plot_is_well_formed_and_says_in_words_what_it_shows() -> None:
    drawings = [ET.fromstring(text) for text in re.findall(r"<svg.*?</svg>", PAGE, re.DOTALL)]
    assert len(drawings) > 5
    assert all(": " in drawing.attrib["aria-label"] for drawing in drawings)


def test_a_goal_is_met_where_the_ratio_reaches_it() -> None:
    medians = {
        "router": {"req/s": 300.0, "cpu µs/req": 130.0},
        "router-untraced": {"cpu µs/req": 100.0},
        "sglang-router": {"req/s": 100.0},
        "nginx": {"req/s": 900.0},
    }
    told = {each.goal.peer: (each.reached, each.met) for each in verdicts("json-1k", medians)}
    assert told["sglang-router"] == (3.0, True)
    assert not told["nginx"][1]
    assert told["router-untraced"] == (1.3, False)  # at most 1.25
    assert "smg" not in told


def test_bars_are_as_long_as_their_values_and_names_are_text() -> None:
    drawn = bars("rate", [Bar("<b>", 50.0, 40.0, 60.0), Bar("two", 100.0, 100.0, 100.0)])
    first, second = (float(width) for width in re.findall(r'<rect[^>]* width="([\d.]+)"', drawn))
    assert second == pytest.approx(2 * first)
    assert "<b>" not in drawn


def test_a_date_without_a_figure_leaves_no_point() -> None:
    drawn = over_time("ratio", ["one", "two"], [Line("peer", [1.0, None], goal=2.0)])
    assert drawn.count("<circle") == 1
    assert drawn.count('class="goal') == 1


def test_an_empty_folder_makes_an_empty_page(tmp_path: Path) -> None:
    assert main(["--results", str(tmp_path), "--output", str(tmp_path / "out" / "r.html")]) == 0
    assert "<h1>" in (tmp_path / "out" / "r.html").read_text()
