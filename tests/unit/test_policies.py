"""What holds for every policy, and each policy as a story of three workers."""

from __future__ import annotations

import pickle
from collections import Counter
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.worker import Worker
from router.policies import REGISTRY, PolicyConfig, UnknownPolicy, build_policy
from router.policies.base import policy
from router.policies.receipt import receipt
from tests.choosing import built, fleet, picks, prompt

EVERY = sorted(REGISTRY)
SYSTEM = "You are a careful assistant who answers in few words. " * 10


# -- every policy ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
@given(
    rounds=st.lists(
        st.tuples(
            st.lists(st.integers(0, 5), min_size=1, max_size=5, unique=True), st.text(max_size=200)
        ),
        max_size=15,
    ),
    loads=st.lists(st.integers(0, 300), min_size=6, max_size=6),
    seed=st.integers(0, 2**32),
    limit=st.none() | st.integers(1, 9),
)
def test_any_candidates_give_one_of_them_and_a_receipt_that_names_it(
    name, rounds, loads, seed, limit
):
    workers, chooser = fleet(*loads), built(name, seed)
    for members, text in rounds:
        candidates = [workers[i] for i in members]
        request = prompt(text)
        choice = chooser.choose(request, candidates, 0.0)
        decision = receipt(choice, candidates, policy=name, decision_seconds=1e-5, limit=limit)
        assert choice.worker in candidates
        assert [shown.node_id for shown in decision.candidates if shown.chosen] == [
            choice.worker.node_id
        ]
        assert decision.candidates[0].chosen
        assert decision.candidate_count == len(candidates)
        assert len(decision.candidates) == min(len(candidates), limit or len(candidates))
        for shown in decision.candidates:
            by_id = next(worker for worker in candidates if worker.node_id == shown.node_id)
            assert shown.worker_url == by_id.url
            assert shown.numbers["in_flight"] == by_id.in_flight
        assert (decision.reason == "only_candidate") == (len(candidates) == 1)
        if choice.predicted_cached_tokens is not None and choice.predicted_hit_rate is not None:
            assert 0 <= choice.predicted_cached_tokens <= request.input_tokens
            assert 0 <= choice.predicted_hit_rate <= 1
        msgspec.json.encode(decision)


@pytest.mark.parametrize("name", EVERY)
def test_the_same_seed_makes_the_same_choices(name):
    texts = [f"{SYSTEM}{number % 7}" * 3 for number in range(50)]
    runs = [picks(built(name, seed=7), fleet(1, 1, 1, 0, 0), texts) for _ in range(2)]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("name", EVERY)
def test_a_cold_and_idle_fleet_is_used_from_end_to_end(name):
    workers = fleet(0, 0, 0)
    chosen = Counter(picks(built(name), workers, [f"{i} is new" * 20 for i in range(60)]))
    assert set(chosen) == {worker.node_id for worker in workers}
    assert min(chosen.values()) >= 8


@pytest.mark.parametrize("name", EVERY)
def test_a_policy_remembers_no_more_than_its_bound(name):
    chooser = built(name, max_tree_size=50_000)
    for number in range(3000):
        workers = [Worker("http://10.0.0.1:30000", f"pod-{number}-{i}") for i in range(2)]
        chosen = chooser.choose(prompt(f"{number} " * 200), workers, 0.0)
        chooser.forget(chosen.worker.node_id)
    assert chooser.prefixes is None or chooser.prefixes.bytes_used <= 50_000
    assert len(pickle.dumps(chooser)) < 100_000


def test_a_receipt_shows_the_best_of_the_others():
    workers = fleet(9, 1, 8, 2, 7, 3, 6, 4, 5, 0)
    choice = built("shortest_queue").choose(prompt("a"), workers, 0.0)
    decision = receipt(choice, workers, policy="shortest_queue", decision_seconds=0.0, limit=8)
    shown = [candidate.numbers["in_flight"] for candidate in decision.candidates]
    assert shown == [0, 1, 2, 3, 4, 5, 6, 7]
    assert (decision.quality, decision.load_age_seconds) == ("exact", 0.0)


