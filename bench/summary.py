"""python -m bench.summary: the results in bench/results as one page with plots (HTML, by itself).

The last result of each case against the peers and the goals, the ratios of all dates, and what was
measured of routing and of the store.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import median
from typing import Final

import msgspec

from bench.cases import CASES
from bench.goals import GOALS, OURS, UNTRACED, Medians, verdicts
from bench.plots import Bar, Line, bars, number, over_time
from bench.report import RESULTS

STYLE: Final = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 900px; margin: 0 auto; padding: 24px 16px 60px;
  background: light-dark(#fff, #14171c); color: light-dark(#1b2129, #e4e9f0); }
h1 { margin-bottom: 0; } h2 { margin-top: 44px; border-bottom: 1px solid #8886; padding-bottom: 4px; }
.muted, .note { color: light-dark(#566171, #9aa6b5); fill: currentColor; }
figure { margin: 18px 0; } figcaption { font-weight: 600; margin-bottom: 4px; }
svg { width: 100%; height: auto; overflow: visible; }
svg text { font-size: 13px; fill: currentColor; } svg .name { text-anchor: end; }
svg .middle { text-anchor: middle; }
svg .note { fill: light-dark(#566171, #9aa6b5); }
.bar { fill: light-dark(#b9c3cf, #4a5563); } .ours { fill: light-dark(#0b5cd5, #78aefc); }
.spread { stroke: currentColor; stroke-width: 1; fill: none; opacity: .7; }
.axis { stroke: #8886; fill: none; } .line { fill: none; stroke-width: 2; }
.goal { fill: none; stroke-width: 1.5; stroke-dasharray: 5 5; opacity: .8; }
.c0 { stroke: light-dark(#0b5cd5, #78aefc); } .c1 { stroke: light-dark(#b3551e, #ffb07a); }
.c2 { stroke: light-dark(#6a4bb0, #b9a1f5); } .c3 { stroke: light-dark(#13713a, #57c785); }
circle.c0, .key.c0 { fill: light-dark(#0b5cd5, #78aefc); }
circle.c1, .key.c1 { fill: light-dark(#b3551e, #ffb07a); }
circle.c2, .key.c2 { fill: light-dark(#6a4bb0, #b9a1f5); }
circle.c3, .key.c3 { fill: light-dark(#13713a, #57c785); }
table { border-collapse: collapse; width: 100%; margin: 12px 0; }
th, td { text-align: left; padding: 4px 10px 4px 0; border-bottom: 1px solid #8884; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.met { color: light-dark(#13713a, #57c785); } .missed { color: light-dark(#b3261e, #ff8a80); }
"""
# The figures that are drawn: name in the medians, unit, and whether more is better.
DRAWN: Final = (
    ("req/s", "requests a second on one core", True),
    ("events/s", "events a second on one core", True),
    ("cpu µs/req", "µs of CPU a request", False),
    ("cpu µs/event", "µs of CPU an event", False),
    ("ttft p50 ms", "ms to the first token, p50", False),
    ("ttft added ms", "ms added to the first token, p50", False),
    ("gap p99 added ms", "ms added between two events, p99", False),
    ("MB", "MB resident", False),
)
COLUMNS: Final = {"req/s": "requests_per_second", "events/s": "events_per_second"}


class Named(msgspec.Struct):
    name: str


class Result(msgspec.Struct):
    """One file of `python -m bench`."""

    case: Named
    at: str
    machine: dict[str, str | int]
    versions: dict[str, str]
    medians: dict[str, dict[str, float]]
    rounds: dict[str, list[dict[str, object]]]

    @property
    def date(self) -> str:
        return self.at[:10]


class Replay(msgspec.Struct):
    """One router, or several, of `python -m bench.routing`."""

    target: str
    replicas: int
    load: float
    cached: float
    ttft_p50: float
    ttft_p99: float
    hottest: float


class Routing(msgspec.Struct):
    trace: str
    results: list[Replay]


class Store(msgspec.Struct):
    """One file of `python -m bench.store`."""

    at: str
    results: dict[str, dict[str, object]]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.summary", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument(
        "--output", type=Path, default=RESULTS / "tmp" / "report.html", metavar="FILE"
    )
    given = parser.parse_args(arguments)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(page(given.results))
    print(given.output)
    return 0


def page(folder: Path) -> str:
    """The whole page. Raises ValueError where a file is none of ours."""
    files = sorted(folder.glob("*.json"))
    cases: list[Result] = []
    routing: list[tuple[str, Routing]] = []
    stores: list[tuple[str, Store]] = []
    for path in files:
        body = path.read_bytes()
        if path.stem.endswith("-routing"):
            routing.append((path.stem[:10], msgspec.json.decode(body, type=Routing)))
        elif "-store-" in path.stem:
            records = path.stem.partition("-store-")[2].partition("-")[0]
            stores.append((records, msgspec.json.decode(body, type=Store)))
        else:
            cases.append(msgspec.json.decode(body, type=Result))
    parts = [*_cases(cases), *_routing(routing), *_stores(stores)]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Benchmarks</title><style>{STYLE}</style>"
        f"<h1>llm-trace-router: benchmarks</h1>{''.join(parts)}</html>\n"
    )


# --- rates, CPU, first token ---------------------------------------------------------------------


