"""A bug of ours costs its own request, once, and nothing else."""

from __future__ import annotations

import logging

import msgspec
import pytest

from router.app import App
from router.core.usage import ResponseScanner
from tests.fleets import body
from tests.raw_tcp import RawConnection
from tests.running import Records, at_rest, running, sim_worker
from tests.waiting import until


def ended(app: App) -> int:
    """Requests that were counted when they ended."""
    return sum(n for route in app.metrics.routes for _, n in route.endings())


async def test_a_crash_before_the_answer_is_a_500_counted_logged_and_traced_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    async with sim_worker() as worker, running(worker.url) as app:
        records = Records(app)

        def crash(*given: object) -> None:
            raise RuntimeError("a bug")

        with monkeypatch.context() as broken:
            broken.setattr(type(app.forwarding.group.policy), "choose", crash)
            async with await RawConnection.connect(app.port) as client:
                await client.post("/generate", body(), "X-Request-Id: unlucky\r\n")
                answer = await client.read_response()
        assert answer.status == 500
        assert msgspec.json.decode(answer.body)["error"]["code"] == "internal_error"
        assert b"a bug" not in answer.body
        await until(lambda: at_rest(app))
        assert (records.status("unlucky"), records.error_type("unlucky")) == (
            "failed",
            "router_lost",
        )
        assert ended(app) == 1
        crashes = [r for r in caplog.records if r.levelno >= logging.ERROR]
        assert [r.getMessage() for r in crashes] == ["request unlucky to /generate crashed"]
        async with await RawConnection.connect(app.port) as client:
            await client.post("/generate", body())
            assert (await client.read_response()).status == 200


@pytest.mark.parametrize("method", ["feed", "finish"])
@pytest.mark.interpreted
async def test_an_answer_that_we_cannot_read_reaches_its_client_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, method: str
):
    def crash(*given: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(ResponseScanner, method, crash)
    async with sim_worker() as worker, running(worker.url) as app:
        records = Records(app)
        async with await RawConnection.connect(app.port) as client:
            await client.post("/generate", body(stream=True), "X-Request-Id: unread\r\n")
            answer = await client.read_response()
        assert answer.status == 200
        assert b"data: [DONE]" in answer.body
        await until(lambda: at_rest(app))
        assert records.status("unread") == "completed"
        assert ended(app) == 1
        crashes = [r for r in caplog.records if r.levelno >= logging.ERROR]
        assert len(crashes) == 1
