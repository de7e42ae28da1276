"""`--rate-limit-tokens-per-second`, and a log in which every line is a JSON object."""

from __future__ import annotations

import msgspec
import pytest

from tests.fleets import Fleet, error_of, error_type
from tests.processes import Json

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
FLEET = {
    "workers": 1,
    "flags": [
        *("--rate-limit-tokens-per-second=0.2", "--queue-size=0"),  # one, then one in 5 s
        *("--log-format=json", "--log-level=debug"),
    ],
}


async def test_beyond_the_rate_it_is_a_429_that_says_when_to_come_again_and_a_line_each(
    shared: Fleet,
):
    assert (await shared.generate(request_id="first")).status == 200
    turned_away = await shared.generate("\n{}", request_id="second")
    assert turned_away.status == 429
    assert error_of(turned_away)["code"] == "queue_full"
    assert 1 <= int(turned_away.header("retry-after") or 0) <= 5
    trace = await shared.ended("second")
    assert (trace["status"], error_type(trace)) == ("rejected", "queue_full")
    assert len(await shared.received()) == 1

    lines = [msgspec.json.decode(line, type=Json) for line in shared.router.log().splitlines()]
    assert all({"timestamp", "level", "logger", "message"} <= line.keys() for line in lines)
    ends = [line for line in lines if line.get("id") in ("first", "second")]
    assert [(line["level"], line["status"], line.get("reason")) for line in ends] == [
        ("debug", "completed", None),
        ("info", "rejected", "queue_full"),
    ]
    assert ends[0]["node"] == "worker-0"
