"""expected_ttft: how fast workers are is learned, and the quickest first token wins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.followers import ANEW, PRIOR, Followers
from router.core.followers import WINDOW as FOLLOWED
from router.core.prefill import ENOUGH, EVERY, PRIOR_TOKENS_PER_SECOND, WINDOW, PrefillRates
from tests.choosing import built, ended, fleet, picks, prompt, shown
from tracking.trace import EngineReport

LONG = "What the system is told at the start of every conversation. " * 70  # 4,200 bytes


def test_a_prefix_is_followed_while_the_line_before_it_is_shorter_than_computing_it_again() -> None:
    a, b = workers = fleet(0, 0)
    chooser = built("expected_ttft")
    home = chooser.choose(prompt(LONG), [a], 0.0)
    assert home.predicted_cached_tokens == 0
    for queued, chosen in ((0, a), (900, a), (1400, b)):  # the prompt has 1,050 tokens
        a.own_queued_tokens = queued
        fresh = built("expected_ttft")
        fresh.choose(prompt(LONG), [a], 0.0)
        choice = fresh.choose(prompt(LONG), workers, 0.0)
        assert (choice.worker, choice.reason) == (chosen, "least_expected_ttft")


def test_in_a_busy_fleet_what_has_to_be_computed_counts_more_than_a_longer_wait() -> None:
    home, other = workers = fleet(0, 0)
    chooser = built("expected_ttft")
    chooser.choose(prompt(LONG), [home], 0.0)
    home.own_queued_tokens, other.own_queued_tokens = 6800, 5000
    choice = chooser.choose(prompt(LONG), workers, 0.0)
    assert (choice.worker, choice.reason) == (other, "least_expected_ttft")

    chooser = built("expected_ttft")
    chooser.choose(prompt(LONG), [home], 0.0)
    for number in range(20):
        chooser.choose(prompt(f"{number} is new, too. " * 100), workers, 0.0)
    home.own_queued_tokens, other.own_queued_tokens = 8000, 5000
    choice = chooser.choose(prompt(LONG), workers, 0.0)
    assert (choice.worker, choice.reason) == (home, "spares_others")
    of_home, of_other = (candidate.numbers for candidate in shown(choice, workers).candidates)
    assert of_home["expected_ttft_seconds"] == of_home["cost_seconds"] == 0.8  # delays nobody
    assert of_other["expected_ttft_seconds"] == 0.605
    assert of_other["cost_seconds"] > 0.8


def test_what_waits_at_other_replicas_counts_as_much_as_our_own() -> None:
    a, b = workers = fleet(0, 0)
    a.heard(in_flight=0, queued_tokens=10)
    assert picks(built("expected_ttft"), workers, ["t"] * 5) == ["worker-1"] * 5
    b.own_queued_tokens = 11
    assert picks(built("expected_ttft"), workers, ["t"] * 5) == ["worker-0"] * 5


def test_a_slow_worker_gets_less_once_it_is_known_to_be_slow() -> None:
    workers = fleet(0, 0)
    chooser = built("expected_ttft")
    for _ in range(EVERY):
        chooser.finished(ended("worker-0", prefill_tokens=1000, ttft_seconds=1.0), 0.0)
        chooser.finished(ended("worker-1", prefill_tokens=1000, ttft_seconds=0.1), 0.0)
    workers[1].own_queued_tokens = 8 * 1050  # and still the first token comes sooner there
    choice = chooser.choose(prompt(LONG), workers, 0.0)
    assert choice.worker is workers[1]
    numbers = [candidate.numbers for candidate in shown(choice, workers).candidates]
    assert [each["prefill_rate"] for each in numbers] == [10_000, 1000]
    assert [each["expected_ttft_seconds"] for each in numbers] == [0.945, 1.05]
    workers[1].own_queued_tokens = 15 * 1050
    assert chooser.choose(prompt(LONG), workers, 0.0).worker is workers[0]


def test_the_engines_word_on_cached_tokens_corrects_what_was_computed() -> None:
    chooser = built("expected_ttft")
    for _ in range(EVERY):
        trace = ended(
            "worker-0",
            prefill_tokens=100,
            predicted_cached_tokens=900,
            cached_tokens=0,
            ttft_seconds=0.5,
        )
        chooser.finished(trace, 0.0)
    choice = chooser.choose(prompt(LONG), fleet(0), 0.0)
    assert choice.columns["prefill_rate"] == [2000]


def test_the_wait_for_admission_is_not_the_workers() -> None:
    chooser = built("expected_ttft")
    for _ in range(EVERY):
        trace = ended("worker-0", prefill_tokens=1000, ttft_seconds=3.0)
        trace.queue_seconds = 2.0
        chooser.finished(trace, 0.0)
    assert chooser.choose(prompt(LONG), fleet(0), 0.0).columns["prefill_rate"] == [1000]


@pytest.mark.parametrize(
    "said",
    [
        EngineReport(e2e_latency=9.0, first_token_latency=2.0),
        EngineReport(queue_time=1.5, prefill_seconds=0.5),
    ],
)
def test_of_an_answer_in_one_piece_the_engine_knows_when_the_first_token_was(
    said: EngineReport,
) -> None:
    chooser = built("expected_ttft")
    for _ in range(EVERY):
        trace = ended("worker-0", prefill_tokens=1000, duration_seconds=9.0)
        chooser.finished(trace, 0.0)  # says nothing: it holds the decoding, too
        trace.engine = said
        chooser.finished(trace, 0.0)
    assert chooser.choose(prompt(LONG), fleet(0), 0.0).columns["prefill_rate"] == [500]


def test_times_that_differ_by_less_than_they_are_known_count_as_equal() -> None:
    workers = fleet(0, 0, 0, 0)
    chooser = built("expected_ttft")
    for number, worker in enumerate(workers):
        for _ in range(EVERY):
            seconds = 1.0 + number / 100  # the last is 3 % slower than the first
            chooser.finished(ended(worker.node_id, prefill_tokens=1000, ttft_seconds=seconds), 0.0)
    chosen = Counter(picks(chooser, workers, [f"{i} is new" * 20 for i in range(80)]))
    assert min(chosen[worker.node_id] for worker in workers) >= 8


def test_of_equal_ones_the_less_loaded_of_two_is_taken() -> None:
    workers = fleet(2, 1, 1, 1)
    chosen = Counter(picks(built("expected_ttft"), workers, [f"{i} is new" for i in range(90)]))
    assert set(chosen) == {"worker-1", "worker-2", "worker-3"}
    assert min(chosen.values()) >= 15


def test_a_cached_prefix_cannot_draw_a_worker_over_both_thresholds() -> None:
    home, other = workers = fleet(0, 0)
    chooser = built("expected_ttft")
    chooser.choose(prompt(LONG), [home], 0.0)
    home.in_flight = 64
    assert chooser.choose(prompt(LONG), workers, 0.0).worker is home
    home.in_flight = 65
    choice = chooser.choose(prompt(LONG), workers, 0.0)
    assert (choice.worker, choice.reason) == (other, "imbalanced")
    assert shown(choice, workers).regret_tokens == 1050  # all of it was cached elsewhere


def test_a_removed_worker_is_forgotten_with_its_rate() -> None:
    chooser = built("expected_ttft")
    for _ in range(EVERY):
        chooser.finished(ended("worker-0", prefill_tokens=1000, ttft_seconds=1.0), 0.0)
    chooser.forget("worker-0")
    for _ in range(EVERY):
        chooser.finished(ended("worker-1", prefill_tokens=1000, ttft_seconds=0.5), 0.0)
    # The fleet's rate stands in where a worker has none of its own.
    assert chooser.choose(prompt(LONG), fleet(0, 0), 0.0).columns["prefill_rate"] == [2000, 2000]


# -- followers ------------------------------------------------------------------------------------


def per_second(followers: Followers, nodes: Sequence[str], rate: float) -> list[float]:
    return [rate * share for share in followers.per_token(nodes, [rate] * len(nodes), rate)]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5000)), max_size=3 * FOLLOWED))
def test_the_requests_that_come_to_all_workers_are_their_busy_time_by_the_work_of_one(
    chosen: list[tuple[int, int]],
) -> None:
    followers = Followers()
    for number, tokens in chosen:
        followers.chosen(f"worker-{number}", tokens, busy=0.5)
    lately = [tokens for _, tokens in chosen[-FOLLOWED:]]
    known = len(lately) / (len(lately) + PRIOR)  # of what is not known we think that it is idle
    expected = 10 * known * 0.5 * 1000 * len(lately) / sum(lately) if any(lately) else 0
    nodes = [f"worker-{number}" for number in range(10)]
    assert sum(per_second(followers, nodes, rate=1000)) == pytest.approx(expected)


def test_more_requests_come_to_a_worker_that_was_given_more_work_and_old_work_is_forgotten() -> (
    None
):
    followers = Followers()
    for _ in range(FOLLOWED):
        followers.chosen("worker-0", 1000, busy=1.0)
    busy, idle = per_second(followers, ["worker-0", "worker-1"], rate=1000)
    assert busy > 10 * idle
    for number in range(FOLLOWED):
        followers.chosen(f"worker-{number % 2}", 1000, busy=1.0)
    busy, idle = per_second(followers, ["worker-0", "worker-1"], rate=1000)
    assert busy == pytest.approx(idle)


def test_a_few_choices_later_they_are_worked_out_anew() -> None:
    followers, nodes, rates = Followers(), ["worker-0", "worker-1"], [1000.0, 2000.0]
    for _ in range(FOLLOWED):
        followers.chosen("worker-0", 1000, busy=1.0)
    before = followers.per_token(nodes, rates, 1500)
    for _ in range(FOLLOWED // ANEW):
        followers.chosen("worker-1", 1000, busy=1.0)
    later = followers.per_token(nodes, rates, 1500)
    assert later != before
    assert later == followers.per_token(nodes, [*rates], 1500)


# -- rates -----------------------------------------------------------------------------------------


def test_before_anything_is_known_all_have_one_rate() -> None:
    rates = PrefillRates()
    for _ in range(ENOUGH - 1):
        rates.observe("a", 100, 1.0)
    assert (rates.rates, rates.fleet) == ({}, PRIOR_TOKENS_PER_SECOND)


@given(wild=st.lists(st.floats(1e-6, 1e6), max_size=WINDOW // 2 - EVERY))
def test_wild_samples_do_not_move_a_rate(wild: list[float]) -> None:
    rates = PrefillRates()
    for seconds in wild:
        rates.observe("a", 1000, seconds)
    for _ in range(WINDOW - len(wild)):
        rates.observe("a", 1000, 0.5)
    assert rates.rates["a"] == 2000


def test_short_prompts_do_not_hide_how_fast_long_ones_are_computed() -> None:
    rates = PrefillRates()
    for _ in range(WINDOW // 2):
        rates.observe("a", 20, 0.05)  # the way there and back
        rates.observe("a", 8000, 0.85)
    assert rates.rates["a"] == pytest.approx(8000 / 0.85, abs=0.1)


def test_a_worker_that_became_slow_is_known_to_be_slow() -> None:
    rates = PrefillRates()
    for seconds in [0.1] * WINDOW + [1.0] * WINDOW:
        rates.observe("a", 1000, seconds)
    assert rates.rates["a"] == 1000


def test_samples_without_sense_are_left_out() -> None:
    rates = PrefillRates()
    for tokens, seconds in ((0, 1.0), (-5, 1.0), (100, 0.0), (100, -1.0)):
        for _ in range(EVERY):
            rates.observe("a", tokens, seconds)
    assert rates.rates == {}