def _cases(results: Sequence[Result]) -> list[str]:
    if not results:
        return []
    by_case: dict[str, list[Result]] = {}
    for result in sorted(results, key=lambda each: each.at):
        by_case.setdefault(result.case.name, []).append(result)
    newest = {name: each[-1] for name, each in by_case.items()}
    last = max(newest.values(), key=lambda each: each.at)
    facts = ", ".join(f"{name} {_version(value)}" for name, value in last.machine.items() if value)
    order = [case.name for case in CASES]
    names = sorted(newest, key=lambda name: order.index(name) if name in order else len(order))
    return [
        f'<p class="muted">{escape(last.date)}; {escape(facts)}. Each target alone on a core; bars are '
        "medians, whiskers the lowest and highest round.</p>",
        "<h2>Goals</h2>",
        _goals({name: newest[name].medians for name in names}),
        *(part for name in names for part in _case(newest[name])),
        *_history(by_case),
    ]


def _version(fact: str | int) -> str:
    """`7.0.15` of what redis-server says of itself."""
    found = re.search(r"\bv=([0-9.]+)", str(fact))
    return str(fact) if found is None else found[1]


def _goals(cases: Mapping[str, Medians]) -> str:
    rows = []
    for case, medians in cases.items():
        for verdict in verdicts(case, medians):
            goal = verdict.goal
            sign = "≤" if goal.most else "≥"
            mark = '<td class="met">met</td>' if verdict.met else '<td class="missed">missed</td>'
            rows.append(
                f"<tr><td>{escape(case)}</td><td>{escape(goal.figure)}</td><td>{escape(goal.peer)}</td>"
                f'<td class="n">{sign} {goal.wanted:g} {escape(goal.unit)}</td>'
                f'<td class="n">{number(verdict.reached)} {escape(goal.unit)}</td>{mark}</tr>'
            )
    unmeasured = sorted({case for goal in GOALS for case in goal.cases} - set(cases))
    also = (
        f'<p class="muted">Not measured: {escape(", ".join(unmeasured))}.</p>' if unmeasured else ""
    )
    return (
        "<p>Ours, with tracing and everything else on, over the peer in the same run.</p>"
        '<table><tr><th>case<th>figure<th>peer<th class="n">wanted<th class="n">reached<th></tr>'
        f"{''.join(rows)}</table>{also}"
    )


def _case(result: Result) -> list[str]:
    parts = [f"<h2>{escape(result.case.name)}</h2>"]
    for figure, unit, more in DRAWN:
        told = {
            target: medians[figure]
            for target, medians in result.medians.items()
            if figure in medians and target != "direct"
        }
        if OURS in told and len(told) > 1:
            ordered = sorted(told.items(), key=lambda item: item[1], reverse=more)
            shown = [
                _bar(result, target, figure, value, value / told[OURS]) for target, value in ordered
            ]
            parts.append(bars(unit, shown))
    return parts


def _bar(result: Result, target: str, figure: str, value: float, ratio: float) -> Bar:
    rates = [value]
    if figure in COLUMNS:
        loads = [msgspec.convert(each["load"], dict[str, object]) for each in result.rounds[target]]
        rates = [msgspec.convert(load[COLUMNS[figure]], float) for load in loads]
    ours = target in (OURS, UNTRACED)
    version = result.versions.get(target, "")
    name = f"{target} {version}" if version and not ours else target
    note = "" if target == OURS else f"{number(ratio)} × ours"
    return Bar(name, median(rates), min(rates), max(rates), note, ours)


def _history(by_case: Mapping[str, Sequence[Result]]) -> list[str]:
    parts = []
    for name, results in by_case.items():
        dates = [result.date for result in results]
        wanted = [goal for goal in GOALS if name in goal.cases and goal.figure in COLUMNS]
        found = [
            {v.goal.peer: v.reached for v in verdicts(name, result.medians)} for result in results
        ]
        shown = [
            Line(goal.peer, [each.get(goal.peer) for each in found], goal.wanted) for goal in wanted
        ]
        if shown:
            parts.append(over_time(f"{name}: {wanted[0].figure} over the peer's", dates, shown))
    return ["<h2>Over time</h2><p>Ratios; dashed: the goal.</p>", *parts] if parts else []


# --- routing and store ---------------------------------------------------------------------------


def _routing(files: Sequence[tuple[str, Routing]]) -> list[str]:
    parts = []
    for date, run in files:
        loads = sorted({result.load for result in run.results})
        for load in loads:
            told = [result for result in run.results if result.load == load]
            title = f"{run.trace}, load × {load:g}, {date}"
            for unit, values in (
                ("% of the input found in caches", [each.cached * 100 for each in told]),
                ("s to the first token, p50", [each.ttft_p50 for each in told]),
                ("s to the first token, p99", [each.ttft_p99 for each in told]),
            ):
                shown = [
                    Bar(f"{each.target} × {each.replicas}", value, value, value, "", each.target != "sglang-router")
                    for each, value in zip(told, values, strict=True)
                ]  # fmt: skip
                parts.append(bars(f"{title}: {unit}", shown))
    return ["<h2>Routing</h2>", *parts] if parts else []


def _stores(files: Sequence[tuple[str, Store]]) -> list[str]:
    parts = []
    for records, run in files:
        rows = "".join(
            f'<tr><td>{escape(part)}<td>{escape(name)}<td class="n">{escape(shown)}</tr>'
            for part, figures in run.results.items()
            for name, shown in _flat(figures)
        )
        parts.append(
            f"<h3>{int(records):,} records, {escape(run.at[:10])}</h3>"
            f'<table><tr><th>part<th>figure<th class="n">value</tr>{rows}</table>'
        )
    return ["<h2>Store</h2>", *parts] if parts else []


def _flat(figures: Mapping[str, object], before: str = "") -> list[tuple[str, str]]:
    """Names and figures, those of a group behind its name."""
    found: list[tuple[str, str]] = []
    for name, value in figures.items():
        if isinstance(value, dict):
            found += _flat(value, f"{before}{name}: ")
        else:
            shown = number(value) if isinstance(value, int | float) else str(value)
            found.append((before + name, shown))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
