"""What the other replicas have in flight at each worker: as last heard, and how far to trust it.

Every replica tells its whole share again and again; a share replaces the one before it. Nothing is
counted up and down over the network, so nothing can drift, and a replica that died is simply no
longer among the shares.

When nothing is heard, because Redis is slow or gone, the last figures hold for a while: a fleet
does not go idle because we cannot see it. Then they fade, evenly, until only our own requests
count. All times are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from tracking.trace import DecisionQuality

FRESH_SECONDS: Final = 0.5  # figures no older than this are as good as exact
SILENCE_SECONDS: Final = 2.5  # of the store, behind which there may be others
KEPT_SECONDS: Final = 3.0  # the lease: until then the others may well be as they were
FADING_SECONDS: Final = 30.0
NOTHING: Final = (0, 0)

Requests = Mapping[int, tuple[int, int]]
"""Digest of a worker's URL -> requests in flight, uncached input tokens queued."""


class Share(NamedTuple):
    """What one other replica has at all workers, true at `as_of`."""

    as_of: float
    requests: Requests


class SharedLoad:
    """The others' shares. A router that shares nothing never calls `expect` and is always exact."""

    def __init__(self) -> None:
        self._shares: Mapping[str, Share] = {}
        self._oldest: float | None = None
        self._sharing = False
        self._heard_at: float | None = None

    def expect(self) -> None:
        """There may be others; until we hear of them we know only a part."""
        self._sharing = True

    def heard(self, shares: Mapping[str, Share], now: float) -> None:
        """All other live replicas, by name; those of before are forgotten."""
        self._sharing = True
        self._shares = shares
        self._oldest = min((share.as_of for share in shares.values()), default=None)
        self._heard_at = now

    @property
    def replicas(self) -> int:
        """How many others there were when last heard."""
        return len(self._shares)

    def age_seconds(self, now: float) -> float:
        """Age of the oldest of the others' figures; 0 where there are none."""
        return 0.0 if self._oldest is None else max(0.0, now - self._oldest)

    def quality(self, now: float) -> DecisionQuality:
        """`exact`, or `degraded` when the figures of any replica are old or unknown."""
        if not self._sharing:
            return "exact"
        if self._heard_at is None or now - self._heard_at > SILENCE_SECONDS:
            return "degraded"
        return "exact" if self.age_seconds(now) <= FRESH_SECONDS else "degraded"

    def totals(self, now: float) -> dict[int, tuple[int, int]]:
        """The others' requests and queued tokens together, by worker, faded where they are old."""
        totals: dict[int, tuple[int, int]] = {}
        for as_of, share in self._shares.values():
            weight = trust(now - as_of)
            for digest, (in_flight, queued) in share.items():
                if weight < 1.0:
                    in_flight, queued = round(weight * in_flight), round(weight * queued)
                requests, tokens = totals.get(digest, NOTHING)
                totals[digest] = (requests + in_flight, tokens + queued)
        return totals


def trust(age_seconds: float) -> float:
    """How much of a figure of this age still counts, 1 to 0."""
    return min(1.0, max(0.0, 1.0 - (age_seconds - KEPT_SECONDS) / FADING_SECONDS))
