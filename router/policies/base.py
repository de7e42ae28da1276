"""What a policy is: a pure choice among candidates, with the numbers it compared.

A policy lives in one file and registers beside itself. It is told the time and given its
randomness; it never sees HTTP, Redis or a clock. To add one: write the file, decorate the class
with `@policy("name")`, import it in `policies/__init__.py`, name it in `PolicyType`; flags and the
contract tests find it by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Generic, Literal, Protocol, TypeVar

import msgspec

from router.core.ages import Marks
from router.core.blocks import matched_bytes
from router.core.facts import RequestFacts
from router.core.prefix import PrefixIndex, Sent
from router.core.rounding import rounded_share
from router.core.worker import Worker
from tracking.trace import Trace

Ranks = Sequence[float]
AssignmentMode = Literal["random", "min_load", "min_group"]


class Column(Protocol):
    """A number of each candidate, None for one that has no such number."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> float | None: ...


class Choice:
    """A worker and why it was chosen.

    `columns` holds the numbers compared, by name, one for each candidate in the order they were
    given, None for one that has no such number; `ranks` orders the candidates, lower is better,
    for capping the receipt. `predicted_cached_tokens` and `predicted_hit_rate` (0..1) are None
    where the policy does not know prefixes, or the request has no text; `best_cached_tokens` is the
    most that any candidate is thought to hold. `fallback`: the policy lacked what it decides by
    and used something simpler. `sent`: what its prefix memory wants to be told of.
    `expected_seconds`: when the prefill is expected to be done, where that can be said.
    """

    __slots__ = (
        "best_cached_tokens",
        "columns",
        "expected_seconds",
        "fallback",
        "predicted_cached_tokens",
        "predicted_hit_rate",
        "ranks",
        "reason",
        "sent",
        "worker",
    )

    def __init__(
        self,
        worker: Worker,
        reason: str,
        columns: Mapping[str, Column],
        ranks: Ranks,
        predicted_cached_tokens: int | None = None,
        predicted_hit_rate: float | None = None,
        best_cached_tokens: int | None = None,
        sent: Sent | None = None,
        expected_seconds: float | None = None,
        fallback: bool = False,
    ) -> None:
        self.worker = worker
        self.reason = reason
        self.columns = columns
        self.ranks = ranks
        self.predicted_cached_tokens = predicted_cached_tokens
        self.predicted_hit_rate = predicted_hit_rate
        self.best_cached_tokens = best_cached_tokens
        self.sent = sent
        self.expected_seconds = expected_seconds
        self.fallback = fallback


class NoTarget(Exception):
    """The request names a worker that is no candidate. The message may be shown to the client."""


class PolicyConfig(msgspec.Struct, frozen=True, kw_only=True):
    """All settings any policy takes, under their flags' names. `max_tree_size` is in bytes."""

    cache_threshold: float = 0.3
    balance_abs_threshold: int = 64
    balance_rel_threshold: float = 1.5
    max_tree_size: int = 67108864
    prefix_token_count: int = 256
    prefix_hash_load_factor: float = 1.25
    policy_weights: dict[str, float] = {}
    assignment_mode: AssignmentMode = "random"
    max_idle_secs: int = 14400
    bucket_adjust_interval_secs: int = 5


class Policy(Protocol):
    """Chooses a worker. Policies inherit from this class, for what they do not care about.

    `prefixes` is what the policy knows of the workers' prefix caches, for those that look at it.
    """

    name: str
    prefixes: PrefixIndex | None = None
    learns: bool = False  # it wants to be told of requests that have ended, at any replica

    def choose(self, request: RequestFacts, candidates: Sequence[Worker], now: float) -> Choice:
        """One of `candidates`, which is never empty and holds only workers that may be used.

        `now` is in monotonic seconds. Raises NoTarget where the request itself names a worker
        that is not among them.
        """
        ...

    def forget(self, node_id: str) -> None:
        """The worker was removed or has lost its cache. Not for one that is merely unhealthy."""
        if self.prefixes is not None:
            self.prefixes.forget(node_id)

    def finished(self, trace: Trace, finished_at: float) -> None:
        """A request has ended, at this replica or another; for policies that learn.

        `finished_at` is in seconds since the epoch, on the one clock that all replicas share.
        """


