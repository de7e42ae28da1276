"""bucket: lengths are cut so that every worker has the same work."""

from __future__ import annotations

from random import Random

from tests.choosing import built, fleet, prompt

EVEN = {"balance_abs_threshold": 10**9}  # so that only lengths decide


def test_prompts_of_similar_length_go_together_short_ones_first() -> None:
    workers = fleet(0, 0, 0, 0)
    chooser = built("bucket", **EVEN)
    for length, home in ((10, 0), (1024, 0), (1025, 1), (3000, 2), (5000, 3), (10**6, 3)):
        choice = chooser.choose(prompt("x" * length), workers, 0.0)
        assert (choice.worker, choice.reason) == (workers[home], "bucket")
        assert choice.columns["longest_bytes"] == [1024, 2048, 3072, None]


def test_after_an_interval_the_ranges_hold_equal_work() -> None:
    workers = fleet(0, 0, 0)
    chooser = built("bucket", **EVEN)
    chance = Random(1)
    sent = {worker.node_id: 0 for worker in workers}
    for number in range(600):
        length = int(10 ** chance.uniform(2, 4.5))
        now = number / 50
        choice = chooser.choose(prompt("x" * length), workers, now)
        if now > 5.1:
            sent[choice.worker.node_id] += length
    assert max(sent.values()) < 2 * min(sent.values())


def test_a_worker_far_behind_the_others_gets_the_next_request() -> None:
    workers = fleet(0, 0)
    chooser = built("bucket")
    chooser.choose(prompt("x" * 100), workers[:1], 0.0)
    choice = chooser.choose(prompt("x" * 100), workers, 0.0)
    assert (choice.worker, choice.reason) == (workers[1], "imbalanced")
    assert choice.columns["recent_bytes"] == [100, 0]


def test_what_is_older_than_the_interval_does_not_count() -> None:
    workers = fleet(0, 0)
    chooser = built("bucket", bucket_adjust_interval_secs=5)
    chooser.choose(prompt("x" * 1000), workers[:1], 0.0)
    assert chooser.choose(prompt("x"), workers, 5.0).reason == "imbalanced"
    assert chooser.choose(prompt("x"), workers, 5.1).reason == "bucket"
