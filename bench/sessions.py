"""A trace of chat sessions, to check what was found on another: Mooncake's JSONL, on standard output.

    python -m bench.sessions [--minutes 12] [--per-second 1.2] [--systems 40] ... > chat.jsonl

Sessions begin as a Poisson process; each starts with one of a few system prompts, the popular ones
more often (Zipf), and each turn sends everything said so far. Equal arguments give equal traces.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from itertools import count
from random import Random
from typing import NamedTuple

from router.lab.traces import BLOCK_TOKENS


class Row(NamedTuple):
    """One request; seconds, tokens, and the ids of the prompt's blocks."""

    at: float
    input_tokens: int
    output_tokens: int
    ids: list[int]


def sessions(asked: argparse.Namespace) -> list[Row]:
    random, ids = Random(asked.seed), count()
    systems = [
        [next(ids) for _ in range(1 + int(random.expovariate(BLOCK_TOKENS / asked.system_tokens)))]
        for _ in range(asked.systems)
    ]
    weights = [1 / place**asked.zipf for place in range(1, asked.systems + 1)]
    rows: list[Row] = []
    at, end = 0.0, asked.minutes * 60
    while (at := at + random.expovariate(asked.per_second)) < end:
        (system,) = random.choices(systems, weights)
        rows += [row for row in turns(asked, random, ids, at, system) if row.at < end]
    return sorted(rows)


def turns(
    asked: argparse.Namespace, random: Random, ids: Iterator[int], at: float, system: Sequence[int]
) -> Iterator[Row]:
    """One session. Only blocks that are filled are shared with the next turn."""
    said, whole = len(system) * BLOCK_TOKENS, [*system]
    for _ in range(1 + int(random.expovariate(1 / asked.turns))):
        said += 16 + int(random.expovariate(1 / asked.user_tokens))
        whole += [next(ids) for _ in range(said // BLOCK_TOKENS - len(whole))]
        answer = 8 + int(random.expovariate(1 / asked.answer_tokens))
        last = [next(ids)] if said % BLOCK_TOKENS else []
        yield Row(at, said, answer, [*whole, *last])
        said += answer
        whole += [next(ids) for _ in range(said // BLOCK_TOKENS - len(whole))]
        at += answer * 0.02 + random.expovariate(1 / asked.think_seconds)


def main(argv: Sequence[str] | None = None) -> None:
    p = argparse.ArgumentParser(
        "python -m bench.sessions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--minutes", type=float, default=12.0)
    p.add_argument("--per-second", type=float, default=1.2, help="new sessions (1.2)")
    p.add_argument("--systems", type=int, default=40, help="different system prompts (40)")
    p.add_argument("--system-tokens", type=float, default=3000.0, help="mean (3000)")
    p.add_argument("--user-tokens", type=float, default=800.0, help="mean of a message (800)")
    p.add_argument("--answer-tokens", type=float, default=300.0, help="mean (300)")
    p.add_argument("--turns", type=float, default=5.0, help="mean, beyond the first (5)")
    p.add_argument("--think-seconds", type=float, default=20.0, help="mean between turns (20)")
    p.add_argument("--zipf", type=float, default=1.0, help="of the system prompts' popularity (1)")
    p.add_argument("--seed", type=int, default=1)
    for row in sessions(p.parse_args(argv)):
        line = {
            "timestamp": int(row.at * 1000),
            "input_length": row.input_tokens,
            "output_length": row.output_tokens,
            "hash_ids": row.ids,
        }
        print(json.dumps(line))


if __name__ == "__main__":
    main()
