"""marginal_utility: the numbers of the research policy, worked out by hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.decision_csv import DecisionCsv
from router.flags import ConfigError
from router.policies import Policy
from router.policies.marginal_utility import NEEDED, WINDOW, Sample, Utility, utility
from tests.choosing import built, ended, fleet, picks, prompt, shown


def finish(chooser: Policy, node: str, at: float, tokens: int = 100, latency: float = 1.0) -> None:
    trace = ended(node, input_tokens=tokens - 10, output_tokens=10, e2e_latency=latency)
    chooser.finished(trace, at)


def steady(chooser: Policy, node: str, count: int = NEEDED) -> None:
    for number in range(count):
        finish(chooser, node, float(number))


def numbers(chooser: Policy) -> dict[str, float]:
    """What the receipt of the only worker shows."""
    workers = fleet(0)
    return shown(chooser.choose(prompt("t"), workers, 0.0), workers).candidates[0].numbers


def test_gradients_and_score_are_those_of_the_definition() -> None:
    # Five requests a second apart, then five half a second apart and slower.
    earlier = [Sample(float(at), 100, 1.0) for at in range(5)]
    later = [Sample(4.0 + at / 2, 100, 1.5) for at in range(1, 6)]
    found = utility([*earlier, *later])
    throughput = (500 / 2.0 - 500 / 4.0) / 2.5  # of the halves; last finishes 6.5 and 4.0
    latency = (1.5 - 1.0) / 2.5
    assert found.throughput_gradient == pytest.approx(throughput)
    assert found.latency_gradient == pytest.approx(latency)
    assert found.score == pytest.approx(0.6 * throughput - 0.4 * latency)
    assert found.avg_throughput == pytest.approx(1000 / 6.5)
    assert found.avg_latency == pytest.approx(1.25)
    assert found.window_size == 10


def test_an_odd_window_has_the_smaller_half_first() -> None:
    samples = [Sample(float(at), 100, 1.0) for at in range(11)]
    found = utility(samples)
    assert found.throughput_gradient == pytest.approx((600 / 5 - 500 / 4) / (10 - 4))


def test_less_than_ten_requests_have_averages_but_no_score() -> None:
    found = utility([Sample(float(at), 100, 2.0) for at in range(NEEDED - 1)])
    assert found == Utility(None, None, None, 112.5, 2.0, 9)


def test_requests_that_end_at_one_moment_say_nothing_of_throughput() -> None:
    assert utility([Sample(1.0, 100, 2.0)] * NEEDED).score is None


@given(
    st.lists(
        st.tuples(st.floats(0, 1e6), st.integers(0, 10**6), st.floats(0, 1e4)),
        max_size=2 * WINDOW,
    )
)
def test_the_window_holds_the_last_twenty_by_the_time_they_ended(
    requests: list[tuple[float, int, float]],
) -> None:
    chooser = built("marginal_utility")
    for at, tokens, latency in requests:
        chooser.finished(ended("worker-0", output_tokens=tokens, e2e_latency=latency), at)
    expected = utility(sorted(Sample(*each) for each in requests)[-WINDOW:])
    assert numbers(chooser) == {
        "in_flight": 0,
        **{name: value for name, value in expected._asdict().items() if value is not None},
    }


def test_the_highest_score_wins() -> None:
    workers = fleet(0, 0, 9)
    chooser = built("marginal_utility")
    steady(chooser, "worker-0")
    for number in range(NEEDED):
        finish(chooser, "worker-1", float(number), latency=1.0 + number)  # slower and slower
        finish(chooser, "worker-2", float(number), tokens=100 + 20 * number)  # more and more
    choice = chooser.choose(prompt("t"), workers, 0.0)
    assert (choice.worker.node_id, choice.reason) == ("worker-2", "gradient_based")
    order = [candidate.node_id for candidate in shown(choice, workers).candidates]
    assert order == ["worker-2", "worker-0", "worker-1"]


def test_equal_scores_are_shared_by_chance() -> None:
    chooser = built("marginal_utility")
    for node in ("worker-0", "worker-1"):
        steady(chooser, node)
    chosen = Counter(picks(chooser, fleet(0, 0), ["t"] * 100))
    assert min(chosen.values()) > 30


def test_with_too_little_history_anywhere_the_fewest_outstanding_decide() -> None:
    workers = fleet(1, 2, 0)
    chooser = built("marginal_utility")
    for node in ("worker-0", "worker-1"):
        steady(chooser, node)
    steady(chooser, "worker-2", NEEDED - 1)
    choice = chooser.choose(prompt("t"), workers, 0.0)
    assert (choice.worker.node_id, choice.reason) == ("worker-2", "insufficient_history")
    assert shown(choice, workers).quality == "fallback"
    finish(chooser, "worker-2", 20.0)
    assert chooser.choose(prompt("t"), workers, 0.0).reason == "gradient_based"


def test_what_did_not_complete_or_has_no_tokens_is_left_out() -> None:
    chooser = built("marginal_utility")
    for number in range(NEEDED):
        broken = ended("worker-0", output_tokens=5, e2e_latency=1.0)
        broken.status = "failed"
        chooser.finished(broken, float(number))
        chooser.finished(ended("worker-0", e2e_latency=1.0), float(number))
    assert numbers(chooser)["window_size"] == 0


def test_without_the_engines_word_latency_is_from_admission_to_the_end() -> None:
    chooser = built("marginal_utility")
    trace = ended("worker-0", output_tokens=5, duration_seconds=3.0)
    trace.queue_seconds = 1.0
    chooser.finished(trace, 0.0)
    assert numbers(chooser)["avg_latency"] == 2.0


def test_the_order_in_which_replicas_hear_of_requests_does_not_matter() -> None:
    requests = [(float(at), 50 + at, 1.0 + at / 10) for at in range(WINDOW)]
    columns = []
    for seed in (1, 2):
        chooser = built("marginal_utility")
        heard = list(requests)
        Random(seed).shuffle(heard)
        for at, tokens, latency in heard:
            finish(chooser, "worker-0", at, tokens, latency)
        columns.append(chooser.choose(prompt("t"), fleet(0), 0.0).columns)
    assert columns[0] == columns[1]


def test_a_directory_that_cannot_be_written_is_named_with_its_flag(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(
        ConfigError, match=r"^--marginal-utility-output-dir: cannot write in .*/file"
    ):
        DecisionCsv(str(file), "router-0")
