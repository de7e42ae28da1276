"""A modelled worker: an LRU prefix cache, one prefill at a time, evenly paced decoding.

Its times are assumptions, not measurements: they let policies be compared, not engines.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from router.lab.traces import BLOCK_TOKENS, Job


class WorkerModel(msgspec.Struct, frozen=True, kw_only=True):
    """How fast and how large each worker is."""

    prefill_tokens_per_second: float = 10_000.0
    token_seconds: float = 0.02
    cache_tokens: int = 3000 * BLOCK_TOKENS


class Served(NamedTuple):
    """When a request got its first token and its end, and how much of its input was cached."""

    first_token_at: float
    ended_at: float
    cached_tokens: int


class ModelledWorker:
    """One worker. Requests are given to it in the order they arrive."""

    def __init__(self, model: WorkerModel) -> None:
        self._model = model
        self._capacity = model.cache_tokens // BLOCK_TOKENS
        self._cache: OrderedDict[int, None] = OrderedDict()
        self._free_at = 0.0
        self.busy_seconds = 0.0
        self.requests = 0

    def serve(self, job: Job, now: float) -> Served:
        """What comes of a request that arrives now."""
        model = self._model
        cached = min(self._cached(job.blocks) * BLOCK_TOKENS, job.input_tokens - 1)
        cached = max(0, cached)
        seconds = (job.input_tokens - cached) / model.prefill_tokens_per_second
        self.busy_seconds += seconds
        self.requests += 1
        self._free_at = first = max(now, self._free_at) + seconds
        # Prefills go one after the other, so this one is cached before the next looks.
        self._keep(job.blocks)
        decoding = max(0, job.output_tokens - 1) * model.token_seconds
        return Served(first, first + decoding, cached)

    def _cached(self, blocks: Sequence[int]) -> int:
        cache = self._cache
        for depth, block in enumerate(blocks):
            if block not in cache:
                return depth
        return len(blocks)

    def _keep(self, blocks: Sequence[int]) -> None:
        cache = self._cache
        for block in reversed(blocks):  # the end of a prefix goes before its start
            cache[block] = None
            cache.move_to_end(block)
        while len(cache) > self._capacity:
            cache.popitem(last=False)


def shared_part(jobs: Sequence[Job]) -> float:
    """The part of all input, 0 to 1, that one worker with an endless cache would find there."""
    endless = ModelledWorker(WorkerModel(cache_tokens=sys.maxsize))
    cached = sum(endless.serve(job, job.arrived).cached_tokens for job in jobs)
    return cached / sum(job.input_tokens for job in jobs)
