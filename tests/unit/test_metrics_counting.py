"""What is counted shows up at a scrape, once, under few and stable labels."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from router.core.breaker import Breaker, BreakerSettings
from router.core.health import Health, HealthSettings
from router.core.worker import Worker
from router.metrics import Exposition, Metrics, Sources, WorkerSeries
from router.metrics.labels import MAX_UNLISTED_MODELS
from tracking.lifecycle import LiveTrace
from tracking.trace import Decision, DecisionQuality, ErrorType, Status, TraceError
from tracking.view import StoreState

STORE = StoreState(
    kind="redis",
    state="up",
    buffered=4,
    buffered_bytes=900,
    dropped=2,
    failed_flushes=3,
    lost=5,
    memory_bytes=1000,
    memory_limit_bytes=4000,
)


class Rig:
    """Metrics over two workers whose state the test may change."""

    def __init__(self, *, hide_worker_urls: bool = False) -> None:
        self.workers = [
            Worker(
                f"http://localhost:{30005 + n}",
                f"worker-{n}",
                health=Health(HealthSettings(failure_threshold=1)),
                breaker=Breaker(BreakerSettings(failure_threshold=1)),
            )
            for n in range(2)
        ]
        for worker in self.workers:
            worker.health.probe_succeeded()
        self.store: StoreState | None = STORE
        self.open = 0
        self.queued = 0
        self.metrics = Metrics(
            Sources(
                workers=lambda: self.workers,
                open_requests=lambda: self.open,
                queued_requests=lambda: self.queued,
                store=lambda: self.store,
            ),
            version="1.2.3",
            hide_worker_urls=hide_worker_urls,
        )
        self.exposition = Exposition(self.metrics)

    def series(self, number: int = 0) -> WorkerSeries:
        return self.metrics.worker(self.workers[number])

    def end(
        self,
        *,
        status: Status | None = "completed",
        http_status: int | None = 200,
        error_type: ErrorType | None = None,
        error_code: str = "",
        model: str | None = "m1",
        route: str = "/generate",
        stream: bool = False,
        series: WorkerSeries | None = None,
        head_seconds: float | None = None,
        queue_seconds: float | None = None,
        overhead_seconds: float | None = None,
        ttft_seconds: float | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        cached_tokens: int | None = None,
        predicted_cached_tokens: int | None = None,
        duration_seconds: float = 1.0,
        admitted: bool = True,
    ) -> None:
        at = self.metrics.request_received(route, "POST")
        if status is None:
            assert http_status is not None
            at.answered(http_status, error_code, duration_seconds)
            return
        trace = LiveTrace("k", "r", "p", 0, status)
        trace.duration_seconds = duration_seconds
        trace.http_status = http_status
        trace.error = None if error_type is None else TraceError(message="", type=error_type)
        trace.model = model
        trace.stream = stream
        trace.queue_seconds = queue_seconds
        trace.ttft_seconds = ttft_seconds
        trace.input_tokens = input_tokens
        trace.output_tokens = output_tokens
        trace.cached_tokens = cached_tokens
        trace.predicted_cached_tokens = predicted_cached_tokens
        self.metrics.request_ended(
            trace, at, series, error_code, head_seconds, overhead_seconds, admitted
        )

    def choose(self, number: int, policy: str, reason: str) -> None:
        self.series(number).chose(Decision(policy, reason, "exact", 1, [], 0.0, 0.0))

    def text(self) -> str:
        return self.exposition.render(None)[0].decode()

    def samples(self, name: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Every sample of that name, by its sorted labels. No two samples share their labels."""
        found: dict[tuple[tuple[str, str], ...], float] = {}
        for family in parse_text(self.text()):
            for sample in family.samples:
                if sample.name == name:
                    labels = tuple(sorted(sample.labels.items()))
                    assert labels not in found
                    found[labels] = sample.value
        return found

    def value(self, name: str, **labels: str) -> float | None:
        """The sum over the samples that have these labels; None where there is none."""
        fitting = [
            v for got, v in self.samples(name).items() if labels.items() <= dict(got).items()
        ]
        return sum(fitting) if fitting else None


@pytest.fixture
def rig() -> Rig:
    return Rig()