PolicyFactory = Callable[[PolicyConfig, Random], Policy]
REGISTRY: dict[str, PolicyFactory] = {}
P = TypeVar("P", bound=Policy)
N = TypeVar("N", int, float)


def policy(name: str) -> Callable[[type[P]], type[P]]:
    """Register a policy class under `name`; it is built as `cls(config, random)`."""

    def register(cls: type[P]) -> type[P]:
        if name in REGISTRY:
            raise ValueError(f"two policies are named {name!r}")
        cls.name = name
        REGISTRY[name] = cls
        return cls

    return register


def target_of(trace: Trace) -> str:
    """The `target` of the worker that served a request: its rank is in the name."""
    _, at, rank = trace.node_id.partition("@")
    return trace.worker_url + at + rank


def loads(candidates: Sequence[Worker]) -> list[int]:
    """Requests in flight at each candidate, of all replicas. Every policy reads load here and
    nowhere else."""
    each = []
    worker: Worker
    for worker in candidates:
        each.append(worker.in_flight + worker.others_in_flight)
    return each


def node_ids(candidates: Sequence[Worker]) -> list[str]:
    each = []
    worker: Worker
    for worker in candidates:
        each.append(worker.node_id)
    return each


def queued_tokens(candidates: Sequence[Worker]) -> list[int]:
    """Uncached input tokens waiting for their prefill at each candidate, of all replicas."""
    each = []
    worker: Worker
    for worker in candidates:
        each.append(worker.own_queued_tokens + worker.others_queued_tokens)
    return each


class Depths:
    """How many blocks of a prompt each node was `sent` before, and how many of these it is thought to
    have `kept`; what part of the prompt, 0..1 in four digits, so many blocks are; the longest part
    that any has kept."""

    __slots__ = ("kept", "longest", "marks", "parts", "sent")

    def __init__(
        self,
        sent: list[int],
        kept: list[int],
        parts: dict[int, float],
        longest: float,
        marks: Marks,
    ) -> None:
        self.sent = sent
        self.kept = kept
        self.parts = parts
        self.longest = longest
        self.marks = marks


def prefix_depths(prefixes: PrefixIndex, request: RequestFacts, nodes: Sequence[str]) -> Depths:
    blocks, size = request.blocks, request.text_bytes
    sent, different = prefixes.depths(blocks, nodes)
    marks = prefixes.ages.marks(blocks)
    kept = prefixes.kept(nodes, sent, marks)
    most_kept = different[-1] if different else 0
    if kept is not sent:
        different, most_kept = [*{*different, *kept}], max(kept)
    parts = {0: 0.0}
    for depth in different:  # most candidates share few
        parts[depth] = rounded_share(matched_bytes(depth, size) / size)
    return Depths(sent, kept, parts, parts[most_kept], marks)


def bearable_load(in_flight: Sequence[int], config: PolicyConfig) -> float | None:
    """The most a candidate may have in flight without being overloaded beside the least loaded;
    None where nobody is."""
    always = config.balance_abs_threshold
    for load in in_flight:  # a call of max() costs several times as much for few
        if load > always:
            break
    else:
        return None
    fewest = min(in_flight)
    bearable = max(fewest + always, fewest * config.balance_rel_threshold)
    return bearable if max(in_flight) > bearable else None


class Shown(Generic[N]):
    """A column whose numbers are worked out when they are looked at: few of many are shown."""

    __slots__ = ("_show", "_values")

    def __init__(self, values: Sequence[N], show: Callable[[N], float]) -> None:
        self._values: Sequence[N] = values
        self._show: Callable[[N], float] = show

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: int, /) -> float:
        return self._show(self._values[index])


def least(values: Ranks, random: Random) -> int:
    """The index of the smallest value; of several equal ones any, so that an idle fleet spreads."""
    return any_index(values, min(values), random) if len(values) > 1 else 0


def any_index(values: Ranks, value: float, random: Random) -> int:
    """One of the indexes at which `value` stands, each with the same chance."""
    index = values.index(value)
    equals = values.count(value)
    if equals > 1:
        for _ in range(int(random.random() * equals)):  # an eighth of the cost of randrange()
            index = values.index(value, index + 1)
    return index


def two_of(count: int, random: Random) -> tuple[int, int]:
    """Two different numbers below `count`, which is at least 2, in any order."""
    first = int(random.random() * count)
    second = int(random.random() * (count - 1))
    return first, second + (second >= first)