def test_a_receipt_keeps_the_numbers_of_its_moment():
    workers = fleet(0, 1)
    choice = built("shortest_queue").choose(prompt("a"), workers, 0.0)
    workers[0].start()
    decision = receipt(choice, workers, policy="p", decision_seconds=0.0, limit=8)
    assert decision.candidates[0].numbers == {"in_flight": 0}


def test_an_unknown_policy_is_refused_with_the_names_of_all():
    with pytest.raises(UnknownPolicy) as caught:
        build_policy("best", PolicyConfig(), Random(1))
    assert all(name in str(caught.value) for name in ("'best'", *EVERY))


def test_two_policies_cannot_have_one_name():
    with pytest.raises(ValueError, match="two policies are named 'random'"):
        policy("random")(REGISTRY["random"])  # type: ignore[arg-type]


# -- random ----------------------------------------------------------------------------------------


def test_random_uses_whoever_is_there():
    a, b, c = fleet(0, 0, 0)
    chooser = built("random")
    assert set(picks(chooser, [a, b, c], ["t"] * 50)) == {"worker-0", "worker-1", "worker-2"}
    assert set(picks(chooser, [a, c], ["t"] * 50)) == {"worker-0", "worker-2"}


# -- round robin -----------------------------------------------------------------------------------


def test_round_robin_gives_turns_and_a_returning_worker_waits_for_nobody_twice():
    a, b, c = fleet(0, 0, 0)
    chooser = built("round_robin")
    assert picks(chooser, [a, b, c], ["t"] * 4) == ["worker-0", "worker-1", "worker-2", "worker-0"]
    assert picks(chooser, [a, c], ["t"] * 4) == ["worker-2", "worker-0", "worker-2", "worker-0"]
    assert picks(chooser, [a, b, c], ["t"] * 4) == ["worker-1", "worker-2", "worker-0", "worker-1"]


def test_round_robin_is_fair_when_the_list_changes_with_every_request():
    workers = fleet(0, 0, 0, 0)
    chooser = built("round_robin")
    chosen: Counter[str] = Counter()
    for number in range(400):
        away = workers[number % 2]  # the first two take turns in being away
        chosen.update(picks(chooser, [w for w in workers if w is not away], ["t"]))
    assert max(chosen.values()) - min(chosen.values()) <= 2


# -- power of two ----------------------------------------------------------------------------------


def test_power_of_two_never_takes_the_most_loaded_of_three():
    a, b, c = fleet(1, 5, 2)
    chooser = built("power_of_two")
    assert set(picks(chooser, [a, b, c], ["t"] * 60)) == {"worker-0", "worker-2"}
    assert set(picks(chooser, [b, c], ["t"] * 20)) == {"worker-2"}
    assert set(picks(chooser, [b], ["t"])) == {"worker-1"}


def test_power_of_two_shows_which_two_it_drew():
    workers = fleet(0, 3, 6, 9)
    choice = built("power_of_two").choose(prompt("t"), workers, 0.0)
    decision = receipt(choice, workers, policy="power_of_two", decision_seconds=0.0, limit=None)
    assert [shown.numbers["drawn"] for shown in decision.candidates] == [1, 1, 0, 0]
    assert choice.reason == "two_choices"


# -- shortest queue --------------------------------------------------------------------------------


def test_shortest_queue_takes_the_least_loaded_of_those_there():
    a, b, c = fleet(2, 1, 3)
    chooser = built("shortest_queue")
    assert picks(chooser, [a, b, c], ["t"]) == ["worker-1"]
    assert picks(chooser, [a, c], ["t"]) == ["worker-0"]
    b.in_flight = 9
    assert picks(chooser, [a, b, c], ["t"]) == ["worker-0"]


# -- cache aware -----------------------------------------------------------------------------------

LONG = SYSTEM * 4


