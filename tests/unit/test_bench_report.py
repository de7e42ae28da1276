"""What the benchmark says must be what it measured."""

from __future__ import annotations

import http.client
import io

import msgspec
import pytest

from bench.cases import CASES, REQUEST_VARIANTS, Case, requests
from bench.goals import verdicts
from bench.measure import Load, Measurement, Quantiles
from bench.report import table


def measurement(rate: float, *, errors: int = 0, ttft_us: int = 0, cpu: float | None = None):
    quantiles = Quantiles(ttft_us, ttft_us, ttft_us, ttft_us)
    load = Load(10, errors, 0, 0, 0, 1.0, rate, rate, quantiles, quantiles)
    return Measurement(load=load, load_core_percent=50.0, cpu_percent=cpu)


def rows(case: Case, rounds: dict[str, list[Measurement]]) -> dict[str, str]:
    return {line.split("  ")[0]: line for line in table(case, rounds).splitlines()}


CASE = {case.name: case for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_requests_are_distinct_of_one_length_and_carry_the_body_they_announce(case):
    stock, length = requests(case)
    each = [stock[start : start + length] for start in range(0, len(stock), length)]
    assert len(set(each)) == len(each) == REQUEST_VARIANTS
    head, _, body = each[0].partition(b"\r\n\r\n")
    headers = http.client.parse_headers(io.BytesIO(head.partition(b"\r\n")[2] + b"\r\n\r\n"))
    assert int(headers["content-length"]) == len(body) == case.body_bytes
    assert (b'"stream":true' in body) == case.stream


def test_the_table_shows_the_median_the_spread_and_the_ratio_to_the_reference():
    rounds = {
        "router": [measurement(rate) for rate in (300.0, 100.0, 200.0)],
        "sglang-router": [measurement(100.0)],
    }
    assert "200 (100–300) 2.00×" in rows(CASE["json-1k"], rounds)["router"]


def test_a_target_that_failed_requests_is_marked():
    rounds = {"a": [measurement(1.0), measurement(1.0, errors=1)], "b": [measurement(1.0)]}
    assert set(rows(CASE["json-1k"], rounds)) == {"json-1k", "a !", "b"}


def test_added_time_to_first_token_is_what_direct_does_not_take():
    rounds = {
        "direct": [measurement(1.0, ttft_us=2_000)],
        "router": [measurement(1.0, ttft_us=43_000)],
    }
    assert " 41.0 " in rows(CASE["sse-10k"], rounds)["router"]


def test_added_gap_is_the_tail_that_direct_does_not_have():
    def gap(p99: int) -> Measurement:
        found = measurement(1.0, ttft_us=1_000)
        quantiles = Quantiles(10_000, 10_000, p99, p99)
        return msgspec.structs.replace(
            found, load=msgspec.structs.replace(found.load, gap_us=quantiles)
        )

    table_rows = rows(CASE["sse-30k"], {"direct": [gap(11_000)], "router": [gap(13_500)]})
    assert " 2.50 " in table_rows["router"]


def test_a_goal_in_milliseconds_is_a_difference():
    medians = {"router": {"ttft added ms": 0.5}, "nginx": {"ttft added ms": 0.3}}
    assert [round(verdict.reached, 6) for verdict in verdicts("sse-10k", medians)] == [0.2]
