"""The names of the policies, known without loading any of them."""

from __future__ import annotations

from enum import StrEnum


class PolicyType(StrEnum):
    """A policy, as `Router(policy=...)` takes it. A test keeps it equal to the registry."""

    Random = "random"
    RoundRobin = "round_robin"
    PowerOfTwo = "power_of_two"
    ShortestQueue = "shortest_queue"
    Weighted = "weighted"
    FixedProbability = "fixed_probability"
    CacheAware = "cache_aware"
    ExpectedTtft = "expected_ttft"
    PrefixHash = "prefix_hash"
    ConsistentHashing = "consistent_hashing"
    Manual = "manual"
    Bucket = "bucket"
    MarginalUtility = "marginal_utility"