def test_cache_aware_sends_a_conversation_back_to_where_it_began():
    workers = fleet(0, 0, 0)
    chooser = built("cache_aware")
    first = chooser.choose(prompt(LONG), workers, 0.0)
    assert (first.reason, first.predicted_cached_tokens) == ("least_loaded", 0)
    for more in ("", " and", " and then", " and then?"):
        again = chooser.choose(prompt(LONG + more), workers, 0.0)
        assert (again.worker, again.reason) == (first.worker, "prefix_match")
        assert again.predicted_hit_rate == pytest.approx(1, abs=0.1)
        assert again.predicted_cached_tokens == pytest.approx(len(LONG) / 4, rel=0.1)


def test_cache_aware_keeps_the_affinity_of_a_worker_that_was_away():
    workers = fleet(0, 0, 0)
    chooser = built("cache_aware")
    home = chooser.choose(prompt(LONG), workers, 0.0).worker
    others = [worker for worker in workers if worker is not home]
    other_prompts = [f"something else {i} " * 50 for i in range(5)]
    picks(chooser, others, other_prompts)  # while it is away, others go elsewhere
    assert chooser.choose(prompt(LONG), workers, 0.0).worker is home


def test_cache_aware_serves_a_prompt_elsewhere_while_its_worker_is_away_and_both_then_have_it():
    workers = fleet(0, 0, 0)
    chooser = built("cache_aware")
    home = chooser.choose(prompt(LONG), workers, 0.0).worker
    others = [worker for worker in workers if worker is not home]
    substitute = chooser.choose(prompt(LONG), others, 0.0).worker
    home.in_flight = 5
    back = chooser.choose(prompt(LONG), workers, 0.0)
    assert (back.worker, back.reason) == (substitute, "prefix_match")
    home.in_flight, substitute.in_flight = 0, 5
    assert chooser.choose(prompt(LONG), workers, 0.0).worker is home


def test_cache_aware_forgets_a_worker_that_was_removed():
    workers = fleet(0, 0, 0)
    chooser = built("cache_aware")
    home = chooser.choose(prompt(LONG), workers, 0.0).worker
    chooser.forget(home.node_id)
    assert chooser.choose(prompt(LONG), workers, 0.0).reason == "least_loaded"


def test_cache_aware_prefers_the_longest_prefix():
    a, b, c = fleet(0, 0, 0)
    chooser = built("cache_aware")
    chooser.choose(prompt(LONG), [a], 0.0)
    chooser.choose(prompt(LONG + "more " * 200), [b], 0.0)
    choice = chooser.choose(prompt(LONG + "more " * 220), [a, b, c], 0.0)
    assert (choice.worker, choice.reason) == (b, "prefix_match")
    shown = receipt(choice, [a, b, c], policy="p", decision_seconds=0.0, limit=None).candidates
    assert [candidate.node_id for candidate in shown] == ["worker-1", "worker-0", "worker-2"]
    assert [candidate.numbers["prefix_match"] for candidate in shown] == sorted(
        (candidate.numbers["prefix_match"] for candidate in shown), reverse=True
    )


def test_cache_aware_takes_a_match_only_above_its_threshold():
    # 1,024 of 2,048 bytes are known: the end of a block, so the match is exactly a half.
    known, new = "k" * 1024, "n" * 1024
    for threshold, reason in ((0.5, "least_loaded"), (0.49, "prefix_match"), (0.0, "prefix_match")):
        chooser, workers = built("cache_aware", cache_threshold=threshold), fleet(0, 0, 0)
        chooser.choose(prompt(known), workers[:1], 0.0)
        choice = chooser.choose(prompt(known + new), workers, 0.0)
        assert choice.reason == reason
        matches = choice.columns["prefix_match"]
        assert sorted(matches[i] or 0.0 for i in range(3)) == [0.0, 0.0, 0.5]


def test_a_short_prompt_that_comes_again_is_recognised():
    workers = fleet(0, 0, 0)
    chooser = built("cache_aware")
    home = chooser.choose(prompt("hi"), workers, 0.0).worker
    assert all(chooser.choose(prompt("hi"), workers, 0.0).worker is home for _ in range(20))


