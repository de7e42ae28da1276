"""Medians, spread and ratios, as a table and as JSON with the facts of the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import msgspec

from bench.cases import Case
from bench.goals import verdicts
from bench.interpreter import chosen
from bench.measure import Measurement

RESULTS = Path(__file__).parent / "results"
REFERENCE = "sglang-router"

Rounds = dict[str, list[Measurement]]
"""The measurements of one case, by target."""
Read = Callable[[Measurement], float | None]


class Column(msgspec.Struct, frozen=True):
    """A figure of a measurement. `ratio`: also shown as a multiple of the reference's."""

    title: str
    read: Read
    unit: str = ""
    ratio: bool = False


def _ttft_ms(m: Measurement) -> float | None:
    return m.load.ttft_us.p50 / 1000 if m.load.ttft_us else None


def _gap_ms(m: Measurement) -> float | None:
    return m.load.gap_us.p99 / 1000 if m.load.gap_us else None


def _latency_ms(quantile: str) -> Read:
    def read(m: Measurement) -> float | None:
        return getattr(m.load.latency_us, quantile) / 1000 if m.load.latency_us else None

    return read


TAIL = (
    Column("cpu", lambda m: m.cpu_percent, "%"),
    Column("MB", lambda m: m.memory_mb),
    Column("core 1", lambda m: m.load_core_percent, "%"),
)
JSON_COLUMNS = (
    Column("req/s", lambda m: m.load.requests_per_second, ratio=True),
    Column("cpu µs/req", lambda m: m.cpu_us_per_request),
    Column("redis µs/req", lambda m: m.redis_cpu_us_per_request),
    Column("p50 ms", _latency_ms("p50")),
    Column("p99 ms", _latency_ms("p99")),
    *TAIL,
)
STREAM_COLUMNS = (
    Column("events/s", lambda m: m.load.events_per_second, ratio=True),
    Column("cpu µs/event", lambda m: m.cpu_us_per_event, ratio=True),
    Column("ttft p50 ms", _ttft_ms),
    *TAIL,
)


def columns(case: Case, rounds: Rounds) -> list[Column]:
    """Of paced streams also what a target adds to what `direct` takes."""
    if not case.stream:
        return list(JSON_COLUMNS)
    if not case.interval_us:
        return list(STREAM_COLUMNS)
    added = [_added(read, rounds) for read in (_ttft_ms, _gap_ms)]
    return [
        *STREAM_COLUMNS[:3],
        Column("ttft added ms", added[0]),
        Column("gap p99 ms", _gap_ms),
        Column("gap p99 added ms", added[1]),
        *TAIL,
    ]


def _added(read: Read, rounds: Rounds) -> Read:
    """What a measurement has more than the median of `direct`; None without `direct`."""
    direct = _figures(rounds.get("direct", ()), read)

    def added(m: Measurement) -> float | None:
        value = read(m)
        return value - median(direct) if direct and value is not None else None

    return added


def _figures(measurements: Sequence[Measurement], read: Read) -> list[float]:
    return [value for m in measurements if (value := read(m)) is not None]


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return (
        f"{value:.0f}"
        if abs(value) >= 100
        else f"{value:.1f}"
        if abs(value) >= 10
        else f"{value:.2f}"
    )


def table(case: Case, rounds: Rounds) -> str:
    """A row a target: median (lowest–highest), and multiples of the reference."""
    shown = columns(case, rounds)
    rows = [[case.name, *(column.title for column in shown)]]
    for target, measurements in rounds.items():
        failed = any(m.load.errors for m in measurements)
        row = [target + (" !" if failed else "")]
        for column in shown:
            values = _figures(measurements, column.read)
            if not values:
                row.append("–")
                continue
            middle = median(values)
            cell = _number(middle) + column.unit
            if len(values) > 1:
                cell += f" ({_number(min(values))}–{_number(max(values))})"
            reference = _figures(rounds.get(REFERENCE, ()), column.read)
            if column.ratio and reference:
                cell += f" {middle / median(reference):.2f}×"
            row.append(cell)
        rows.append(row)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def medians(case: Case, rounds: Rounds) -> dict[str, dict[str, float]]:
    """By target, then by the column of the table."""
    return {
        target: {
            column.title: median(values)
            for column in columns(case, rounds)
            if (values := _figures(measurements, column.read))
        }
        for target, measurements in rounds.items()
    }


def goals(case: Case, rounds: Rounds) -> str:
    """A line for each goal that these results can tell."""
    return "\n".join(
        f"{'met   ' if verdict.met else 'MISSED'} {case.name} {verdict.goal.figure}: "
        f"{verdict.reached:.2f} {verdict.goal.unit} {verdict.goal.peer}, "
        f"{'at most' if verdict.goal.most else 'at least'} {verdict.goal.wanted:g} wanted"
        for verdict in verdicts(case.name, medians(case, rounds))
    )


def machine() -> dict[str, object]:
    """What the figures depend on."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    try:
        said = subprocess.run(["redis-server", "--version"], capture_output=True, text=True)
        redis = said.stdout.strip()
    except FileNotFoundError:
        redis = ""
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "redis": redis,
    }


def save(
    case: Case, rounds: Rounds, versions: dict[str, str], *, seconds: float, quick: bool
) -> Path:
    """Write the results of one case. Returns the file."""
    directory = RESULTS / "tmp" if quick else RESULTS
    directory.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    path = directory / f"{now:%Y-%m-%d}-{case.name}.json"
    result = {
        "case": case,
        "at": now.isoformat(timespec="seconds"),
        "seconds": seconds,
        "machine": machine() | {"python": f"{chosen().version} ({chosen().built})"},
        "versions": versions,
        "medians": medians(case, rounds),
        "rounds": rounds,
    }
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    return path
