"""The numbers to reach, as ratios to the peers in the same run, and how far a result is from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

OURS: Final = "router"
UNTRACED: Final = "router-untraced"

Medians = Mapping[str, Mapping[str, float]]
"""Of one case: by target, then by the column of the benchmark's table."""


class Goal(msgspec.Struct, frozen=True):
    """`figure` of ours over that of `peer`: at least `wanted`, or with `most` at most that.

    With `unit` not the ratio is meant but the difference, in this unit.
    """

    cases: tuple[str, ...]
    figure: str
    peer: str
    wanted: float
    most: bool = False
    unit: str = "×"


class Verdict(msgspec.Struct, frozen=True):
    goal: Goal
    reached: float

    @property
    def met(self) -> bool:
        wanted = self.goal.wanted
        return self.reached <= wanted if self.goal.most else self.reached >= wanted


JSON: Final = ("json-1k", "json-16k")
GOALS: Final = (
    Goal(JSON, "req/s", "sglang-router", 2.0),
    Goal(JSON, "req/s", "vllm-router", 1.5),
    Goal(JSON, "req/s", "smg", 3.0),
    Goal(JSON, "req/s", "nginx", 0.5),
    Goal(JSON, "cpu µs/req", UNTRACED, 1.25, most=True),
    Goal(("sse",), "events/s", "sglang-router", 4.0),
    Goal(("sse",), "events/s", "vllm-router", 6.0),
    Goal(("sse",), "events/s", "smg", 8.0),
    Goal(("sse",), "events/s", "nginx", 0.75),
    Goal(("sse-30k",), "cpu µs/event", "sglang-router", 1.0, most=True),
    Goal(("sse-30k",), "cpu µs/event", "vllm-router", 1.0, most=True),
    Goal(("sse-30k",), "cpu µs/event", "smg", 0.8, most=True),
    Goal(("sse-30k",), "cpu µs/event", "nginx", 1.2, most=True),
    Goal(("sse-10k",), "ttft added ms", "sglang-router", 0.05, most=True),
    Goal(("sse-10k",), "ttft added ms", "vllm-router", 1.2, most=True),
    Goal(("sse-10k",), "ttft added ms", "smg", 1.0, most=True),
    Goal(("sse-10k",), "ttft added ms", "nginx", 0.3, most=True, unit="ms more than"),
)


def verdicts(case: str, medians: Medians) -> list[Verdict]:
    """Of the goals for a case, those that its results can tell."""
    found = []
    for goal in GOALS:
        ours = medians.get(OURS, {}).get(goal.figure)
        theirs = medians.get(goal.peer, {}).get(goal.figure)
        if case in goal.cases and ours is not None and theirs:
            found.append(Verdict(goal, ours / theirs if goal.unit == "×" else ours - theirs))
    return found