@pytest.mark.parametrize(
    ("loads", "settings", "reason"),
    [
        ((64, 0, 0), {}, "prefix_match"),  # 64 more is not more than 64
        ((65, 0, 0), {}, "imbalanced"),
        ((165, 110, 110), {}, "prefix_match"),  # 1.5 times is not more than 1.5 times
        ((166, 110, 110), {}, "prefix_match"),  # 56 more is not enough, whatever the ratio
        ((300, 230, 230), {}, "prefix_match"),  # 70 more is not enough at this ratio
        ((1, 0, 0), {"balance_abs_threshold": 0}, "imbalanced"),
        ((0, 0, 0), {"balance_abs_threshold": 0}, "prefix_match"),
        ((3, 2, 2), {"balance_abs_threshold": 0}, "prefix_match"),
    ],
)
def test_cache_aware_leaves_the_prefix_only_when_both_thresholds_are_exceeded(
    loads, settings, reason
):
    chooser, workers = built("cache_aware", **settings), fleet(*loads)
    chooser.choose(prompt(LONG), workers[:1], 0.0)
    choice = chooser.choose(prompt(LONG), workers, 0.0)
    assert choice.reason == reason
    assert (choice.worker is workers[0]) == (reason == "prefix_match")


def test_cache_aware_spills_to_another_holder_before_it_leaves_the_prefix():
    hot, second, third, cold = fleet(200, 20, 10, 0)
    chooser = built("cache_aware")
    for holder in (hot, second, third):
        chooser.choose(prompt(LONG), [holder], 0.0)
    choice = chooser.choose(prompt(LONG), [hot, second, third, cold], 0.0)
    assert (choice.worker, choice.reason) == (third, "prefix_spill")
    second.in_flight = third.in_flight = 90
    choice = chooser.choose(prompt(LONG), [hot, second, third, cold], 0.0)
    assert (choice.worker, choice.reason) == (cold, "imbalanced")


def test_cache_aware_computes_what_a_cache_has_dropped_where_it_was_unless_others_have_less_to_do():
    home, other = fleet(3, 0)
    chooser = built("cache_aware")
    assert chooser.prefixes is not None
    chooser.choose(prompt(LONG), [home], 0.0)
    for _ in range(8):  # reports of misses of what is younger than this prompt is now
        chooser.prefixes.evictions.reported("somebody", [(1, 8)], 8)
    chooser.choose(prompt("something else " * 300), [other], 0.0)
    choice = chooser.choose(prompt(LONG), [home, other], 0.0)
    assert (choice.worker, choice.reason) == (home, "prefix_dropped")
    assert choice.predicted_hit_rate is not None and choice.predicted_hit_rate < 0.3
    home.in_flight = 5
    chooser.choose(prompt("something else " * 300), [other], 0.0)
    choice = chooser.choose(prompt(LONG), [home, other], 0.0)
    assert (choice.worker, choice.reason) == (other, "least_loaded")


def test_cache_aware_remembers_where_it_sent_what_it_could_not_send_home():
    hot, cold = fleet(200, 0)
    chooser = built("cache_aware")
    chooser.choose(prompt(LONG), [hot], 0.0)
    assert chooser.choose(prompt(LONG), [hot, cold], 0.0).reason == "imbalanced"
    assert chooser.choose(prompt(LONG), [hot, cold], 0.0).reason == "prefix_spill"


def test_cache_aware_keeps_models_apart():
    workers = fleet(0, 0, 0)
    chooser = built("cache_aware")
    chooser.choose(prompt(LONG, "a"), workers, 0.0)
    assert chooser.choose(prompt(LONG, "b"), workers, 0.0).reason == "least_loaded"
    assert chooser.choose(prompt(LONG, "a"), workers, 0.0).reason == "prefix_match"


def test_cache_aware_predicts_nothing_for_a_request_without_text():
    choice = built("cache_aware").choose(prompt(""), fleet(1, 0), 0.0)
    assert (choice.worker.node_id, choice.reason) == ("worker-1", "least_loaded")
    assert (choice.predicted_cached_tokens, choice.predicted_hit_rate) == (None, None)
