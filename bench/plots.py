"""Plots as SVG inside HTML: bars with their spread, and ratios over time. Strings in, strings out."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import msgspec

WIDTH = 720
LABEL = 150
ROW = 26
PLOT = WIDTH - LABEL - 130


class Bar(msgspec.Struct, frozen=True):
    """`low` and `high`: of the rounds. `note` stands behind the figure; `ours` is drawn in colour."""

    name: str
    value: float
    low: float
    high: float
    note: str = ""
    ours: bool = False


class Line(msgspec.Struct, frozen=True):
    """Values over time, one for each of the plot's dates, None where there is none; `goal` is drawn as
    a dashed line of the same colour."""

    name: str
    values: Sequence[float | None]
    goal: float | None = None


def number(value: float) -> str:
    """Two or three figures, thousands told apart."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 1 else f"{value:.2g}"


def bars(title: str, shown: Sequence[Bar]) -> str:
    """One bar a target, in the order given; the longest fills the plot."""
    top = max([bar.high for bar in shown] + [bar.value for bar in shown]) or 1.0
    marks = []
    for place, bar in enumerate(shown):
        y = place * ROW
        width = bar.value / top * PLOT
        low, high = (LABEL + each / top * PLOT for each in (bar.low, bar.high))
        middle = y + ROW / 2
        marks.append(
            f'<text class="name" x="{LABEL - 8}" y="{middle + 4}">{escape(bar.name)}</text>'
            f'<rect class="{"ours" if bar.ours else "bar"}" x="{LABEL}" y="{y + 4}"'
            f' width="{width:.1f}" height="{ROW - 8}"/>'
            f'<path class="spread" d="M{low:.1f} {middle - 4}v8M{low:.1f} {middle}H{high:.1f}'
            f'M{high:.1f} {middle - 4}v8"/>'
            f'<text x="{max(LABEL + width, high) + 8:.1f}" y="{middle + 4}">{number(bar.value)}'
            f'<tspan class="note" dx="6">{escape(bar.note)}</tspan></text>'
        )
    said = ", ".join(f"{bar.name} {number(bar.value)}" for bar in shown)
    return _figure(title, said, ROW * len(shown), "".join(marks))


def over_time(title: str, dates: Sequence[str], shown: Sequence[Line]) -> str:
    """Ratios by date, on one scale from 0."""
    height = 160
    values = [value for line in shown for value in line.values if value is not None]
    top = max([*values, *(line.goal for line in shown if line.goal is not None)], default=1.0) * 1.1
    step = (WIDTH - LABEL - 60) / max(1, len(dates))

    def x(place: int) -> float:
        return 60 + (place + 0.5) * step

    def y(value: float) -> float:
        return height - value / top * height

    marks = [
        f'<path class="axis" d="M60 {y(tick):.1f}H{60 + step * len(dates):.1f}"/>'
        f'<text class="name" x="52" y="{y(tick) + 4:.1f}">{number(tick)}×</text>'
        for tick in (0.0, top / 2.2, top / 1.1)
    ]
    marks += [
        f'<text class="middle" x="{x(place):.1f}" y="{height + 18}">{escape(date)}</text>'
        for place, date in enumerate(dates)
    ]
    for colour, line in enumerate(shown):
        points = [(x(p), y(v)) for p, v in enumerate(line.values) if v is not None]
        path = "L".join(f"{px:.1f} {py:.1f}" for px, py in points)
        marks.append(f'<path class="line c{colour}" d="M{path}"/>' if points else "")
        marks += [
            f'<circle class="c{colour}" cx="{px:.1f}" cy="{py:.1f}" r="4"/>' for px, py in points
        ]
        if line.goal is not None:
            end = 60 + step * len(dates)
            marks.append(f'<path class="goal c{colour}" d="M60 {y(line.goal):.1f}H{end:.1f}"/>')
        marks.append(
            f'<rect class="key c{colour}" x="{WIDTH - LABEL + 20}" y="{colour * 20}" width="12" height="12"/>'
            f'<text x="{WIDTH - LABEL + 38}" y="{colour * 20 + 11}">{escape(line.name)}</text>'
        )
    said = "; ".join(
        f"{line.name}: "
        + ", ".join(
            f"{d} {number(v)}" for d, v in zip(dates, line.values, strict=True) if v is not None
        )
        for line in shown
    )
    return _figure(title, said, height + 24, "".join(marks))


def _figure(title: str, said: str, height: float, marks: str) -> str:
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="0 -4 {WIDTH} {height + 8}" role="img" aria-label="{escape(f"{title}: {said}")}">'
        f"{marks}</svg></figure>"
    )
