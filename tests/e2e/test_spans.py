"""Spans of real processes: a router that stops has told a receiver of every request it had."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from tests.fleets import body, post
from tests.processes import Process, Processes, RouterProcess, SimWorker, answers, free_port

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra otel")

pytestmark = pytest.mark.e2e

REQUESTS = 40


class Span(msgspec.Struct):
    name: str
    trace: str
    span: str
    parent: str
    error: bool
    resource: list[str]


class OtlpReceiver(Process):
    name = "otlp"

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file
        self.port = 0

    def command(self) -> Sequence[str]:
        self.port = free_port()
        return [sys.executable, "-m", "tests.otlp_receiver", str(self.port), str(self.file)]

    async def is_ready(self) -> bool:
        return await answers(f"http://127.0.0.1:{self.port}/ready")

    @property
    def spans(self) -> list[Span]:
        return [
            msgspec.json.decode(line, type=Span) for line in self.file.read_bytes().splitlines()
        ]


class TelemetryRouter(RouterProcess):
    def __init__(self, worker_urls: Sequence[str], receiver: OtlpReceiver) -> None:
        super().__init__(worker_urls, "--drain-secs=0", "--policy=round_robin")
        self._receiver = receiver

    def environment(self) -> dict[str, str]:
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._receiver.port}",
            "OTEL_SERVICE_NAME": "our-router",
        }


async def test_a_router_that_stops_has_told_of_all_its_requests_and_their_attempts(
    processes: Processes, tmp_path: Path
) -> None:
    receiver = await processes.start(OtlpReceiver(tmp_path / "spans.jsonl"))
    broken = await processes.start(SimWorker())
    good = await processes.start(SimWorker())
    await broken.faults("cut_before_head")
    router = await processes.start(TelemetryRouter([broken.url, good.url], receiver))
    for number in range(REQUESTS):
        asked = body(stream=number % 2 == 0)
        assert (await post(router, "/generate", asked, request_id=f"r-{number}")).status == 200
    await router.stop()

    spans = receiver.spans
    requests = [span for span in spans if span.name == "POST /generate"]
    assert len(requests) == len({span.trace for span in requests}) == REQUESTS
    assert not any(span.parent or span.error for span in requests)
    assert all("our-router" in span.resource for span in spans)
    attempts: dict[str, list[Span]] = {span.span: [] for span in requests}
    for span in spans:
        if span.parent and span.name != "admission":
            attempts[span.parent].append(span)
    assert all(not tried[-1].error for tried in attempts.values())
    assert any(tried[0].error for tried in attempts.values())  # until its breaker opened
