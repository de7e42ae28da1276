"""What a policy is: a pure choice among candidates, with the numbers it compared.

A policy lives in one file and registers beside itself. It is told the time and given its
randomness; it never sees HTTP, Redis or a clock. To add one: write the file, decorate the class
with `@policy("name")`, import it in `policies/__init__.py`; flags, `PolicyType` and the contract
tests find it by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple, Protocol

import msgspec

from router.core.facts import RequestFacts
from router.core.worker import Worker


class Choice(NamedTuple):
    """A worker and why it was chosen.

    `columns` names the numbers compared; `rows[i]` holds those of candidate i; `ranks[i]` orders
    the candidates, lower is better, for capping the receipt. `predicted_cached_tokens` is None
    where the policy does not know prefixes.
    """

    worker: Worker
    reason: str
    columns: tuple[str, ...] = ()
    rows: Sequence[tuple[float, ...]] = ()
    ranks: Sequence[float] = ()
    predicted_cached_tokens: int | None = None


class PolicyConfig(msgspec.Struct, frozen=True, kw_only=True):
    """All settings any policy takes, under their flags' names."""

    cache_threshold: float = 0.3
    balance_abs_threshold: int = 64
    balance_rel_threshold: float = 1.5
    max_tree_size: int = 67108864


class Policy(Protocol):
    """Chooses a worker. `candidates` is never empty and holds only workers that may be used."""

    name: str

    def choose(
        self, request: RequestFacts, candidates: Sequence[Worker], now: float
    ) -> Choice: ...


PolicyFactory = Callable[[PolicyConfig, Random], Policy]
REGISTRY: dict[str, PolicyFactory] = {}


def policy(name: str) -> Callable[[type], type]:
    """Register a policy class under `name`; it is built as `cls(config, random)`."""

    def register(cls: type) -> type:
        if name in REGISTRY:
            raise ValueError(f"two policies are named {name!r}")
        cls.name = name  # type: ignore[attr-defined]
        REGISTRY[name] = cls
        return cls

    return register
