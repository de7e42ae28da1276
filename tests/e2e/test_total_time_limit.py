"""`--request-timeout-secs`: the whole request, also a stream that is never silent."""

from __future__ import annotations

import pytest

from tests.fleets import Fleet, attempts, body, error_of, error_type, metric
from tests.raw_tcp import RawConnection

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
FLEET = {
    "workers": 1,
    "flags": ["--request-timeout-secs=0.5", "--cb-failure-threshold=1"],
}


async def test_before_the_first_byte_it_is_a_504(shared: Fleet):
    answer = await shared.generate(sim="hang", request_id="silent")
    assert answer.status == 504
    assert error_of(answer)["code"] == "request_timeout"
    trace = await shared.ended("silent")
    assert (trace["status"], error_type(trace)) == ("failed", "total_timeout")


async def test_a_stream_is_cut_and_the_worker_freed(shared: Fleet):
    content = body(tokens=50, stream=True, sim="drip:after_bytes=50,seconds=0.05")
    async with await RawConnection.connect(shared.router.port) as client:
        await client.post("/generate", content, "X-Request-Id: long\r\n")
        with pytest.raises(EOFError):
            await client.read_response()
    trace = await shared.ended("long")
    assert (trace["status"], error_type(trace)) == ("failed", "total_timeout")
    await shared.workers[0].wait_free(1)


async def test_no_attempt_begins_that_could_not_end_in_time(shared: Fleet):
    await shared.faults("status:status=503,retry_after=2")
    answer = await shared.generate(request_id="late")
    assert answer.status == 503
    assert answer.header("retry-after") == "2"
    assert len(attempts(await shared.ended("late"))) == 1


async def test_a_limit_of_the_clients_making_does_not_count_against_the_worker(shared: Fleet):
    await shared.generate(sim="hang")
    assert await metric(shared.router, "smg_worker_cb_state") == 0
    assert (await shared.generate()).status == 200