def busy(rig: Rig) -> Rig:
    """A rig in which every metric has at least one sample."""
    series = rig.series()
    rig.choose(0, "cache_aware", "prefix")
    series.gaps.observe_evenly(0.05, 2)
    series.attempt_ended(500, "worker_status", 0.2)
    rig.metrics.request_received("/generate", "POST")
    rig.metrics.flush_observed(0.002, 10)
    rig.end(
        series=series,
        stream=True,
        head_seconds=0.1,
        queue_seconds=0.0,
        overhead_seconds=0.0002,
        ttft_seconds=0.1,
        input_tokens=100,
        output_tokens=10,
        cached_tokens=60,
    )
    rig.end(status="failed", http_status=500, error_type="connect", series=series)
    return rig


def test_requests_are_counted_when_they_arrive_by_route_and_method(rig: Rig) -> None:
    rig.metrics.request_received("/generate", "POST")
    rig.metrics.request_received("/generate", "POST")
    rig.metrics.request_received("/v1/traces", "GET")
    assert rig.value("smg_http_requests_total", path="/generate", method="POST") == 2
    assert rig.value("smg_http_requests_total", path="/v1/traces", method="GET") == 1


def test_an_invented_method_mints_no_series(rig: Rig) -> None:
    for n in range(100):
        rig.metrics.request_received("/generate", f"M{n}")
    assert rig.samples("smg_http_requests_total") == {
        (("method", "OTHER"), ("path", "/generate")): 100
    }


def test_answers_are_counted_by_status_and_error_code(rig: Rig) -> None:
    rig.end()
    rig.end(status="rejected", http_status=503, error_code="no_available_workers")
    rig.end(status=None, http_status=404, error_code="not_found", route="/v1/traces/{request_id}")
    responses = "smg_http_responses_total"
    assert rig.value(responses, status_code="200", error_code="") == 1
    assert rig.value(responses, status_code="503", error_code="no_available_workers") == 1
    assert rig.value(responses, status_code="404", error_code="not_found") == 1


def test_a_client_that_left_before_the_head_is_a_499(rig: Rig) -> None:
    rig.end(status="cancelled", http_status=None, error_type="client_gone")
    assert rig.samples("smg_http_responses_total") == {
        (("error_code", "client_closed_request"), ("status_code", "499")): 1
    }


def test_a_client_that_left_during_the_answer_keeps_the_status_it_was_sent(rig: Rig) -> None:
    rig.end(status="cancelled", http_status=200, error_type="client_gone")
    assert rig.value("smg_http_responses_total", status_code="200") == 1


def test_endings_are_counted_by_the_status_of_the_trace(rig: Rig) -> None:
    rig.end()
    rig.end(status="failed", error_type="worker_cut")
    requests = "trace_router_requests_total"
    assert rig.value(requests, status="completed", model="m1", error_type="") == 1
    assert rig.value(requests, status="failed", error_type="worker_cut") == 1


def test_requests_without_a_trace_are_no_inference(rig: Rig) -> None:
    rig.end(status=None, route="/v1/traces")
    assert rig.value("trace_router_requests_total") is None
    assert rig.value("smg_router_requests_total") is None
    assert rig.value("smg_http_rate_limit_total", result="allowed") == 0


def test_routed_requests_have_sglang_routers_labels(rig: Rig) -> None:
    rig.end(route="/v1/chat/completions", stream=True)
    assert rig.samples("smg_router_requests_total") == {
        (
            ("backend_type", "regular"),
            ("connection_mode", "http"),
            ("endpoint", "chat"),
            ("model", "m1"),
            ("router_type", "http"),
            ("streaming", "true"),
        ): 1
    }


@pytest.mark.parametrize(
    ("error_type", "error"),
    [
        (None, None),
        ("no_worker", "no_workers"),
        ("connect", "backend_error"),
        ("idle_timeout", "timeout"),
        ("client_gone", None),
    ],
)
def test_each_ending_of_what_had_a_place_counts_for_routing_and_errors_as_in_sglang_router(
    rig: Rig,
    error_type: ErrorType | None,
    error: str | None,
) -> None:
    rig.end(error_type=error_type)
    assert counted_for_admission(rig) == {"allowed"}
    assert rig.value("smg_router_requests_total") == 1
    errors = [dict(labels) for labels in rig.samples("smg_router_request_errors_total")]
    assert [labels["error_type"] for labels in errors] == ([error] if error else [])


