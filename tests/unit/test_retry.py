"""When a failed attempt is repeated, after how long, and when not."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.retry import (
    RETRYABLE_STATUSES,
    Failure,
    GiveUp,
    Retry,
    RetryBudget,
    RetrySettings,
    Situation,
    backoff_seconds,
    next_move,
    parse_retry_after,
)
from router.errors import (
    BadRequest,
    ConnectFailed,
    FirstByteTimeout,
    IdleTimeout,
    StaleConnection,
    TotalTimeout,
    WorkerCut,
)

SETTINGS = RetrySettings(jitter_factor=0)
REFUSED = Failure(error=ConnectFailed("refused"))
CUT = Failure(error=WorkerCut("gone"))
STALE = Failure(error=StaleConnection("closed"))


def status(code: int, retry_after: float | None = None) -> Failure:
    return Failure(http_status=code, retry_after_seconds=retry_after)


def spent() -> RetryBudget:
    return RetryBudget(0, 0)


def move(
    failure: Failure,
    *,
    attempts: int = 1,
    others_left: bool = True,
    relayed: bool = False,
    repeatable: bool = True,
    remaining_seconds: float | None = None,
    settings: RetrySettings = SETTINGS,
    budget: RetryBudget | None = None,
) -> Retry | GiveUp:
    situation = Situation(attempts, others_left, relayed, repeatable, remaining_seconds)
    return next_move(failure, situation, settings, budget or RetryBudget(), Random(1), 0.0)


def test_nothing_is_retried_after_the_first_byte() -> None:
    for failure in (REFUSED, CUT, STALE, status(503)):
        assert move(failure, relayed=True) == GiveUp("started")


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_these_statuses_are_retried_as_by_sglang_router(code: int) -> None:
    assert move(status(code)) == Retry(0.05)


@pytest.mark.parametrize("code", [200, 301, 400, 401, 404, 413, 422, 501, 505, 507])
def test_any_other_answer_is_final(code: int) -> None:
    assert move(status(code)) == GiveUp("not_retryable")


@pytest.mark.parametrize("failure", [REFUSED, CUT, STALE])
def test_a_request_that_lost_its_worker_goes_to_another_at_once(failure: Failure) -> None:
    assert move(failure) == Retry(0)


@pytest.mark.parametrize(
    "error", [FirstByteTimeout("slow"), IdleTimeout("stalled"), TotalTimeout("t"), BadRequest("b")]
)
def test_a_request_that_ran_out_of_time_is_not_sent_again(error) -> None:
    assert move(Failure(error=error)) == GiveUp("not_retryable")


def test_five_attempts_are_made_in_all() -> None:
    assert move(status(500), attempts=4) == Retry(0.05 * 1.5**3)
    assert move(status(500), attempts=5) == GiveUp("attempts")
    assert move(REFUSED, attempts=5) == GiveUp("attempts")


def test_one_attempt_means_no_retry() -> None:
    once = RetrySettings(max_attempts=1)
    assert move(REFUSED, settings=once) == GiveUp("attempts")


def test_the_last_worker_left_is_tried_again_only_after_a_pause() -> None:
    assert move(REFUSED, others_left=False) == Retry(0.05)
    assert move(REFUSED, attempts=3, others_left=False) == Retry(0.05 * 1.5**2)


def test_pauses_grow_to_a_cap_and_never_overflow() -> None:
    assert [backoff_seconds(n, SETTINGS, Random(1)) for n in (1, 2, 3, 4)] == pytest.approx(
        [0.05, 0.075, 0.1125, 0.16875]
    )
    assert backoff_seconds(17, SETTINGS, Random(1)) == 30
    assert backoff_seconds(10**9, SETTINGS, Random(1)) == 30


@given(st.integers(1, 200), st.integers())
def test_jitter_stays_within_its_share(attempts: int, seed: int) -> None:
    plain = backoff_seconds(attempts, SETTINGS, Random(seed))
    jittered = backoff_seconds(attempts, RetrySettings(jitter_factor=0.2), Random(seed))
    assert plain * 0.8 <= jittered <= plain * 1.2


def test_jitter_is_drawn_anew_each_time() -> None:
    random = Random(1)
    assert len({backoff_seconds(1, RetrySettings(), random) for _ in range(20)}) == 20


def test_retry_after_is_honoured_where_the_same_worker_would_be_asked_again() -> None:
    assert move(status(503, 2), others_left=False) == Retry(2)
    assert move(status(429, 0), others_left=False) == Retry(0.05)


def test_retry_after_does_not_bind_another_worker() -> None:
    assert move(status(503, 2), others_left=True) == Retry(0.05)


def test_a_long_retry_after_is_left_to_the_client() -> None:
    assert move(status(429, 60), others_left=False) == GiveUp("wait")


def test_there_is_no_retry_that_would_begin_after_the_deadline() -> None:
    assert move(status(503, 2), others_left=False, remaining_seconds=1.9) == GiveUp("wait")
    assert move(status(503, 2), others_left=False, remaining_seconds=2.1) == Retry(2)
    assert move(REFUSED, remaining_seconds=0.0) == GiveUp("wait")


def test_a_request_that_is_not_known_to_be_repeatable_is_repeated_only_if_it_was_not_begun() -> (
    None
):
    for failure in (REFUSED, STALE, status(429), status(503)):
        assert isinstance(move(failure, repeatable=False), Retry)
    for failure in (CUT, status(408), status(500), status(502), status(504)):
        assert move(failure, repeatable=False) == GiveUp("not_repeatable")


def test_without_budget_only_failing_over_is_left() -> None:
    assert move(status(500), budget=spent()) == GiveUp("budget")
    assert move(CUT, others_left=False, budget=spent()) == GiveUp("budget")
    assert move(REFUSED, others_left=False, budget=spent()) == GiveUp("budget")
    assert move(REFUSED, attempts=3, budget=spent()) == Retry(0)
    assert move(CUT, attempts=1, budget=spent()) == Retry(0)
    assert move(CUT, attempts=2, budget=spent()) == GiveUp("budget")


def test_a_quiet_router_may_always_retry() -> None:
    budget = RetryBudget(ratio=0.2, min_per_second=1)
    budget.request(0)
    assert [budget.spend(0) for _ in range(11)] == [True] * 10 + [False]


def test_the_budget_is_a_share_of_recent_requests() -> None:
    budget = RetryBudget(ratio=0.2, min_per_second=0)
    for _ in range(100):
        budget.request(0.5)
    assert sum(budget.spend(0.6) for _ in range(100)) == 20
    assert repr(budget) == "<RetryBudget 20/20 spent>"
    for _ in range(10):
        budget.request(3)
    assert sum(budget.spend(3) for _ in range(100)) == 2


def test_after_ten_seconds_requests_and_retries_are_forgotten() -> None:
    budget = RetryBudget(ratio=0.5, min_per_second=0.1)
    for _ in range(10):
        budget.request(0)
    assert sum(budget.spend(9.9) for _ in range(10)) == 6
    assert not budget.spend(10)
    assert repr(budget) == "<RetryBudget 6/1 spent>"
    assert budget.spend(25)
    assert repr(budget) == "<RetryBudget 1/1 spent>"


@given(
    st.lists(st.tuples(st.floats(0, 4), st.booleans()), max_size=200),
    st.floats(0, 1),
    st.integers(0, 5),
)
def test_retries_never_exceed_their_share_of_any_ten_seconds(events, ratio, floor) -> None:
    budget = RetryBudget(ratio, floor)
    now = 1000.0
    requests: list[float] = []
    retries: list[float] = []
    for wait, is_request in events:
        now += wait
        second = int(now)
        held_requests = sum(int(t) > second - 10 for t in requests)
        held_retries = sum(int(t) > second - 10 for t in retries)
        if is_request:
            budget.request(now)
            requests.append(now)
        elif budget.spend(now):
            assert held_retries + 1 <= floor * 10 + ratio * held_requests
            retries.append(now)
        else:
            assert held_retries + 1 > floor * 10 + ratio * held_requests


ERRORS = st.sampled_from(
    [ConnectFailed, StaleConnection, WorkerCut, FirstByteTimeout, TotalTimeout]
)
FAILURES = st.one_of(
    st.builds(Failure, http_status=st.integers(200, 599), retry_after_seconds=st.none()),
    st.builds(
        Failure,
        http_status=st.sampled_from(sorted(RETRYABLE_STATUSES)),
        retry_after_seconds=st.floats(0, 1000),
    ),
    st.builds(Failure, error=ERRORS.map(lambda error: error("broken"))),
)


@given(
    failure=FAILURES,
    situation=st.builds(
        Situation,
        attempts=st.integers(1, 8),
        others_left=st.booleans(),
        relayed=st.booleans(),
        repeatable=st.booleans(),
        remaining_seconds=st.none() | st.floats(-1, 100),
    ),
    max_attempts=st.integers(1, 8),
    seed=st.integers(),
)
def test_whatever_happens_a_retry_keeps_all_promises(
    failure, situation, max_attempts, seed
) -> None:
    settings = RetrySettings(max_attempts=max_attempts)
    decision = next_move(failure, situation, settings, RetryBudget(), Random(seed), 0.0)
    if isinstance(decision, GiveUp):
        return
    assert not situation.relayed
    assert situation.attempts < max_attempts
    assert 0 <= decision.after_seconds <= settings.max_backoff_seconds * 1.2
    if situation.remaining_seconds is not None:
        assert decision.after_seconds < situation.remaining_seconds
    if failure.retry_after_seconds is not None and not situation.others_left:
        assert decision.after_seconds >= failure.retry_after_seconds
    if decision.after_seconds == 0:
        assert situation.others_left


@pytest.mark.parametrize("full_outage", [REFUSED, CUT, status(500), status(503)])
def test_an_outage_is_not_multiplied(full_outage: Failure) -> None:
    """Every worker fails: 1,000 requests cause a bounded number of attempts at each of 4 workers."""
    budget = RetryBudget()
    attempts_made = 0
    for _ in range(1000):
        budget.request(0)
        attempts = 0
        while True:
            attempts += 1
            attempts_made += 1
            situation = Situation(attempts, others_left=attempts < 4)
            decision = next_move(full_outage, situation, SETTINGS, budget, Random(1), 0.0)
            if isinstance(decision, GiveUp):
                break
    reached_a_worker = 0 if full_outage.unreached else attempts_made
    assert reached_a_worker <= 2 * 1000 + 300


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        (" 120 ", 120),
        ("99999999999999999999", 999999999),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 37),
        ("Sun, 06 Nov 1994 08:49:37", 37),
        ("Sun, 06 Nov 1994 08:40:37 GMT", 0),
        ("Sun, 06 Nov 99999999999999 08:49:37 GMT", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_a_count_of_seconds_or_a_date(value: str | None, seconds) -> None:
    assert parse_retry_after(value, unix_seconds=784111740) == seconds


@given(
    st.text(max_size=40) | st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ \d+:\d+:\d+ GMT")
)
def test_any_retry_after_is_a_wait_or_nothing(value: str) -> None:
    seconds = parse_retry_after(value, unix_seconds=784111740)
    assert seconds is None or seconds >= 0
