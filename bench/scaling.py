"""What `--processes N` gives: `python -m bench.scaling`.

    python -m bench.scaling [--processes 1 --processes 2] [--share] [--case json-1k] [--seconds 2.5] [--rounds 3]

The compiled router with 1, 2, ... processes on all cores but the one of the load. Where there are as
many such cores as processes, requests a second should grow with them. Where there are fewer, what
can be seen is what more processes cost: CPU a request, memory, and how evenly connections are dealt
(`busiest`: the share of the busiest process, 1/N at best).

With --share the router has the core of the load, too, so that two cores are enough to see what processes
that run at the same time cost each other: CPU a request, which stays what it is with one process where
they scale. Requests a second then say nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from statistics import median
from typing import Final

from bench.cases import CASES
from bench.measure import LOAD_CORE, Measurement, RigError, build, measure
from bench.targets import Unavailable, ours

COUNTS: Final = (1, 2)


def figures(rounds: Sequence[Measurement]) -> str:
    def middle(values: Sequence[float | None]) -> float:
        return median(value for value in values if value is not None)

    cpu = middle([m.cpu_percent for m in rounds])
    return (
        f"{middle([m.load.requests_per_second for m in rounds]):10,.0f}"
        f"{middle([m.cpu_us_per_request for m in rounds]):12.1f}"
        f"{cpu:8.0f}"
        f"{middle([m.memory_mb for m in rounds]):8.0f}"
        f"{middle([m.busiest_percent for m in rounds]) / cpu:10.2f}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m bench.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [case.name for case in CASES]
    parser.add_argument("--processes", action="append", type=int, help="repeatable; default: 1, 2")
    parser.add_argument("--share", action="store_true", help="all cores, also the one of the load")
    parser.add_argument("--case", choices=names, default="json-1k")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.5)
    asked = parser.parse_args(argv)
    case = next(case for case in CASES if case.name == asked.case)
    cores = os.sched_getaffinity(0)
    if not asked.share:
        cores = cores - {LOAD_CORE}
    targets = {n: ours("--processes", str(n)) for n in asked.processes or COUNTS}
    results: dict[int, list[Measurement]] = {n: [] for n in targets}
    try:
        build()
        next(iter(targets.values())).prepare()
        os.sched_setaffinity(0, {LOAD_CORE})
        for _ in range(asked.rounds):
            for n, target in targets.items():
                results[n].append(measure(target, case, asked.seconds, cores=cores))
    except (RigError, Unavailable) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{case.name}, {len(cores)} cores for the router")
    print("processes     req/s  cpu µs/req   cpu %      MB   busiest")
    for n, rounds in results.items():
        print(f"{n:9}{figures(rounds)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
