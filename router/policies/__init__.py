"""All policies, found by their names. Importing this package registers every one of them."""

from __future__ import annotations

from random import Random

from router.policies import (
    bucket,
    cache_aware,
    consistent_hashing,
    expected_ttft,
    manual,
    marginal_utility,
    power_of_two,
    prefix_hash,
    random,
    round_robin,
    shortest_queue,
    weighted,
)
from router.policies.base import REGISTRY, Choice, Policy, PolicyConfig

__all__ = [
    "MODULES",
    "REGISTRY",
    "Choice",
    "Policy",
    "PolicyConfig",
    "UnknownPolicy",
    "build_policy",
]

# Named here because importing them is what registers them.
MODULES = (
    *(random, round_robin, power_of_two, shortest_queue, weighted),
    *(cache_aware, expected_ttft, prefix_hash, consistent_hashing),
    *(manual, bucket, marginal_utility),
)


class UnknownPolicy(ValueError):
    """No policy has this name. The message names those there are."""


def build_policy(name: str, config: PolicyConfig, random: Random) -> Policy:
    """A fresh policy; `random` is its only source of chance. Raises UnknownPolicy."""
    factory = REGISTRY.get(name)
    if factory is None:
        raise UnknownPolicy(f"unknown policy {name!r}; expected one of {', '.join(REGISTRY)}")
    return factory(config, random)
