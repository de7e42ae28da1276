"""The worker at which this request costs least time: its own, and that of those behind it.

    expected time = (input queued there + this request's uncached input) / the worker's prefill rate
    cost          = expected time * (1 + followers per second * its own computing time)

Queued is the uncached input, of all replicas' requests, that still waits for its first byte. The
rate is learned from the fleet's own requests (`core/prefill.py`); this request's uncached input is
what is left of it behind the longest prefix the worker is thought to hold.

While a request waits and is computed others come to that worker (`core/followers.py`), and each of
them waits longer by what this one has to be computed: the second part of the cost. With idle workers
nobody follows, and the soonest first token wins; so a long cached prefix wins while the line before
it is short, and a free worker when computing the prefix again is quicker than waiting. The busier
the fleet, the more counts what is computed at all: computing again what is cached elsewhere would
lengthen every line. (In an M/G/1 queue, work w added to a backlog V delays those who come later by
λ(Vw + w²/2) / (1 - ρ) in all; what others can evade by going elsewhere is left out here with 1 - ρ.)

A worker that is overloaded by requests in flight, by the two thresholds of `cache_aware`, is left
out: many cheap prompts would otherwise all follow one cached prefix.

Costs within 5 % of the best count as equal: estimates are no better than that, and replicas that do
not see each other's last decisions yet would otherwise all go to the same worker. Of equal ones two
are drawn, and the one with less in flight is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from random import Random
from typing import Final

from router.core.facts import RequestFacts
from router.core.followers import Followers
from router.core.prefill import PrefillRates
from router.core.prefix import PrefixIndex
from router.core.rounding import rounded
from router.core.worker import Worker
from router.policies.base import (
    Choice,
    Policy,
    PolicyConfig,
    Shown,
    bearable_load,
    least,
    loads,
    node_ids,
    policy,
    prefix_depths,
    queued_tokens,
    two_of,
)
from tracking.trace import Trace

GONE_COUNTS: Final = 0.5  # of what is there: computed again where it was, it makes no second copy
TOLERANCE: Final = 0.05  # of the least cost: no better are the rates known


@policy("expected_ttft")
class ExpectedTtftPolicy(Policy):
    """Reasons: `only_candidate`, `least_expected_ttft`; `spares_others` when the first token would
    have come sooner elsewhere, at a higher cost; `imbalanced` when the worker with the least cost
    was overloaded and another was taken."""

    prefixes: PrefixIndex
    learns = True

    def __init__(self, config: PolicyConfig, random: Random) -> None:
        self._config = config
        self._random = random
        self._rates = PrefillRates()
        self._followers = Followers()
        self.prefixes = PrefixIndex(config.max_tree_size)

    def choose(self, request: RequestFacts, candidates: Sequence[Worker], now: float) -> Choice:
        prefixes: PrefixIndex = self.prefixes
        known_rates: PrefillRates = self._rates
        known_followers: Followers = self._followers
        in_flight = loads(candidates)
        queued = queued_tokens(candidates)
        nodes = node_ids(candidates)
        tokens = request.input_tokens
        depths = prefix_depths(prefixes, request, nodes)
        kept, parts = depths.kept, depths.parts
        left = {depth: tokens - int(part * tokens) for depth, part in parts.items()}
        rates = known_rates.of(nodes)
        followers = known_followers.per_token(nodes, rates, known_rates.fleet)
        times, costs = [], []
        for waiting, sent, depth, rate, behind in zip(
            queued, depths.sent, kept, rates, followers, strict=True
        ):
            computing = left[depth]
            time = (waiting + computing) / rate
            times.append(time)
            if sent != depth:
                computing -= int(GONE_COUNTS * (computing - left[sent]))
                time = (waiting + computing) / rate
            costs.append(time * (1 + behind * computing))
        chosen, reason = _pick(times, costs, in_flight, self._config, self._random)
        uncached = left[kept[chosen]]
        known_followers.chosen(nodes[chosen], uncached, 1 - queued.count(0) / len(candidates))
        has_text = bool(request.blocks)
        return Choice(
            candidates[chosen],
            reason if len(candidates) > 1 else "only_candidate",
            {
                "in_flight": in_flight,
                "queued_tokens": queued,
                "prefix_match": Shown(kept, parts.__getitem__),
                "prefill_rate": rates,
                "expected_ttft_seconds": Shown(times, rounded),
                "cost_seconds": Shown(costs, rounded),
            },
            costs,
            tokens - uncached if has_text else None,
            parts[kept[chosen]] if has_text else None,
            int(depths.longest * tokens) if has_text else None,
            prefixes.send(request, nodes[chosen], depths.sent[chosen], depths.marks),
            times[chosen] if known_rates.rates else None,
        )

    def finished(self, trace: Trace, finished_at: float) -> None:
        seconds = first_token_seconds(trace)
        if seconds is None or trace.prefill_tokens is None:
            return
        surprise = 0
        if trace.cached_tokens is not None:
            surprise = (trace.predicted_cached_tokens or 0) - trace.cached_tokens
        node = trace.prefill_node_id or trace.node_id
        self._rates.observe(node, trace.prefill_tokens + surprise, seconds)

    def forget(self, node_id: str) -> None:
        super().forget(node_id)
        self._rates.forget(node_id)


def _pick(
    times: list[float],
    costs: list[float],
    in_flight: list[int],
    config: PolicyConfig,
    random: Random,
) -> tuple[int, str]:
    least_cost = min(costs)
    bearable = bearable_load(in_flight, config)
    imbalanced = False
    if bearable is not None:  # somebody is not overloaded
        costs = [
            cost if load <= bearable else inf for cost, load in zip(costs, in_flight, strict=True)
        ]
        imbalanced = min(costs) > least_cost
        least_cost = min(costs)
    enough = least_cost * (1 + TOLERANCE)
    equals = [i for i, cost in enumerate(costs) if cost <= enough]
    chosen = equals[0]
    if len(equals) > 1:
        if len(equals) > 2:
            equals = [equals[i] for i in two_of(len(equals), random)]
        chosen = equals[least([in_flight[i] for i in equals], random)]
    if imbalanced:
        return chosen, "imbalanced"
    waits = times[chosen] > min(times) * (1 + TOLERANCE)
    return chosen, "spares_others" if waits else "least_expected_ttft"


def first_token_seconds(trace: Trace) -> float | None:
    """From the router to the first token: as seen in a stream, else as the engine tells it."""
    if trace.ttft_seconds is not None:
        return trace.ttft_seconds - (trace.queue_seconds or 0.0)
    engine = trace.engine
    if engine is None:
        return None
    if engine.first_token_latency is not None:
        return engine.first_token_latency
    if engine.prefill_seconds is not None and engine.queue_time is not None:
        return engine.queue_time + engine.prefill_seconds
    return None