@pytest.mark.parametrize(
    ("error_type", "results"),
    [
        ("queue_full", {"rejected"}),
        ("queue_timeout", {"rejected"}),
        ("too_large", set()),
        ("bad_request", set()),
        ("client_gone", set()),
        ("total_timeout", set()),
    ],
)
def test_what_had_no_place_is_rejected_only_where_that_is_why_it_ended(
    rig: Rig, error_type: ErrorType, results: set[str]
) -> None:
    rig.end(error_type=error_type, admitted=False)
    assert counted_for_admission(rig) == results
    assert rig.value("smg_router_requests_total") is None
    assert rig.value("smg_router_request_errors_total") is None


def counted_for_admission(rig: Rig) -> set[str]:
    return {
        labels[0][1] for labels, n in rig.samples("smg_http_rate_limit_total").items() if n == 1
    }


def test_models_named_by_clients_fold_into_other_beyond_fifty(rig: Rig) -> None:
    for n in range(MAX_UNLISTED_MODELS + 100):
        rig.end(model=f"invented-{n}")
    names = {dict(labels)["model"] for labels in rig.samples("trace_router_requests_total")}
    assert len(names) == MAX_UNLISTED_MODELS + 1
    assert rig.value("trace_router_requests_total", model="other") == 100


def test_a_model_that_is_served_has_its_own_series_also_after_a_flood(rig: Rig) -> None:
    for n in range(MAX_UNLISTED_MODELS + 1):
        rig.end(model=f"invented-{n}")
    rig.metrics.allow_models({"served"})
    rig.end(model="served")
    assert rig.value("trace_router_requests_total", model="served") == 1


def test_a_model_name_without_end_is_other(rig: Rig) -> None:
    rig.end(model="x" * 1000)
    assert rig.value("trace_router_requests_total", model="other") == 1


@pytest.mark.parametrize("model", [None, ""])
def test_a_request_without_a_model_is_unknown(rig: Rig, model: str | None) -> None:
    rig.end(model=model)
    assert rig.value("trace_router_requests_total", model="unknown") == 1


def test_hostile_label_values_are_escaped(rig: Rig) -> None:
    rig.end(model='a"\n\\b')
    assert rig.value("trace_router_requests_total", model='a"\n\\b') == 1


def test_a_duration_is_in_every_bucket_from_its_bound_up(rig: Rig) -> None:
    rig.end(duration_seconds=0.25, series=rig.series())
    bucket = "trace_router_request_duration_seconds_bucket"
    assert rig.value(bucket, le="0.1") == 0
    assert rig.value(bucket, le="0.25") == 1
    assert rig.value(bucket, le="240.0") == 1
    assert rig.value(bucket, le="+Inf") == 1
    assert rig.value("trace_router_request_duration_seconds_sum") == 0.25


def test_a_duration_beyond_every_bound_is_counted(rig: Rig) -> None:
    rig.end(duration_seconds=1000, series=rig.series())
    bucket = "trace_router_request_duration_seconds_bucket"
    assert rig.value(bucket, le="240.0") == 0
    assert rig.value(bucket, le="+Inf") == 1


def test_durations_are_told_apart_by_worker_route_and_status(rig: Rig) -> None:
    rig.end(series=rig.series(0))
    rig.end(series=rig.series(1), status="cancelled")
    rig.end(status="rejected", error_type="no_worker", http_status=503)
    count = "trace_router_request_duration_seconds_count"
    assert rig.value(count, node_id="worker-0", status="completed", route="/generate") == 1
    assert rig.value(count, node_id="worker-1", status="cancelled") == 1
    assert rig.value(count, node_id="none", status="rejected") == 1


def test_times_that_were_never_reached_are_not_observed(rig: Rig) -> None:
    rig.end(series=rig.series())
    assert rig.value("trace_router_ttft_seconds_count") == 0
    assert rig.value("trace_router_queue_seconds_count") is None
    assert rig.value("trace_router_overhead_seconds_count") is None
    assert rig.value("smg_http_request_duration_seconds_count") is None


