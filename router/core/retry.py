"""What to do after a failed attempt: try again, when, or give up and why.

Rules, in the order they are asked:

1. Nothing is retried once a byte of an answer has gone to the client.
2. Only failures that another try can mend: no connection, a connection lost before an answer, and
   the statuses 408, 429, 500, 502, 503, 504 (those of sglang-router). When attempts run out, the
   last answer is passed through.
3. Repeating must be harmless. Generating text is: it changes nothing at a worker but its cache,
   nobody has seen the lost answer, and the client pays once. So a request that was sent whole and
   then lost is repeated. What is not known to be generation (an unknown POST passed through) is
   repeated only when the worker cannot have acted on it.
4. Another worker goes first, at once where the worker could not be reached. To the same worker
   (the last one left) only after a pause: back-off with jitter, or the worker's own `Retry-After`.
5. A budget keeps retries from multiplying an outage. Failing over is not what multiplies it: a
   request that never reached a worker has cost the fleet nothing, and one that died with its
   worker moves once to another. Everything else spends from the budget.
"""

from __future__ import annotations

from email.utils import mktime_tz, parsedate_tz
from random import Random
from typing import Final, Literal, NamedTuple

import msgspec

from router.errors import ConnectFailed, RouterError, StaleConnection

RETRYABLE_STATUSES: Final = frozenset((408, 429, 500, 502, 503, 504))
BUDGET_SECONDS: Final = 10
REFUSED_STATUSES: Final = frozenset((429, 503))  # the worker says that it did not begin

GiveUpReason = Literal["started", "not_retryable", "not_repeatable", "attempts", "wait", "budget"]


class RetrySettings(msgspec.Struct, frozen=True, kw_only=True):
    """`--retry-*`. `max_attempts` counts the first one; `jitter_factor` is a share of the pause.

    A `Retry-After` beyond `max_retry_after_seconds` is not waited for: the answer goes to the
    client, who can decide better.
    """

    max_attempts: int = 5
    initial_backoff_seconds: float = 0.05
    max_backoff_seconds: float = 30.0
    backoff_multiplier: float = 1.5
    jitter_factor: float = 0.2
    max_retry_after_seconds: float = 5.0


class Failure(NamedTuple):
    """How an attempt failed: with an answer (`http_status`) or without one (`error`)."""

    http_status: int | None = None
    error: RouterError | None = None
    retry_after_seconds: float | None = None

    @property
    def unreached(self) -> bool:
        """The worker never saw the request."""
        return isinstance(self.error, ConnectFailed | StaleConnection)


class Situation(NamedTuple):
    """Where the request stands after the failure.

    `attempts` were made, the failed one included. `others_left`: an available worker was not tried
    yet. `remaining_seconds` until the request's deadline, None without one.
    """

    attempts: int
    others_left: bool
    relayed: bool = False
    repeatable: bool = True
    remaining_seconds: float | None = None


class Retry(NamedTuple):
    """Try again after this pause (0: at once)."""

    after_seconds: float


class GiveUp(NamedTuple):
    """Answer the client with what there is."""

    reason: GiveUpReason


