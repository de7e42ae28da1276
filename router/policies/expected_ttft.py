"""The worker at which the first token is expected first.

    expected time = (input queued there + this request's uncached input) / the worker's prefill rate

Queued is the uncached input, of all replicas' requests, that still waits for its first byte. The
rate is learned from the fleet's own requests (`core/prefill.py`); this request's uncached input is
what is left of it behind the longest prefix the worker is thought to hold. So a long cached prefix
wins while the line before it is short, and a free worker wins when computing the prefix again is
quicker than waiting.

A worker that is overloaded by requests in flight, by the two thresholds of `cache_aware`, is left
out: many cheap prompts would otherwise all follow one cached prefix.

Times within 5 % of the best count as equal: estimates are no better than that, and replicas that do
not see each other's last decisions yet would otherwise all go to the same worker. Of equal ones two
are drawn, and the one with less in flight is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from router.core.facts import RequestFacts
from router.core.prefill import PrefillRates
from router.core.prefix import PrefixIndex
from router.core.worker import Worker
from router.policies.base import (
    Choice,
    Policy,
    PolicyConfig,
    Rounded,
    bearable_load,
    least,
    loads,
    policy,
    prefix_matches,
    queued_tokens,
)
from tracking.trace import Trace

TOLERANCE: Final = 0.05  # of the least expected time: no better are the rates known


@policy("expected_ttft")
class ExpectedTtftPolicy(Policy):
    """Reasons: `only_candidate`, `least_expected_ttft`; `imbalanced` when the worker with the
    least expected time was overloaded and another was taken."""

    prefixes: PrefixIndex
    learns = True

    def __init__(self, config: PolicyConfig, random: Random) -> None:
        self._config = config
        self._random = random
        self._rates = PrefillRates()
        self.prefixes = PrefixIndex(config.max_tree_size)

    def choose(self, request: RequestFacts, candidates: Sequence[Worker], now: float) -> Choice:
        in_flight = loads(candidates)
        queued = queued_tokens(candidates)
        matches = prefix_matches(self.prefixes, request, candidates)
        known, fleet = self._rates.rates, self._rates.fleet
        rates = [known.get(worker.node_id, fleet) for worker in candidates]
        tokens = request.input_tokens
        times = [
            (waiting + tokens - tokens * match) / rate
            for waiting, match, rate in zip(queued, matches, rates, strict=True)
        ]
        chosen, reason = self._pick(times, in_flight)
        worker = candidates[chosen]
        self.prefixes.insert(request.blocks, worker.node_id)
        has_text = bool(request.blocks)
        return Choice(
            worker,
            reason if len(candidates) > 1 else "only_candidate",
            {
                "in_flight": in_flight,
                "queued_tokens": queued,
                "prefix_match": matches,
                "prefill_rate": rates,
                "expected_ttft_seconds": Rounded(times, 6),
            },
            times,
            int(matches[chosen] * tokens) if has_text else None,
            matches[chosen] if has_text else None,
            int(max(matches) * tokens) if has_text else None,
        )

    def _pick(self, times: list[float], in_flight: list[int]) -> tuple[int, str]:
        shortest = min(times)
        bearable = bearable_load(in_flight, self._config)
        reason = "least_expected_ttft"
        if max(in_flight) > bearable:
            within = [
                time
                for time, load in zip(times, in_flight, strict=True)
                if load <= bearable  # the least loaded always is
            ]
            if min(within) > shortest:
                reason = "imbalanced"
            shortest = min(within)
        enough = shortest * (1 + TOLERANCE)
        equals = [i for i, time in enumerate(times) if time <= enough and in_flight[i] <= bearable]
        if len(equals) > 2:
            equals = self._random.sample(equals, 2)
        return equals[least([in_flight[i] for i in equals], self._random)], reason

    def finished(self, trace: Trace, finished_at: float) -> None:
        if trace.ttft_seconds is None or trace.prefill_tokens is None:
            return
        surprise = 0
        if trace.cached_tokens is not None:
            surprise = (trace.predicted_cached_tokens or 0) - trace.cached_tokens
        self._rates.observe(
            trace.prefill_node_id or trace.node_id,
            trace.prefill_tokens + surprise,
            trace.ttft_seconds - (trace.queue_seconds or 0.0),
        )

    def forget(self, node_id: str) -> None:
        super().forget(node_id)
        self._rates.forget(node_id)
