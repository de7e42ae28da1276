"""`trace-router replay`: stored traces under other policies, before modelled workers."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from router.config import Config
from router.configure import from_flags
from router.lab.model import WorkerModel, shared_part
from router.lab.replay import Replay, Setting
from router.lab.report import plot, table
from router.lab.traces import TraceFileError, read_jobs
from router.policy_choice import chosen_policy
from router.policy_file import PolicyFileError
from router.policytype import PolicyType

OK, FAILED = 0, 1
DEFAULT_POLICIES = ("round_robin", "cache_aware", "expected_ttft")


def replay_command(arguments: Sequence[str]) -> int:
    """Run it; the exit status. Raises ConfigError for wrong usage."""
    asked = _parser().parse_args(arguments)
    share = None if asked.no_share else asked.share_delay_ms / 1000
    model = WorkerModel(
        prefill_tokens_per_second=asked.prefill_rate,
        token_seconds=asked.token_ms / 1000,
        cache_tokens=asked.cache_tokens,
    )
    setting = Setting(
        workers=asked.workers,
        replicas=asked.replicas,
        share_seconds=share,
        model=model,
        seed=asked.seed,
    )
    configs = {name: _config(name) for name in asked.policy or DEFAULT_POLICIES}
    try:
        jobs, left_out = read_jobs(
            asked.traces, limit=asked.limit, speed=asked.speed, seed=asked.seed
        )
        if left_out:
            sys.stderr.write(f"{left_out} lines without a time or a length are left out\n")
        said = (
            f"{len(jobs)} requests in {jobs[-1].arrived:.0f} s, {shared_part(jobs):.0%} of their "
            f"input shared; {_setting(setting)}\n"
            "Service times are modelled, not measured: "
            f"{model.prefill_tokens_per_second:g} tokens/s of prefill, one request at a time; "
            f"{asked.token_ms:g} ms a token; {model.cache_tokens} tokens of prefix cache (LRU) "
            "at each worker.\n\n"
        )
        sys.stdout.write(said)
        outcomes = {
            name: Replay(partial(chosen_policy, config), setting).run(jobs)
            for name, config in configs.items()
        }
    except (TraceFileError, PolicyFileError) as error:
        sys.stderr.write(f"trace-router: {error}\n")
        return FAILED
    sys.stdout.write(table(outcomes) + "\n")
    if asked.plot is not None:
        title = f"time to the first token, modelled; {_setting(setting)}"
        try:
            Path(asked.plot).write_text(plot(outcomes, title), encoding="utf-8")
        except OSError as error:
            sys.stderr.write(f"trace-router: {asked.plot}: {error.strerror}\n")
            return FAILED
    return OK


def _setting(setting: Setting) -> str:
    replicas = f"{setting.replicas} replica{'s' if setting.replicas > 1 else ''}"
    if setting.replicas > 1:
        share = setting.share_seconds
        replicas += " that do not share" if share is None else f" sharing after {share:g} s"
    return f"{setting.workers} workers, {replicas}"


def _config(policy: str) -> Config:
    """The settings of policies come from the environment, as for `serve`."""
    return from_flags({"policy": policy}, os.environ)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trace-router replay",
        description="Run stored requests through policies, before modelled workers, and print what "
        "each would have cached and how long first tokens would have taken. TRACES is an export of "
        "ours (NDJSON with detail), Mooncake JSONL or Azure CSV. Settings of policies come from "
        "the environment, as for serve. Equal arguments give equal results.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("traces", metavar="TRACES")
    add(
        "--policy",
        action="append",
        metavar="NAME",
        help=f"may be repeated: {', '.join(PolicyType)}, or FILE.py:CLASS "
        f"(default: {', '.join(DEFAULT_POLICIES)})",
    )
    add("--workers", type=_whole, default=8, metavar="N", help="(default: 8)")
    add("--replicas", type=_whole, default=1, metavar="R", help="routers (default: 1)")
    add(
        "--share-delay-ms",
        type=_not_negative,
        default=50,
        metavar="N",
        help="what one replica does is known at the others after this time (default: 50)",
    )
    add("--no-share", action="store_true", help="replicas know nothing of each other")
    add(
        "--speed",
        type=_positive,
        default=1.0,
        metavar="N",
        help="requests come N times as fast (default: 1)",
    )
    add("--limit", type=_whole, metavar="N", help="only the first N requests")
    add(
        "--prefill-rate",
        type=_positive,
        default=WorkerModel().prefill_tokens_per_second,
        metavar="N",
        help="tokens per second of each worker (default: %(default)g)",
    )
    add(
        "--token-ms",
        type=_not_negative,
        default=20.0,
        metavar="N",
        help="between two output tokens (default: 20)",
    )
    add(
        "--cache-tokens",
        type=_whole,
        default=WorkerModel().cache_tokens,
        metavar="N",
        help="prefix cache of each worker (default: %(default)s)",
    )
    add("--seed", type=int, default=1, metavar="N", help="of all chance (default: 1)")
    add("--plot", metavar="FILE", help="also draw the times to the first token, as SVG")
    return parser


def _number(text: str, allowed: str, *, least: float, above: bool) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not (least < number if above else least <= number) or number == float("inf"):
        raise argparse.ArgumentTypeError(f"expected {allowed}, got {text!r}")
    return number


def _positive(text: str) -> float:
    return _number(text, "a number above 0", least=0, above=True)


def _not_negative(text: str) -> float:
    return _number(text, "a number of at least 0", least=0, above=False)


def _whole(text: str) -> int:
    number = _number(text, "a whole number of at least 1", least=1, above=False)
    if number != int(number):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(number)