class RetryBudget:
    """Retries may be a share of the requests of the last ten seconds, plus a few per second.

    The share bounds the extra load of a busy router in an outage; the few per second keep a quiet
    one able to retry at all. Counted in a ring of seconds, so that a burst and a trickle of the
    same size are judged the same. (Finagle's RetryBudget and its figures.)
    """

    __slots__ = (
        "_floor",
        "_ratio",
        "_requests",
        "_requests_sum",
        "_retries",
        "_retries_sum",
        "_second",
        "_slot",
    )

    def __init__(self, ratio: float = 0.2, min_per_second: float = 10.0) -> None:
        self._ratio = ratio
        self._floor = min_per_second * BUDGET_SECONDS
        self._requests = [0] * BUDGET_SECONDS
        self._retries = [0] * BUDGET_SECONDS
        self._requests_sum = self._retries_sum = 0
        self._second = self._slot = 0  # the last that was counted, and its place in the rings

    def request(self, now: float) -> None:
        """A request arrived."""
        second = int(now)
        if second != self._second:
            self._advance(second)
        self._requests[self._slot] += 1
        self._requests_sum += 1

    def spend(self, now: float) -> bool:
        """Take one retry out of the budget; False when it is exhausted."""
        second = int(now)
        if second != self._second:
            self._advance(second)
        if self._retries_sum + 1 > self._floor + self._ratio * self._requests_sum:
            return False
        self._retries[self._slot] += 1
        self._retries_sum += 1
        return True

    def _advance(self, second: int) -> None:
        for passed in range(max(self._second + 1, second - BUDGET_SECONDS + 1), second + 1):
            slot = passed % BUDGET_SECONDS
            self._requests_sum -= self._requests[slot]
            self._retries_sum -= self._retries[slot]
            self._requests[slot] = self._retries[slot] = 0
        self._second, self._slot = second, second % BUDGET_SECONDS

    def __repr__(self) -> str:
        allowed = self._floor + self._ratio * self._requests_sum
        return f"<RetryBudget {self._retries_sum}/{allowed:g} spent>"


def next_move(
    failure: Failure,
    situation: Situation,
    settings: RetrySettings,
    budget: RetryBudget,
    random: Random,
    now: float,
) -> Retry | GiveUp:
    """The decision, by the rules above. Spends from `budget` where it says Retry."""
    if situation.relayed:
        return GiveUp("started")
    if not retryable(failure):
        return GiveUp("not_retryable")
    if not _harmless(failure, situation):
        return GiveUp("not_repeatable")
    if situation.attempts >= settings.max_attempts:
        return GiveUp("attempts")
    pause = _pause(failure, situation, settings, random)
    if pause is None or _too_late(pause, situation):
        return GiveUp("wait")
    if not _is_failover(failure, situation) and not budget.spend(now):
        return GiveUp("budget")
    return Retry(pause)


def retryable(failure: Failure) -> bool:
    """Can another try mend it?"""
    if failure.error is not None:
        return failure.error.retry_safe
    return failure.http_status in RETRYABLE_STATUSES


def _harmless(failure: Failure, situation: Situation) -> bool:
    not_begun = failure.unreached or failure.http_status in REFUSED_STATUSES
    return not_begun or situation.repeatable


def _pause(
    failure: Failure, situation: Situation, settings: RetrySettings, random: Random
) -> float | None:
    """Seconds to wait; None where the worker asks for longer than we are ready to wait."""
    if situation.others_left and failure.error is not None:
        return 0.0
    pause = backoff_seconds(situation.attempts, settings, random)
    if situation.others_left or failure.retry_after_seconds is None:
        return pause
    if failure.retry_after_seconds > settings.max_retry_after_seconds:
        return None
    return max(pause, failure.retry_after_seconds)


def backoff_seconds(attempts: int, settings: RetrySettings, random: Random) -> float:
    """The pause after `attempts` attempts: initial × multiplier^(n-1), capped, ± jitter."""
    try:
        pause = settings.initial_backoff_seconds * settings.backoff_multiplier ** (attempts - 1)
    except OverflowError:
        pause = settings.max_backoff_seconds
    pause = min(pause, settings.max_backoff_seconds)
    return pause * (1 + random.uniform(-settings.jitter_factor, settings.jitter_factor))


def _too_late(pause: float, situation: Situation) -> bool:
    return situation.remaining_seconds is not None and pause >= situation.remaining_seconds


def _is_failover(failure: Failure, situation: Situation) -> bool:
    if not situation.others_left or failure.error is None:
        return False
    return failure.unreached or situation.attempts == 1


def parse_retry_after(value: str | None, unix_seconds: float) -> float | None:
    """Seconds asked for by a `Retry-After` header: a count, or an HTTP date; None if neither.

    `unix_seconds` is the wall time now.
    """
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        date = parsedate_tz(value)
        # An HTTP date is in GMT; without that word the parser would take it for local time.
        return None if date is None else max(0.0, mktime_tz((*date[:9], 0)) - unix_seconds)
    except (ValueError, OverflowError):  # no such date
        return None
