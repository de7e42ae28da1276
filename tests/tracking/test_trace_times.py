"""A trace's times as text."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from tracking.trace import rfc3339


@given(st.lists(st.integers(0, 253_402_300_799_999_999), max_size=4))
def test_a_time_is_text_whatever_was_asked_for_before(times):
    for us in [us + step for us in times for step in (0, 0, 999, 1_000, 1_000_000)]:
        second, fraction = divmod(us, 1_000_000)
        if second >= 253_402_300_800:
            continue
        shown = datetime.fromtimestamp(second, UTC).replace(microsecond=fraction)
        assert rfc3339(us) == shown.isoformat(timespec="milliseconds").replace("+00:00", "Z")
