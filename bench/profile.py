"""Where a router under load spends its time: a flame graph by py-spy.

    python -m bench.profile [--case json-1k] [--target router] [--seconds 10]

Runs one measurement of `bench` and samples the target meanwhile; writes
`bench/results/tmp/profile-<target>-<case>.svg`. py-spy is installed beside the peers. It samples
without stopping the process: stopping it would favour system calls.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
from pathlib import Path

from bench.cases import CASES
from bench.measure import RigError, build, measure
from bench.processes import Pinned
from bench.report import RESULTS
from bench.targets import TARGETS, Unavailable, install

SAMPLES_PER_SECOND = 500


def sample(program: Path, process: Pinned, out: Path, seconds: float) -> None:
    command = [str(program), "record", "--nonblocking", "--rate", str(SAMPLES_PER_SECOND)]
    command += ["--duration", str(int(seconds)), "--output", str(out), "--pid", str(process.pid)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m bench.profile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--case", choices=[case.name for case in CASES], default="json-1k")
    ours = [target.name for target in TARGETS if target.name.startswith("router")]
    parser.add_argument("--target", choices=ours, default="router")
    parser.add_argument("--seconds", type=float, default=10)
    asked = parser.parse_args()
    case = next(case for case in CASES if case.name == asked.case)
    target = next(target for target in TARGETS if target.name == asked.target)
    out = RESULTS / "tmp" / f"profile-{target.name}-{case.name}.svg"
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        build()
        target.prepare()
        program = install("py-spy", "py-spy") / "py-spy"
        sampling: list[threading.Thread] = []

        def loaded(process: Pinned) -> None:
            arguments = (program, process, out, asked.seconds)
            sampling.append(threading.Thread(target=sample, args=arguments))
            sampling[-1].start()

        result = measure(target, case, asked.seconds, loaded)
        for thread in sampling:
            thread.join()
    except (RigError, Unavailable) as error:
        print(error, file=sys.stderr)
        return 1
    rate, cpu = result.load.requests_per_second, result.cpu_us_per_request
    print(f"{rate:,.0f} requests/s, {cpu or 0:.0f} µs of CPU each while sampled\n{out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
