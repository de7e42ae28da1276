"""weighted, and fixed_probability, which is the same under the name of the user's scripts."""

from __future__ import annotations

from collections import Counter

import pytest

from router.core.worker import Worker
from tests.choosing import built, picks, prompt

A = Worker("http://localhost:30005", "worker-0")
B = Worker("http://localhost:30006", "cuda:2")
C = Worker("http://localhost:80", "worker-2")


@pytest.mark.parametrize("name", ["weighted", "fixed_probability"])
@pytest.mark.parametrize(
    "weights",
    [
        {"30005": 0.7, "30006": 0.3},
        {"worker-0": 7, "cuda:2": 3},
        {"http://localhost:30005": 70, "http://localhost:30006/": 30},
    ],
)
def test_workers_get_their_share_by_port_name_or_url(name: str, weights: dict[str, float]) -> None:
    chosen = Counter(picks(built(name, policy_weights=weights), [A, B], ["t"] * 2000))
    assert 1300 < chosen["worker-0"] < 1500
    assert chosen.total() == 2000


def test_without_weights_all_are_equal() -> None:
    chosen = Counter(picks(built("weighted"), [A, B, C], ["t"] * 1200))
    assert min(chosen.values()) > 320


def test_a_worker_without_a_weight_only_stands_in_when_no_other_is_left() -> None:
    chooser = built("weighted", policy_weights={"30005": 1, "30006": 0})
    assert set(picks(chooser, [A, B, C], ["t"] * 50)) == {"worker-0"}
    assert set(picks(chooser, [B, C], ["t"] * 50)) == {"cuda:2", "worker-2"}
    assert chooser.choose(prompt("t"), [B, C], 0.0).reason == "unweighted"
    assert chooser.choose(prompt("t"), [A, B], 0.0).reason == "weighted"


def test_a_url_without_its_default_port_is_understood() -> None:
    chooser = built("weighted", policy_weights={"http://localhost": 1})
    assert chooser.choose(prompt("t"), [A, C], 0.0).worker is C


def test_the_receipt_shows_the_weights() -> None:
    choice = built("weighted", policy_weights={"30005": 0.7, "30006": 0.3}).choose(
        prompt("t"), [A, B], 0.0
    )
    assert choice.columns["weight"] == [0.7, 0.3]
