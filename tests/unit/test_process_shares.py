"""What one of several processes gets of the host's limits."""

from __future__ import annotations

import pytest

from router.config import Config
from router.processes import count_of, share_of


def shares(count: int, **settings: object) -> list[Config]:
    whole = Config(**settings)  # type: ignore[arg-type]
    return [share_of(whole, number, count) for number in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize(
    "name", ["max_connections", "max_concurrent_requests", "queue_size", "trace_buffer_bytes"]
)
def test_limits_of_the_host_are_divided_without_a_rest(name: str, count: int) -> None:
    assert sum(getattr(share, name) for share in shares(count, **{name: 100})) == 100


def test_what_is_no_limit_stays_none() -> None:
    for share in shares(2, max_concurrent_requests=-1, max_connections=0):
        assert (share.max_concurrent_requests, share.max_connections) == (-1, 0)
        assert share.rate_limit_tokens_per_second is None


def test_a_rate_is_divided() -> None:
    assert [s.rate_limit_tokens_per_second for s in shares(4, rate_limit_tokens_per_second=10)] == [
        2.5
    ] * 4


def test_nobody_gets_nothing() -> None:
    assert {share.max_concurrent_requests for share in shares(4, max_concurrent_requests=2)} == {1}


def test_each_is_a_replica_of_its_own_name_and_starts_no_others() -> None:
    made = shares(2, router_id="r", processes=2)
    assert [share.router_id for share in made] == ["r-0", "r-1"]
    assert {share.processes for share in made} == {1}


def test_auto_is_at_least_one() -> None:
    assert count_of(Config(processes="auto")) >= 1
    assert count_of(Config(processes=3)) == 3
