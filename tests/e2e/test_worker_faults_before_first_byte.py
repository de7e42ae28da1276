"""A worker that fails before its answer begins: another one answers, or the right status does."""

from __future__ import annotations

import msgspec
import pytest

from tests.fleets import Fleet, attempts, body, error_of, error_type, post

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
FLEET = {
    "workers": 2,
    "flags": [
        "--policy=round_robin",
        "--first-byte-timeout-secs=0.5",
        "--retry-initial-backoff-ms=10",
        "--disable-circuit-breaker",
        "--disable-health-check",
    ],
}

# A misbehaviour, what the trace calls it, and the status an attempt at it has, if any.
FAULTS = {
    "refuse": ("connect", None),
    "cut_before_head": ("worker_cut", None),
    "cut_before_head:reset=1": ("worker_cut", None),
    "cut_mid_head": ("worker_cut", None),
    "garbage_head": ("worker_cut", None),
    "oversize_headers:bytes=600000": ("worker_cut", None),
    "status:status=500": ("worker_status", 500),
    "status:status=502": ("worker_status", 502),
    "status:status=503": ("worker_status", 503),
    "status:status=429,retry_after=1": ("worker_status", 429),
    "no_read:status=503": ("worker_status", 503),
}


async def first_choice(running: Fleet) -> int:
    """Which worker the policy takes next: the other one than the last."""
    trace = await running.ended((await running.generate()).header("x-request-id") or "")
    return 1 - [worker.url for worker in running.workers].index(str(trace["worker_url"]))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_another_worker_answers_and_the_trace_shows_both_attempts(
    shared: Fleet, fault: str, stream: bool
):
    kind, status = FAULTS[fault]
    bad = await first_choice(shared)
    await shared.workers[bad].faults(fault)
    name = f"over-{fault}-{stream}".replace(",", "-")
    answer = await post(shared.router, "/generate", body(stream=stream), request_id=name)
    assert answer.status == 200
    assert answer.header("x-smg-routed-worker-id") == shared.workers[1 - bad].url
    trace = await shared.ended(name)
    assert trace["status"] == "completed"
    assert trace["worker_url"] == shared.workers[1 - bad].url
    assert "error" not in trace
    first, second = attempts(trace)
    assert first["worker_url"] == shared.workers[bad].url
    assert error_type(first) == kind
    assert first.get("http_status") == status
    assert second["worker_url"] == shared.workers[1 - bad].url
    assert second["http_status"] == 200


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("refuse", 500, "worker_connect_failed"),
        ("cut_before_head", 500, "worker_cut"),
        ("cut_mid_head", 500, "worker_cut"),
        ("garbage_head", 500, "worker_cut"),
    ],
)
async def test_when_every_worker_fails_the_client_hears_why_after_all_attempts(
    shared: Fleet, fault: str, status: int, code: str
):
    await shared.faults(fault)
    name = f"all-{fault}"
    answer = await shared.generate(request_id=name)
    assert answer.status == status
    assert error_of(answer)["code"] == answer.header("x-smg-error-code") == code
    trace = await shared.ended(name)
    assert (trace["status"], trace["http_status"]) == ("failed", status)
    assert error_type(trace) == FAULTS[fault][0]
    assert len(attempts(trace)) == 5
    assert {attempt["worker_url"] for attempt in attempts(trace)[:2]} == {
        worker.url for worker in shared.workers
    }


@pytest.mark.parametrize("status", [500, 429, 503])
async def test_when_every_worker_refuses_its_last_answer_is_passed_on(shared: Fleet, status: int):
    await shared.faults(f"status:status={status},retry_after=7")
    name = f"last-{status}"
    answer = await shared.generate(request_id=name)
    assert answer.status == status
    assert answer.header("retry-after") == "7"
    assert msgspec.json.decode(answer.body) == {"error": {"message": "Simulated failure."}}
    trace = await shared.ended(name)
    assert (trace["status"], trace["http_status"]) == ("failed", status)
    assert error_type(trace) == "worker_status"


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 501])
async def test_what_another_worker_would_say_as_well_is_passed_on_at_once(
    shared: Fleet, status: int
):
    await shared.faults(f"status:status={status}")
    name = f"once-{status}"
    answer = await shared.generate(request_id=name, stream=True)
    assert answer.status == status
    trace = await shared.ended(name)
    assert trace["status"] == "failed"
    assert "ttft_seconds" not in trace  # an error has no token
    assert len(attempts(trace)) == len(await shared.received()) == 1


async def test_a_worker_that_does_not_answer_in_time_is_a_504_and_not_asked_twice(shared: Fleet):
    await shared.faults("hang")
    answer = await shared.generate(request_id="hang")
    assert answer.status == 504
    assert error_of(answer)["code"] == "worker_timeout"
    trace = await shared.ended("hang")
    assert (trace["status"], trace["http_status"]) == ("failed", 504)
    assert error_type(trace) == "first_byte_timeout"
    assert len(attempts(trace)) == 1


async def test_a_worker_that_never_reads_the_body_is_a_504(shared: Fleet):
    await shared.faults("no_read:seconds=1")  # it does not see us leave either
    answer = await shared.generate("x" * 5_000_000, request_id="no-read")
    assert answer.status == 504
    assert error_type(await shared.ended("no-read")) == "first_byte_timeout"


async def test_what_is_not_known_to_be_generation_is_not_repeated_once_it_was_sent(shared: Fleet):
    await shared.faults({"kind": "cut_before_head", "paths": ["*"]})
    answer = await post(shared.router, "/v1/files", b"{}", request_id="unknown")
    assert answer.status == 500
    assert len(attempts(await shared.ended("unknown"))) == 1
    assert len(await shared.received("/v1/files")) == 1