def test_times_are_observed_where_they_belong(rig: Rig) -> None:
    rig.end(
        series=rig.series(),
        head_seconds=0.2,
        queue_seconds=0.3,
        overhead_seconds=0.0001,
        ttft_seconds=0.4,
    )
    assert rig.value("smg_http_request_duration_seconds_sum", path="/generate") == 0.2
    assert rig.value("trace_router_queue_seconds_sum", route="/generate") == 0.3
    assert rig.value("trace_router_overhead_seconds_bucket", le="5e-05") == 0
    assert rig.value("trace_router_overhead_seconds_bucket", le="0.0001") == 1
    assert rig.value("trace_router_ttft_seconds_sum", node_id="worker-0") == 0.4


def test_two_methods_to_one_route_share_what_is_told_by_route(rig: Rig) -> None:
    for method, route in (("POST", "/x"), ("PUT", "/x"), ("POST", "/y")):
        rig.metrics.request_received(route, method).queue_waits.observe(0.3)
    assert rig.samples("trace_router_queue_seconds_count") == {
        (("route", "/x"),): 2,
        (("route", "/y"),): 1,
    }


def test_events_that_came_together_share_their_gap(rig: Rig) -> None:
    rig.series().gaps.observe_evenly(0.04, 4)
    assert rig.value("trace_router_inter_token_seconds_count") == 4
    assert rig.value("trace_router_inter_token_seconds_sum") == 0.04
    assert rig.value("trace_router_inter_token_seconds_bucket", le="0.0075") == 0
    assert rig.value("trace_router_inter_token_seconds_bucket", le="0.01") == 4


def test_choices_are_counted_by_policy_reason_and_node(rig: Rig) -> None:
    rig.workers[0].model_id = "m1"
    rig.choose(0, "cache_aware", "prefix")
    rig.choose(0, "cache_aware", "spill")
    rig.choose(1, "cache_aware", "prefix")
    decisions = "trace_router_policy_decisions_total"
    assert rig.value(decisions, policy="cache_aware", reason="prefix", node_id="worker-0") == 1
    assert rig.value(decisions, policy="cache_aware", reason="prefix") == 2
    assert rig.value("smg_worker_selection_total", policy="cache_aware", model="m1") == 2
    assert rig.value("smg_worker_selection_total", policy="cache_aware", model="unknown") == 1


def test_expected_cached_tokens_are_held_against_those_reported(rig: Rig) -> None:
    for predicted, reported in ((80, 60), (10, 60), (50, None), (None, 60)):
        rig.end(
            series=rig.series(),
            input_tokens=100,
            cached_tokens=reported,
            predicted_cached_tokens=predicted,
        )
    assert rig.value("trace_router_predicted_cached_tokens_total", node_id="worker-0") == 90
    assert rig.value("trace_router_prediction_error_tokens_total", node_id="worker-0") == 70


def test_how_good_choices_were_is_counted(rig: Rig) -> None:
    choices: list[tuple[DecisionQuality, float, int | None]] = [
        *(("exact", 0.04, 100), ("degraded", 3.0, 20), ("exact", 0.0, None))
    ]
    for quality, age, regret in choices:
        rig.series().chose(Decision("p", "r", quality, 1, [], age, 0.0, regret))
    assert rig.value("trace_router_decision_quality_total", policy="p", quality="exact") == 2
    assert rig.value("trace_router_decision_quality_total", policy="p", quality="degraded") == 1
    assert rig.value("trace_router_decision_load_age_seconds_bucket", le="0.05") == 2
    assert rig.value("trace_router_decision_load_age_seconds_count") == 3
    assert rig.value("trace_router_decision_regret_tokens_total", policy="p") == 120


@pytest.mark.parametrize(
    ("http_status", "error_type", "error"),
    [
        (200, None, None),
        (404, "worker_status", None),
        (429, "worker_status", None),
        (500, "worker_status", "backend_error"),
        (503, None, "backend_error"),
        (504, "worker_status", "timeout"),
        (200, "worker_cut", "backend_error"),
        (200, "client_gone", None),
        (None, "connect", "backend_error"),
        (None, "first_byte_timeout", "timeout"),
        (None, "client_gone", None),
    ],
)
def test_each_attempt_is_counted_and_blamed_on_the_worker_only_by_its_fault(
    rig: Rig, http_status: int | None, error_type: ErrorType | None, error: str | None
) -> None:
    rig.series().attempt_ended(http_status, error_type, 0.5)
    status = "" if http_status is None else str(http_status)
    assert (
        rig.value(
            "trace_router_attempts_total",
            node_id="worker-0",
            status_code=status,
            error_type=error_type or "",
        )
        == 1
    )
    assert rig.value("trace_router_attempt_duration_seconds_sum") == 0.5
    responses = rig.value("smg_router_upstream_responses_total", status_code=status)
    assert responses == (None if http_status is None else 1)
    blamed = [dict(labels)["error_type"] for labels in rig.samples("smg_worker_errors_total")]
    assert blamed == ([error] if error else [])


