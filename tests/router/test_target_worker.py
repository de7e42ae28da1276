"""`X-SMG-Target-Worker` under consistent_hashing: the worker named, or none."""

from __future__ import annotations

import msgspec
import pytest

from router.policytype import PolicyType
from tests.running import call, running, sim_worker

BODY = {"text": "hello", "sampling_params": {"max_new_tokens": 2}}


@pytest.mark.parametrize("target", ["1", "worker-1", "url"])
async def test_the_worker_named_by_place_name_or_url_gets_the_request(target: str):
    async with (
        sim_worker() as one,
        sim_worker() as two,
        running(one.url, two.url, policy=PolicyType.ConsistentHashing) as app,
    ):
        headers = {"X-SMG-Target-Worker": two.url if target == "url" else target}
        for _ in range(3):
            answer = await call(app, "POST", "/generate", BODY, headers=headers)
            assert answer.status == 200
            assert answer.headers["x-smg-routed-worker-id"] == two.url


@pytest.mark.parametrize("target", ["2", "worker-7", "http://127.0.0.1:1"])
async def test_a_worker_that_is_not_there_is_503_and_named(target: str):
    async with (
        sim_worker() as one,
        running(one.url, policy=PolicyType.ConsistentHashing) as app,
    ):
        headers = {"X-SMG-Target-Worker": target}
        answer = await call(app, "POST", "/generate", BODY, headers=headers)
        assert answer.status == 503
        error = msgspec.json.decode(answer.body)["error"]
        assert error["code"] == "no_available_workers"
        assert target in error["message"]
