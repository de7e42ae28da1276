"""`python -m bench`: run targets through cases in interleaved rounds, show and keep the figures."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from bench.cases import CASES
from bench.measure import LOAD_CORE, RigError, build, measure
from bench.report import Rounds, goals, save, table
from bench.targets import TARGETS, Target, Unavailable


def parser() -> argparse.ArgumentParser:
    cases, targets = [case.name for case in CASES], [target.name for target in TARGETS]
    p = argparse.ArgumentParser("python -m bench", description=__doc__)
    p.add_argument("--case", action="append", choices=cases, help="repeatable; default: all")
    p.add_argument("--target", action="append", choices=targets, help="repeatable; default: all")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seconds", type=float, default=2.5, help="of each measurement")
    p.add_argument("--quick", action="store_true", help="one round of a second")
    return p


def available(names: Sequence[str] | None) -> dict[Target, str]:
    """The targets that can run here, with their versions."""
    found = {}
    for target in TARGETS:
        if names and target.name not in names:
            continue
        try:
            found[target] = target.prepare()
        except Unavailable as error:
            print(f"without {target.name}: {error}")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    rounds, seconds = (1, 1.0) if args.quick else (args.rounds, args.seconds)
    failed = False
    try:
        build()
        targets = available(args.target)
        if not targets:
            raise RigError("nothing to measure")
        os.sched_setaffinity(0, {LOAD_CORE})
        for case in CASES:
            if args.case and case.name not in args.case:
                continue
            shown = [target for target in targets if args.target or target.measured_in(case.name)]
            results: Rounds = {target.name: [] for target in shown}
            for number in range(rounds):
                for target in shown:
                    print(f"{case.name}: round {number + 1}/{rounds}: {target.name}", flush=True)
                    try:
                        results[target.name].append(measure(target, case, seconds))
                    except RigError as error:  # the others can still be measured
                        print(f"{target.name} FAILED: {error}", file=sys.stderr, flush=True)
                        failed = True
            results = {name: found for name, found in results.items() if found}
            versions = {target.name: targets[target] for target in shown}
            path = save(case, results, versions, seconds=seconds, quick=args.quick)
            print(f"\n{table(case, results)}\n\n{goals(case, results)}\n\n{path}\n", flush=True)
    except RigError as error:
        print(error, file=sys.stderr)
        return 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
