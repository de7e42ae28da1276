"""Numbers with as many digits as mean something."""

from __future__ import annotations

from random import Random

import msgspec
import pytest

from router.core.rounding import rounded, rounded_share


@pytest.mark.parametrize(
    ("seconds", "microseconds"),
    [(0.0, 0), (4.9e-7, 0), (5.1e-7, 1), (1.2345674, 1234567), (86400.0000016, 86400000002)],
)
def test_seconds_are_told_to_the_nearest_microsecond(seconds: float, microseconds: int):
    assert rounded(seconds) == microseconds / 1e6


def test_a_share_is_told_to_four_digits():
    assert [rounded_share(share) for share in (0.0, 0.33333, 0.66666, 1.0)] == [
        0,
        0.3333,
        0.6667,
        1,
    ]


def test_it_is_what_python_rounds_to():
    random = Random(7)
    for _ in range(10_000):
        seconds = 10 ** random.uniform(-7, 4)
        assert rounded(seconds) == round(seconds, 6)
        assert rounded_share(1 / (1 + seconds)) == round(1 / (1 + seconds), 4)


def test_a_whole_number_is_written_as_a_float():
    assert msgspec.json.encode([rounded(2), rounded_share(0)]) == b"[2.0,0.0]"
