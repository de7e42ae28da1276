"""What a policy is: a pure choice among candidates, with the numbers it compared.

A policy lives in one file and registers beside itself. It is told the time and given its
randomness; it never sees HTTP, Redis or a clock. To add one: write the file, decorate the class
with `@policy("name")`, import it in `policies/__init__.py`; flags, `PolicyType` and the contract
tests find it by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import NamedTuple, Protocol, TypeVar

import msgspec

from router.core.facts import RequestFacts
from router.core.prefix import PrefixIndex
from router.core.worker import Worker

Column = Sequence[float]


class Choice(NamedTuple):
    """A worker and why it was chosen.

    `columns` holds the numbers compared, by name, one for each candidate in the order they were
    given; `ranks` orders the candidates, lower is better, for capping the receipt.
    `predicted_cached_tokens` and `predicted_hit_rate` (0..1) are None where the policy does not
    know prefixes, or the request has no text.
    """

    worker: Worker
    reason: str
    columns: Mapping[str, Column]
    ranks: Column
    predicted_cached_tokens: int | None = None
    predicted_hit_rate: float | None = None


class PolicyConfig(msgspec.Struct, frozen=True, kw_only=True):
    """All settings any policy takes, under their flags' names. `max_tree_size` is in bytes."""

    cache_threshold: float = 0.3
    balance_abs_threshold: int = 64
    balance_rel_threshold: float = 1.5
    max_tree_size: int = 67108864


class Policy(Protocol):
    """Chooses a worker. Policies inherit from this class, for what they do not care about.

    `prefixes` is what the policy knows of the workers' prefix caches, for those that look at it.
    """

    name: str
    prefixes: PrefixIndex | None = None

    def choose(self, request: RequestFacts, candidates: Sequence[Worker], now: float) -> Choice:
        """One of `candidates`, which is never empty and holds only workers that may be used.

        `now` is in monotonic seconds.
        """
        ...

    def forget(self, node_id: str) -> None:
        """The worker was removed or has lost its cache. Not for one that is merely unhealthy."""
        if self.prefixes is not None:
            self.prefixes.forget(node_id)


PolicyFactory = Callable[[PolicyConfig, Random], Policy]
REGISTRY: dict[str, PolicyFactory] = {}
P = TypeVar("P", bound=Policy)


def policy(name: str) -> Callable[[type[P]], type[P]]:
    """Register a policy class under `name`; it is built as `cls(config, random)`."""

    def register(cls: type[P]) -> type[P]:
        if name in REGISTRY:
            raise ValueError(f"two policies are named {name!r}")
        cls.name = name
        REGISTRY[name] = cls
        return cls

    return register


def loads(candidates: Sequence[Worker]) -> list[int]:
    """Requests in flight at each candidate, of all replicas. Every policy reads load here and
    nowhere else."""
    return [worker.in_flight + worker.others_in_flight for worker in candidates]


def queued_tokens(candidates: Sequence[Worker]) -> list[int]:
    """Uncached input tokens waiting for their prefill at each candidate, of all replicas."""
    return [worker.own_queued_tokens + worker.others_queued_tokens for worker in candidates]


def least(values: Column, random: Random) -> int:
    """The index of the smallest value; of several equal ones any, so that an idle fleet spreads."""
    return any_index(values, min(values), random)


def any_index(values: Column, value: float, random: Random) -> int:
    """One of the indexes at which `value` stands, each with the same chance."""
    index = values.index(value)
    equals = values.count(value)
    for _ in range(random.randrange(equals) if equals > 1 else 0):
        index = values.index(value, index + 1)
    return index
