"""One line for each request at its end, by how it ended; a flood of bad ends stays a trickle."""

from __future__ import annotations

import io
import logging

import pytest

from router.api.request_log import LINES_PER_SECOND, RequestLog
from router.logs import logging_to
from tracking.lifecycle import LiveTrace
from tracking.trace import Status, TraceError


class Now:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def log(now: Now) -> RequestLog:
    return RequestLog(now)


@pytest.fixture
def debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "router.requests")


def trace(status: Status, error: TraceError | None = None, request_id: str = "r-1") -> LiveTrace:
    trace = LiveTrace("key", request_id, "random", 0, status)
    trace.node_id = "worker-1"
    trace.method = "POST"
    trace.route = "/generate"
    trace.http_status = 200
    trace.duration_seconds = 1.5
    trace.ttft_seconds = 0.25
    trace.error = error
    return trace


@pytest.mark.usefixtures("debug")
@pytest.mark.parametrize(
    ("status", "level"),
    [
        ("completed", "DEBUG"),
        ("cancelled", "INFO"),
        ("rejected", "INFO"),
        ("failed", "WARNING"),
    ],
)
def test_the_level_is_that_of_the_outcome(
    log: RequestLog, caplog: pytest.LogCaptureFixture, status: Status, level: str
) -> None:
    log.ended(trace(status), 1)
    (record,) = caplog.records
    assert record.levelname == level


def test_the_line_says_who_where_how_and_how_long(log: RequestLog) -> None:
    stream = io.StringIO()
    with logging_to(stream):
        log.ended(trace("failed", TraceError("worker died\nid=forged", "worker_cut")), 2)
    line = stream.getvalue()
    assert line.endswith(
        " WARNING router.requests: request id=r-1 node=worker-1 method=POST route=/generate"
        " status=failed http_status=200 reason=worker_cut"
        ' error="worker died\\nid=forged" attempts=2 ttft_seconds=0.25 duration_seconds=1.5\n'
    )
    assert line.count("\n") == 1


def test_a_level_that_is_off_costs_no_line(log: RequestLog) -> None:
    stream = io.StringIO()
    with logging_to(stream, level="info"):
        log.ended(trace("completed"), 1)
        log.answered("r", "GET", "/health", 200, "", 0.001)
    assert stream.getvalue() == ""


@pytest.mark.usefixtures("debug")
def test_a_flood_of_bad_ends_is_cut_and_its_rest_counted_in_one_line(
    log: RequestLog, now: Now, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(LINES_PER_SECOND + 30):
        log.ended(trace("failed"), 1)
    assert len(caplog.records) == LINES_PER_SECOND
    now.seconds += 1
    caplog.clear()
    log.ended(trace("rejected"), 0)
    assert [record.getMessage() for record in caplog.records] == [
        "30 further lines about requests were left out",
        "request",
    ]


@pytest.mark.usefixtures("debug")
def test_at_debug_completed_requests_are_all_logged(
    log: RequestLog, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(LINES_PER_SECOND * 3):
        log.ended(trace("completed"), 1)
    assert len(caplog.records) == LINES_PER_SECOND * 3


@pytest.mark.usefixtures("debug")
@pytest.mark.parametrize(
    ("status", "code", "level"),
    [
        (200, "", "DEBUG"),
        (404, "not_found", "DEBUG"),
        (503, "no_workers", "DEBUG"),
        (401, "invalid_api_key", "INFO"),
        (500, "internal_error", "WARNING"),
    ],
)
def test_what_the_router_answers_by_itself_is_for_debugging_but_for_wrong_keys(
    log: RequestLog, caplog: pytest.LogCaptureFixture, status: int, code: str, level: str
) -> None:
    log.answered("r-2", "GET", "/workers", status, code, 0.01)
    (record,) = caplog.records
    assert record.levelname == level
    assert record.fields["id"] == "r-2"  # type: ignore[attr-defined]


def test_ids_that_are_not_taken_are_told_but_do_not_flood(
    log: RequestLog, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(LINES_PER_SECOND * 2):
        log.renamed("a/b\n" * 100, "minted")
    assert len(caplog.records) == LINES_PER_SECOND
    message = caplog.records[0].getMessage()
    assert message.startswith("request id 'a/b\\na/b")
    assert message.endswith("is not acceptable; it is now minted")
    assert len(message) < 400
