"""What a replay showed: a table for the terminal, and a plot as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, log10
from typing import Final

from router.lab.replay import Outcome

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 60, 200, 20, 50
COLOURS: Final = (
    *("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f"),
)
POINTS: Final = 200  # of each line


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of rising `values`; `share` 0..1."""
    return values[max(0, ceil(share * len(values)) - 1)]


def hottest(parts: Sequence[float]) -> float:
    """The largest part by the mean of all; 1 is perfectly even."""
    total = sum(parts)
    return max(parts) * len(parts) / total if total else 1.0


def table(outcomes: Mapping[str, Outcome]) -> str:
    """One line a policy."""
    width = max(len("policy"), *map(len, outcomes))
    lines = [
        f"{'policy':<{width}}  {'cached':>7}  {'predicted':>9}  {'TTFT p50':>9}  {'TTFT p99':>9}"
        f"  {'hottest/mean':>12}"
    ]
    for name, outcome in outcomes.items():
        times = sorted(outcome.ttft_seconds)
        cached, predicted = (
            part / outcome.input_tokens
            for part in (outcome.cached_tokens, outcome.predicted_tokens)
        )
        lines.append(
            f"{name:<{width}}  {cached:>7.1%}  {predicted:>9.1%}  {percentile(times, 0.5):>7.3f} s"
            f"  {percentile(times, 0.99):>7.3f} s  {hottest(outcome.busy_seconds):>12.2f}"
        )
    return "\n".join(lines)


def plot(outcomes: Mapping[str, Outcome], title: str) -> str:
    """The share of requests (up) that had their first token within a time (right, logarithmic)."""
    lines = {name: sorted(outcome.ttft_seconds) for name, outcome in outcomes.items()}
    least = max(1e-3, min(percentile(times, 0.01) for times in lines.values()))
    most = max(2 * least, *(times[-1] for times in lines.values()))
    low, high = log10(least), log10(most)

    def x(seconds: float) -> float:
        share = (log10(max(seconds, least)) - low) / (high - low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(share: float) -> float:
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def text(at_x: float, at_y: float, content: str, anchor: str = "middle") -> str:
        return (
            f'<text x="{at_x:.1f}" y="{at_y:.1f}" text-anchor="{anchor}">{escape(content)}</text>'
        )

    def line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
        return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for share in (0, 0.25, 0.5, 0.75, 1):
        parts += [
            line(LEFT, y(share), WIDTH - RIGHT, y(share), "#ddd"),
            text(LEFT - 6, y(share) + 4, f"{share:.0%}", "end"),
        ]
    for power in range(ceil(low), int(high // 1) + 1):
        at = x(10.0**power)
        parts += [
            line(at, TOP, at, HEIGHT - BOTTOM, "#ddd"),
            text(at, HEIGHT - BOTTOM + 16, f"{10.0**power:g} s"),
        ]
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, title))
    for number, (name, times) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(
            f"{x(percentile(times, step / POINTS)):.1f},{y(step / POINTS):.1f}"
            for step in range(POINTS + 1)
        )
        key = TOP + 16 * number + 10
        parts += [
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>',
            line(WIDTH - RIGHT + 12, key, WIDTH - RIGHT + 32, key, colour),
            text(WIDTH - RIGHT + 38, key + 4, name, "start"),
        ]
    return "\n".join([*parts, "</svg>", ""])
