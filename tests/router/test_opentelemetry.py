"""Spans as a receiver of OTLP gets them, and what a worker is told of its parent."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra otel")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from router.flag_types import PrefillUrl
from router.policytype import PolicyType
from router.telemetry.export import asked_for
from router.telemetry.spans import STEP, Sampler, SpanIds, sampler_of
from tests.processes import free_port
from tests.running import call, running, sim_worker
from tests.sim.call import WorkerConfig
from tests.sim.faults import Fault
from tests.waiting import until

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CLIENT = f"00-{TRACE}-{PARENT}-01"
SERVER, SPAN_CLIENT, ERROR = 2, 3, 2


class Receiver:
    """Takes OTLP over HTTP, as a collector does."""

    def __init__(self) -> None:
        self.spans: list = []
        self.resource: dict[str, str] = {}
        self.status = 200

    async def take(self, request: web.Request) -> web.Response:
        body = ExportTraceServiceRequest.FromString(await request.read())
        for group in body.resource_spans if self.status == 200 else ():
            self.resource = {a.key: a.value.string_value for a in group.resource.attributes}
            self.spans += [span for scope in group.scope_spans for span in scope.spans]
        return web.Response(status=self.status)

    def named(self, start: str) -> list:
        return [span for span in self.spans if span.name.startswith(start)]


@pytest.fixture
async def receiver(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Receiver]:
    found = Receiver()
    app = web.Application()
    app.router.add_post("/v1/traces", found.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr("router.telemetry.export.EXPORT_SECONDS", 0.05)
    yield found
    await runner.cleanup()


def facts(span) -> dict[str, object]:
    found: dict[str, object] = {}
    for one in span.attributes:
        kind = one.value.WhichOneof("value")
        found[one.key] = getattr(one.value, kind)
    return found


BODY = {"model": "sim-model", "messages": [{"role": "user", "content": "hello"}]}
CHAT = "/v1/chat/completions"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_is_a_span_under_its_clients_and_the_worker_comes_under_its_attempt(
    receiver: Receiver, stream: bool
):
    async with sim_worker() as sim, running(sim.url) as app:
        headers = {"traceparent": CLIENT, "tracestate": "a=b", "X-Request-Id": "r-1"}
        await call(app, "POST", CHAT, {**BODY, "stream": stream}, headers=headers)
        await until(lambda: len(receiver.spans) == 3)
        (request,) = receiver.named("POST /v1/chat/completions")
        (queue,) = receiver.named("admission")
        (attempt,) = receiver.named("chat sim-model")
        assert {span.trace_id.hex() for span in receiver.spans} == {TRACE}
        assert request.parent_span_id.hex() == PARENT
        assert queue.parent_span_id == attempt.parent_span_id == request.span_id
        assert (request.kind, attempt.kind) == (SERVER, SPAN_CLIENT)
        assert (
            request.start_time_unix_nano
            <= attempt.end_time_unix_nano
            <= request.end_time_unix_nano + 2_000_000  # attempts begin at whole milliseconds
        )
        said = facts(request)
        assert said["llm_router.request_id"] == "r-1"
        assert said["llm_router.node_id"] == "worker-0"
        assert said["llm_router.policy"] == "cache_aware"
        assert said["gen_ai.operation.name"] == "chat"
        assert said["gen_ai.request.model"] == "sim-model"
        assert stream or int(str(said["gen_ai.usage.output_tokens"])) > 0
        assert [event.name for event in request.events] == (["first token"] if stream else [])
        assert facts(attempt)["server.port"] == int(sim.url.rpartition(":")[2])
        assert receiver.resource["service.name"] == "llm-trace-router"
        sent = sim.sim.records.list(CHAT)[-1]
        told = {name.lower(): value for name, value in sent.headers}
        assert told["traceparent"] == f"00-{TRACE}-{attempt.span_id.hex()}-01"
        assert told["tracestate"] == "a=b"


async def test_a_retry_is_a_second_attempt_beside_the_first(receiver: Receiver):
    broken = WorkerConfig(faults=(Fault(kind="cut_before_head"),))
    async with (
        sim_worker(broken) as bad,
        sim_worker() as good,
        running(bad.url, good.url, policy=PolicyType.RoundRobin) as app,
    ):
        for _ in range(2):
            await call(app, "POST", CHAT, BODY)
        await until(lambda: len(receiver.named("POST")) == 2)
        one, other = (
            [span for span in receiver.named("chat") if span.parent_span_id == request.span_id]
            for request in receiver.named("POST")
        )
        attempts = max(one, other, key=len)
        first, second = attempts
        assert (first.status.code, second.status.code) == (ERROR, 0)
        assert facts(first)["error.type"] in ("connect", "worker_cut")
        assert first.span_id != second.span_id
        assert [span.parent_span_id for span in receiver.named("POST")] == [b"", b""]


async def test_the_legs_of_a_pair_are_two_attempts_and_each_worker_comes_under_its_own(
    receiver: Receiver,
):
    async with (
        sim_worker(WorkerConfig(part="prefill")) as prefill,
        sim_worker(WorkerConfig(part="decode")) as decode,
        running(
            pd_disaggregation=True,
            prefill=(PrefillUrl(prefill.url, prefill.control_port),),
            decode=(decode.url,),
            disable_health_check=True,
        ) as app,
    ):
        assert (await call(app, "POST", CHAT, BODY, headers={"traceparent": CLIENT})).status == 200
        await until(lambda: len(receiver.spans) == 4)
        (request,) = receiver.named("POST")
        legs = receiver.named("chat")
        assert [leg.parent_span_id for leg in legs] == [request.span_id] * 2
        spans = {facts(leg)["server.port"]: leg.span_id.hex() for leg in legs}
        for half in (prefill, decode):
            (sent,) = half.sim.records.list(CHAT)
            told = {name.lower(): value for name, value in sent.headers}
            span = spans[int(half.url.rpartition(":")[2])]
            assert told["traceparent"] == f"00-{TRACE}-{span}-01"


async def test_what_the_client_does_not_sample_is_not_sent_and_the_worker_is_told(
    receiver: Receiver,
):
    async with sim_worker() as sim, running(sim.url) as app:
        await call(app, "POST", CHAT, BODY, headers={"traceparent": CLIENT[:-2] + "00"})
        await call(app, "POST", CHAT, BODY, headers={"X-Request-Id": "mine"})
        await until(lambda: receiver.named("POST"))
        assert [facts(s)["llm_router.request_id"] for s in receiver.named("POST")] == ["mine"]
        first = sim.sim.records.list(CHAT)[0]
        told = {name.lower(): value for name, value in first.headers}["traceparent"]
        assert told.startswith(f"00-{TRACE}-") and told.endswith("-00")


async def test_a_receiver_that_is_away_costs_nobody_anything_and_is_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    monkeypatch.setattr("router.telemetry.export.EXPORT_SECONDS", 0.05)
    async with sim_worker() as sim, running(sim.url) as app:
        assert (await call(app, "POST", CHAT, BODY)).status == 200
        await until(lambda: app.span_export and app.span_export.dropped == 1)
        assert (await call(app, "POST", CHAT, BODY)).status == 200
        shown = (await call(app, "GET", "/metrics")).text
        assert 'trace_router_otel_requests_total{result="dropped"} 1.0' in shown
    assert "the receiver takes no spans" in caplog.text


async def test_without_an_endpoint_nothing_is_done_and_headers_pass_as_they_are():
    async with sim_worker() as sim, running(sim.url) as app:
        assert app.span_export is None
        await call(app, "POST", CHAT, BODY, headers={"traceparent": "nonsense"})
        (sent,) = sim.sim.records.list(CHAT)
        assert ("traceparent", "nonsense") in [(n.lower(), v) for n, v in sent.headers]


def test_a_router_that_is_not_asked_to_imports_no_exporter():
    # redis-py imports the API where it is installed, so that alone says nothing of us.
    check = "import router.app, sys; print('opentelemetry.exporter' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_the_standard_variables_say_whether(environ: dict[str, str], expected: bool):
    assert asked_for(environ) is expected


def test_samplers_have_their_standard_names_and_meanings():
    low, high = "0" * 32, "f" * 32
    for name, argument, parent, expected in (
        ("always_off", "", True, (False, False)),
        ("always_on", "", False, (True, True)),
        ("traceidratio", "0.5", None, (True, False)),
        ("traceidratio", "0.5", True, (True, False)),
        ("parentbased_always_off", "", True, (True, True)),
        ("parentbased_traceidratio", "0.5", None, (True, False)),
        ("parentbased_always_on", "", False, (False, False)),
    ):
        sampler = Sampler(name, argument)
        assert (sampler.sampled(low, parent), sampler.sampled(high, parent)) == expected
    assert sampler_of({}).sampled(high, None)
    for wrong in ({"OTEL_TRACES_SAMPLER": "jaeger_remote"},):
        with pytest.raises(ValueError, match="OTEL_TRACES_SAMPLER"):
            sampler_of(wrong)


@given(st.integers(1, (1 << 64) - 1))
def test_no_two_spans_of_a_request_share_an_id(span: int):
    ids = SpanIds(TRACE, "%016x" % span, None, True)
    made = [ids.span_id, *(ids.attempt_id(number) for number in range(1, 20))]
    assert len(set(made)) == len(made)
    assert "0" * 16 not in made
    assert STEP % 2 == 1