def test_tokens_are_counted_per_worker_and_the_hit_rate_divides_by_known_ones_only(
    rig: Rig,
) -> None:
    rig.end(series=rig.series(), input_tokens=100, cached_tokens=60, output_tokens=7)
    rig.end(series=rig.series(), input_tokens=1000, output_tokens=1)
    rig.end(series=rig.series())
    assert rig.value("trace_router_input_tokens_total", node_id="worker-0") == 1100
    assert rig.value("trace_router_output_tokens_total") == 8
    assert rig.value("trace_router_cached_tokens_total") == 60
    assert rig.value("trace_router_cache_known_input_tokens_total") == 100


def test_the_state_of_the_workers_is_read_at_the_scrape(rig: Rig) -> None:
    rig.workers[0].start()
    rig.workers[1].health.probe_failed("refused")
    rig.workers[1].model_id = "m2"
    first = "http://localhost:30005"
    assert rig.value("smg_worker_requests_active", worker=first) == 1
    assert rig.value("smg_worker_health", worker=first) == 1
    assert rig.value("smg_worker_health", worker="http://localhost:30006") == 0
    assert rig.value("smg_worker_pool_size", model="m2") == 1
    assert rig.value("trace_router_worker_info", node_id="worker-0", worker=first) == 1


def test_the_circuit_breaker_is_shown_with_its_changes(rig: Rig) -> None:
    rig.series()
    permit = rig.workers[0].begin(now=0.0)
    assert permit is not None
    first = "http://localhost:30005"
    assert rig.value("smg_worker_cb_state", worker=first) == 0
    rig.workers[0].end(permit, "failure", now=1.0)
    assert rig.value("smg_worker_cb_state", worker=first) == 1
    assert rig.samples("smg_worker_cb_transitions_total") == {
        (("from", "closed"), ("to", "open"), ("worker", first)): 1
    }
    assert rig.workers[0].begin(now=1000.0) is not None
    assert rig.value("smg_worker_cb_state", worker=first) == 2


def test_a_removed_worker_is_listened_to_no_longer(rig: Rig) -> None:
    worker = rig.workers[0]
    series = rig.series()
    rig.metrics.forget(worker)
    assert worker.listeners == []
    rig.metrics.forget(worker)
    assert rig.series() is not series


def test_worker_urls_can_be_hidden() -> None:
    text = busy(Rig(hide_worker_urls=True)).text()
    assert "localhost" not in text
    assert 'smg_worker_health{worker="worker-0"} 1.0' in text


def test_a_worker_keeps_its_counts_when_its_name_or_model_changes(rig: Rig) -> None:
    rig.choose(0, "random", "only")
    rig.workers[0].node_id = "gpu-2"
    assert rig.value("trace_router_policy_decisions_total", node_id="gpu-2") == 1
    assert rig.series() is rig.series()


def test_the_series_of_a_removed_worker_go_and_no_total_falls(rig: Rig) -> None:
    rig.choose(0, "random", "only")
    rig.choose(1, "random", "only")
    rig.series(0).attempt_ended(200, None, 0.1)
    rig.metrics.forget(rig.workers.pop(0))
    assert rig.samples("trace_router_policy_decisions_total").keys() == {
        (("node_id", "worker-1"), ("policy", "random"), ("reason", "only"))
    }
    assert rig.value("smg_worker_selection_total") == 2
    assert rig.value("smg_router_upstream_responses_total") == 1
    assert rig.value("smg_worker_pool_size") == 1


