"""Values for the formats that only this API has; Schemathesis imports it (tests/e2e/test_schemathesis.py)."""

from __future__ import annotations

import schemathesis
from hypothesis import strategies as st

from tracking.values import encode_cursor

moments = st.integers(0, 2**53 - 1)
schemathesis.openapi.format(
    "cursor", st.builds(encode_cursor, moments, st.text("0123456789abcdef-", min_size=1))
)
schemathesis.openapi.format(
    "window", st.builds("{}{}".format, st.integers(1, 31), st.sampled_from("smhd"))
)
# Nobody listens there, and nothing leaves this machine.
schemathesis.openapi.format("worker-url", st.just("http://127.0.0.1:1"))
