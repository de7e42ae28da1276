"""Sticky sessions: a key stays with the worker it was given to.

The key is `X-SMG-Routing-Key`, else the session. A new key is assigned by `assignment_mode`:
`random` (any, but by the key, on the circle of `core/ring.py`, so that all replicas agree),
`min_load` (the least in flight) or `min_group` (the fewest keys). It stays there until it was not
used for `max_idle_secs`. While its worker is away a second one is assigned and remembered; the
first is preferred again when it is back. A request without a key is assigned and not remembered.

What other replicas have assigned is learned from their finished requests, by the session in the
trace; until then a key that comes to two replicas at once may be assigned twice, except by
`random`, where both come to the same worker.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from random import Random
from typing import Final

import msgspec

from router.core.facts import RequestFacts
from router.core.ring import Ring, key_hash
from router.core.worker import Worker
from router.policies.base import (
    Choice,
    Policy,
    PolicyConfig,
    Ranks,
    least,
    loads,
    policy,
    target_of,
)
from tracking.trace import Trace

MOST_KEYS: Final = 65536  # some 300 bytes each; the least recently used are forgotten first
MOST_WORKERS: Final = 2  # that one key remembers


class Assigned(msgspec.Struct):
    """Where a key is at home, by URL, and when it was last used (monotonic seconds)."""

    urls: list[str]
    used_at: float


@policy("manual")
class ManualPolicy(Policy):
    """Reasons: `only_candidate`, `sticky`, `assigned` (a new key), `reassigned` (its workers are
    away), `no_key`."""

    learns = True

    def __init__(self, config: PolicyConfig, random: Random) -> None:
        self._random = random
        self._mode = config.assignment_mode
        self._idle_seconds = config.max_idle_secs
        self._keys: OrderedDict[str, Assigned] = OrderedDict()
        self._groups: Counter[str] = Counter()  # keys by the URL of their first worker
        self._ring = Ring()
        self._now = 0.0

    def choose(self, request: RequestFacts, candidates: Sequence[Worker], now: float) -> Choice:
        self._forget_idle(now)
        places = {worker.target: place for place, worker in enumerate(candidates)}
        in_flight = loads(candidates)
        keys = [self._groups[worker.target] for worker in candidates]
        key = request.routing_key or request.session_id
        if key is None:
            chosen, reason = self._assign(None, places, in_flight, keys), "no_key"
        else:
            chosen, reason = self._of_key(key, candidates, places, in_flight, keys, now)
        ranks: Ranks = keys if self._mode == "min_group" else in_flight
        return Choice(
            candidates[chosen],
            reason if len(candidates) > 1 else "only_candidate",
            {"in_flight": in_flight, "keys": keys},
            ranks,
        )

    def _of_key(
        self,
        key: str,
        candidates: Sequence[Worker],
        places: dict[str, int],
        in_flight: list[int],
        keys: list[int],
        now: float,
    ) -> tuple[int, str]:
        assigned = self._keys.get(key)
        if assigned is not None:
            assigned.used_at = now
            self._keys.move_to_end(key)
            for url in assigned.urls:
                if url in places:
                    return places[url], "sticky"
        chosen = self._assign(key, places, in_flight, keys)
        url = candidates[chosen].target
        if assigned is None:
            self._remember(key, url, now)
            return chosen, "assigned"
        self._leave(assigned.urls[0])
        assigned.urls = [*assigned.urls, url][-MOST_WORKERS:]
        self._groups[assigned.urls[0]] += 1
        return chosen, "reassigned"

    def _assign(
        self, key: str | None, places: dict[str, int], in_flight: list[int], keys: list[int]
    ) -> int:
        if self._mode == "min_load":
            return least(in_flight, self._random)
        if self._mode == "min_group":
            return least(keys, self._random)
        if key is None:
            return self._random.randrange(len(places))
        self._ring.cover(places)
        return next(places[url] for url in self._ring.walk(key_hash(key)) if url in places)

    def finished(self, trace: Trace, finished_at: float) -> None:
        key = trace.session_id
        if key is not None and key not in self._keys and trace.status == "completed":
            self._remember(key, target_of(trace), self._now)

    def _remember(self, key: str, url: str, now: float) -> None:
        if len(self._keys) >= MOST_KEYS:
            self._drop_oldest()
        self._keys[key] = Assigned([url], now)
        self._groups[url] += 1

    def _forget_idle(self, now: float) -> None:
        self._now = now
        keys = self._keys
        while keys and now - next(iter(keys.values())).used_at > self._idle_seconds:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, assigned = self._keys.popitem(last=False)
        self._leave(assigned.urls[0])

    def _leave(self, url: str) -> None:
        self._groups[url] -= 1
        if not self._groups[url]:
            del self._groups[url]