def test_an_attempt_may_end_after_its_worker_was_removed(rig: Rig) -> None:
    series = rig.series(0)
    rig.metrics.forget(rig.workers.pop(0))
    series.attempt_ended(200, None, 0.1)
    rig.end(series=series)
    assert rig.value("smg_router_upstream_responses_total") == 1
    assert rig.value("trace_router_requests_total") == 1


def test_open_and_queued_requests_are_read_at_the_scrape(rig: Rig) -> None:
    rig.open, rig.queued = 7, 3
    assert rig.value("smg_http_connections_active") == 7
    assert rig.value("trace_router_queue_depth") == 3


def test_the_writer_and_the_store_are_shown(rig: Rig) -> None:
    rig.metrics.flush_observed(0.003, 40)
    rig.metrics.flush_observed(0.001, 2)
    assert rig.value("trace_router_store_up", kind="redis") == 1
    assert rig.value("trace_router_writer_buffered_records") == 4
    assert rig.value("trace_router_writer_buffered_bytes") == 900
    assert rig.value("trace_router_writer_dropped_records_total") == 2
    assert rig.value("trace_router_writer_failed_flushes_total") == 3
    assert rig.value("trace_router_lost_requests_total") == 5
    assert rig.value("trace_router_store_memory_bytes") == 1000
    assert rig.value("trace_router_store_memory_limit_bytes") == 4000
    assert rig.value("trace_router_writer_flushed_records_total") == 42
    assert rig.value("trace_router_writer_flush_seconds_count") == 2


def test_a_store_that_is_down_shows_zero(rig: Rig) -> None:
    rig.store = StoreState(kind="redis", state="down", buffered=0, buffered_bytes=0, dropped=0)
    assert rig.value("trace_router_store_up") == 0


def test_with_tracing_off_nothing_is_said_of_a_store(rig: Rig) -> None:
    rig.store = None
    assert "trace_router_store" not in rig.text()
    assert "trace_router_writer" not in rig.text()


def test_the_version_and_the_process_are_shown(rig: Rig) -> None:
    assert rig.value("trace_router_build_info", version="1.2.3") == 1
    assert rig.value("process_resident_memory_bytes") is not None
    assert rig.value("python_info") == 1


def test_a_scrape_changes_nothing(rig: Rig) -> None:
    def ours(text: str) -> list[str]:
        return [line for line in text.splitlines() if line.startswith(("smg_", "trace_router_"))]

    busy(rig)
    assert ours(rig.text()) == ours(rig.text())


def test_prometheus_may_ask_for_openmetrics(rig: Rig) -> None:
    accept = (
        "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
    )
    body, content_type = busy(rig).exposition.render(accept)
    assert content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert body.endswith(b"# EOF\n")
    assert "trace_router_requests" in {family.name for family in parse_openmetrics(body.decode())}


@pytest.mark.parametrize("accept", [None, "", "*/*", "text/plain;version=1e99"])
def test_everybody_else_gets_the_text_format(rig: Rig, accept: str | None) -> None:
    body, content_type = rig.exposition.render(accept)
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert b"# EOF" not in body


@pytest.mark.parametrize("buckets", [[], [0.0, 1.0], [1.0, 1.0], [2.0, 1.0], [1.0, float("inf")]])
def test_duration_buckets_must_rise_from_above_zero(buckets: list[float]) -> None:
    sources = Rig().metrics.sources
    with pytest.raises(ValueError, match="buckets must be"):
        Metrics(sources, version="1", duration_buckets=buckets)


def test_duration_buckets_can_be_chosen(rig: Rig) -> None:
    metrics = Metrics(rig.metrics.sources, version="1", duration_buckets=[1, 2])
    metrics.worker(rig.workers[0])
    text = Exposition(metrics).render(None)[0].decode()
    assert 'trace_router_ttft_seconds_bucket{le="2.0",model="unknown",node_id="worker-0"}' in text
    assert 'trace_router_ttft_seconds_bucket{le="2.5"' not in text


@pytest.mark.compose
def test_promtool_finds_nothing_to_complain_about(rig: Rig) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        if os.environ.get("CI"):
            pytest.fail("promtool is missing")
        pytest.skip("promtool is not installed")
    check = subprocess.run(
        [promtool, "check", "metrics"],
        input=busy(rig).text(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (check.returncode, check.stdout, check.stderr) == (0, "", "")
