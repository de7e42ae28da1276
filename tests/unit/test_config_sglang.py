"""Command lines and Python calls written for sglang-router 0.3.2 start this router."""

from __future__ import annotations

import shlex
from types import SimpleNamespace

import pytest

from router.compat import Accepted
from router.config import Config
from router.configure import from_arguments, spellings
from router.core.membership import Listed
from router.flags import ConfigError, options_of
from router.launch import Router
from router.policytype import PolicyType

# Every flag of `python -m sglang_router.launch_router` 0.3.2 but --help: its default (None: none)
# and a way to give it.
FLAGS: dict[str, tuple[object, str]] = {
    "worker-urls": ((), "http://a:8000 http://[::1]:8000"),
    "host": ("0.0.0.0", "::"),
    "port": (30000, "30001"),
    "mini-lb": (False, ""),
    "pd-disaggregation": (False, ""),
    "prefill": ((), "http://p:8080 none --pd-disaggregation"),
    "decode": ((), "http://d:8081 --pd-disaggregation"),
    "policy": ("cache_aware", "power_of_two"),
    "prefill-policy": (None, "bucket --pd-disaggregation"),
    "decode-policy": (None, "power_of_two --pd-disaggregation"),
    "worker-startup-timeout-secs": (1800, "60"),
    "worker-startup-check-interval": (30, "5"),
    "cache-threshold": (0.3, "0.5"),
    "balance-abs-threshold": (64, "0"),
    "balance-rel-threshold": (1.5, "1.0"),
    "eviction-interval-secs": (60, "120"),
    "max-tree-size": (67108864, "1024"),
    "max-idle-secs": (14400, "60"),
    "assignment-mode": ("random", "min_load"),
    "max-payload-size": (536870912, "1048576"),
    "bucket-adjust-interval-secs": (5, "6"),
    "dp-aware": (False, ""),
    "enable-igw": (False, ""),
    "api-key": (None, "secret"),
    "log-dir": (None, "/tmp/logs"),
    "log-level": ("info", "warn"),
    "service-discovery": (False, ""),
    "selector": ((), "app=worker role=gpu"),
    "service-discovery-port": (80, "8000"),
    "service-discovery-namespace": (None, "llm"),
    "prefill-selector": ((), "role=prefill"),
    "decode-selector": ((), "role=decode"),
    "prometheus-host": ("0.0.0.0", "127.0.0.1"),
    "prometheus-duration-buckets": ((), "0.1 1 10"),
    "request-id-headers": (
        ("x-request-id", "x-correlation-id", "x-trace-id", "request-id"),
        "x-my-id",
    ),
    "shutdown-grace-period-secs": (180, "10"),
    "max-concurrent-requests": (-1, "-1"),
    "queue-size": (100, "0"),
    "queue-timeout-secs": (60, "5"),
    "rate-limit-tokens-per-second": (None, "100"),
    "cors-allowed-origins": ((), "http://localhost:3000"),
    "retry-max-retries": (5, "3"),
    "retry-initial-backoff-ms": (50, "10"),
    "retry-max-backoff-ms": (30000, "1000"),
    "retry-backoff-multiplier": (1.5, "2"),
    "retry-jitter-factor": (0.2, "0"),
    "disable-retries": (False, ""),
    "health-failure-threshold": (3, "1"),
    "health-success-threshold": (2, "1"),
    "health-check-timeout-secs": (5, "1"),
    "health-check-interval-secs": (60, "2"),
    "health-check-endpoint": ("/health", "/health_generate"),
    "disable-health-check": (False, ""),
    "cb-failure-threshold": (10, "5"),
    "cb-success-threshold": (3, "2"),
    "cb-timeout-duration-secs": (60, "30"),
    "cb-window-duration-secs": (120, "60"),
    "disable-circuit-breaker": (False, ""),
    "model-path": (None, "meta-llama/Llama-3.1-8B"),
    "tokenizer-path": (None, "/models/t"),
    "chat-template": (None, "/models/t.jinja"),
    "tokenizer-cache-enable-l0": (False, ""),
    "tokenizer-cache-l0-max-entries": (10000, "5"),
    "tokenizer-cache-enable-l1": (False, ""),
    "tokenizer-cache-l1-max-memory": (52428800, "5"),
    "reasoning-parser": (None, "qwen3"),
    "tool-call-parser": (None, "json"),
    "mcp-config-path": (None, "/mcp.yaml"),
    "backend": ("sglang", "openai"),
    "history-backend": ("memory", "none"),
    "oracle-wallet-path": (None, "/w"),
    "oracle-tns-alias": (None, "t"),
    "oracle-connect-descriptor": (None, "d"),
    "oracle-username": (None, "u"),
    "oracle-password": (None, "p"),
    "oracle-pool-min": (1, "2"),
    "oracle-pool-max": (16, "2"),
    "oracle-pool-timeout-secs": (30, "2"),
    "postgres-db-url": (None, "postgres://p"),
    "postgres-pool-max": (16, "2"),
    "redis-url": (None, "redis://r:6379"),
    "redis-pool-max": (16, "2"),
    "redis-retention-days": (30, "-1"),
    "client-cert-path": (None, "c --client-key-path k"),
    "client-key-path": (None, "k --client-cert-path c"),
    "ca-cert-paths": ((), "a b"),
    "tls-cert-path": (None, "c --tls-key-path k"),
    "tls-key-path": (None, "k --tls-cert-path c"),
    "enable-trace": (False, ""),
    "otlp-traces-endpoint": ("localhost:4317", "otel:4317"),
    "control-plane-api-keys": ((), "'key1:Service Account:admin:secret123'"),
    "control-plane-audit-enabled": (False, ""),
    "jwt-issuer": (None, "https://issuer --api-key k"),
    "jwt-audience": (None, "api://router"),
    "jwt-jwks-uri": (None, "https://issuer/keys"),
    "jwt-role-mapping": ((), "Gateway.Admin=admin Gateway.User=user"),
    # Given only when asked for; see docs/flags.md.
    "prometheus-port": (None, "29000"),
    "request-timeout-secs": (None, "1800"),
}
OF_OURS_THAT_ACT = {option.name for option in options_of(Config)}


def parse(line: str) -> Config:
    return from_arguments(shlex.split(line), {})


def test_the_table_of_this_test_is_whole() -> None:
    assert len(FLAGS) == 98


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_is_accepted_and_acts_or_is_named_in_one_warning(flag: str) -> None:
    config = parse(f"--{flag} {FLAGS[flag][1]}")
    name = flag.replace("-", "_")
    if name in OF_OURS_THAT_ACT:
        assert config.warnings == ()
    else:
        assert len(config.warnings) == 1
        assert f"--{flag}" in config.warnings[0]


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_has_the_default_it_had(flag: str) -> None:
    option, _ = spellings()[flag.replace("-", "_")]
    assert option.default == FLAGS[flag][0]


def test_all_flags_at_once_give_one_warning_line() -> None:
    line = " ".join(f"--{flag} {how}" for flag, (_, how) in FLAGS.items() if flag != "worker-urls")
    config = parse(line)
    assert len(config.warnings) == 1
    inert = [option.argument for option in options_of(Accepted)]
    inert = [name for name in inert if name[2:] in FLAGS]
    assert [name for name in inert if name not in config.warnings[0]] == []


def test_the_warning_tells_what_cannot_matter_from_what_is_to_come() -> None:
    config = parse("--control-plane-audit-enabled --history-backend none --tokenizer-path /t")
    assert config.warnings == (
        "Accepted without effect: --history-backend, --tokenizer-path. "
        "Not supported yet: --control-plane-audit-enabled",
    )


def test_a_command_line_with_prefill_and_decode_workers_starts() -> None:
    config = parse(
        "--pd-disaggregation --prefill http://p1:80 9000 --prefill http://p2:80 "
        "--prefill http://p3:80 none --decode http://d1:80 --decode http://d2:80 "
        "--prefill-policy cache_aware --decode-policy power_of_two"
    )
    assert config.warnings == ()
    assert config.static_workers == (
        Listed("http://p1:80", "prefill", 9000),
        Listed("http://p2:80", "prefill"),
        Listed("http://p3:80", "prefill"),
        Listed("http://d1:80", "decode"),
        Listed("http://d2:80", "decode"),
    )


def test_workers_of_both_kinds_are_settings_from_python_and_in_the_environment() -> None:
    config = Router(
        pd_disaggregation=True,
        prefill_urls=[("http://p1", 9000), ("http://p2", None), "http://p3"],
        decode_urls=["http://d"],
        decode_policy=PolicyType.RoundRobin,
    ).config
    environ = {
        "TRACE_ROUTER_PD_DISAGGREGATION": "true",
        "TRACE_ROUTER_PREFILL": "http://p1 9000 http://p2 none http://p3",
        "TRACE_ROUTER_DECODE": "http://d",
        "TRACE_ROUTER_DECODE_POLICY": "round_robin",
    }
    same = from_arguments([], environ)
    assert config.static_workers == same.static_workers
    assert [str(given) for given in config.prefill] == ["http://p1 9000", "http://p2", "http://p3"]
    assert config.decode_policy == same.decode_policy


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("--worker-urls http://w", "--worker-urls: with --pd-disaggregation"),
        ("--prefill 9000", "--prefill: the bootstrap port 9000 follows no URL"),
        ("--prefill http://p 70000", "--prefill: expected URL .PORT|none."),
        ("--prefill http://p 1 2", "--prefill: the bootstrap port 2 follows no URL"),
        ("--prefill ftp://p", "--prefill: worker URL"),
        ("--decode http://d 9000", "--decode: worker URL '9000'"),
        ("--prefill http://a:80 --decode http://a", "claimed by two workers, http://a"),
        ("--pd-protocol tcp", "--pd-protocol: expected one of sglang, vllm"),
    ],
)
def test_pairs_that_make_no_sense_are_refused_in_words(line: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse(f"--pd-disaggregation {line}")


def test_workers_of_pairs_without_the_switch_are_named_in_the_warning() -> None:
    config = parse("--worker-urls http://w --prefill http://p --decode http://d")
    assert config.static_workers == (Listed("http://w"),)
    assert config.warnings == (
        "Without effect as --pd-disaggregation is not given: --prefill, --decode",
    )


def test_jwt_alone_is_refused_because_the_admin_routes_would_be_open() -> None:
    with pytest.raises(ConfigError, match="--jwt-issuer: .* give --admin-api-key"):
        parse("--jwt-issuer https://i --jwt-audience a")


def test_a_single_node_command_line_starts() -> None:
    config = parse(
        "--worker-urls http://worker1:8000 http://worker2:8000 --policy cache_aware "
        "--cache-threshold 0.5 --balance-abs-threshold 32 --balance-rel-threshold 1.0001 "
        "--eviction-interval-secs 120 --max-tree-size 67108864 --host 0.0.0.0 --port 30009"
    )
    assert config.worker_urls == ("http://worker1:8000", "http://worker2:8000")
    assert (config.port, config.cache_threshold, config.balance_rel_threshold) == (
        30009,
        0.5,
        1.0001,
    )


def test_a_production_command_line_starts() -> None:
    config = parse(
        "--worker-urls http://w:8000 --api-key k --max-concurrent-requests 256 --queue-size 50 "
        "--queue-timeout-secs 30 --rate-limit-tokens-per-second 512 --retry-max-retries 3 "
        "--cb-failure-threshold 5 --cb-success-threshold 2 --health-check-interval-secs 30 "
        "--request-id-headers x-request-id x-trace-id --request-timeout-secs 600 "
        "--prometheus-host 0.0.0.0 --prometheus-port 29000 --log-level debug --log-dir ./logs"
    )
    assert (config.concurrency_limit, config.queue_size, config.max_attempts) == (256, 50, 3)
    assert (config.request_timeout_secs, config.prometheus_port) == (600, 29000)
    assert config.warnings == ()


def test_a_kubernetes_command_line_is_understood() -> None:
    config = parse(
        "--service-discovery --selector 'app=sglang-worker role=inference' "
        "--service-discovery-port 8000 --service-discovery-namespace production"
    )
    assert config.warnings == ()
    assert (config.service_discovery, config.service_discovery_port) == (True, 8000)
    assert config.selector == ("app=sglang-worker", "role=inference")
    assert config.service_discovery_namespace == "production"


def test_an_argument_that_holds_a_whole_list_is_split() -> None:
    assert parse("--worker-urls 'http://a:1 http://b:2'").worker_urls == (
        "http://a:1",
        "http://b:2",
    )


def test_router_args_of_sglang_router_are_taken_over() -> None:
    # RouterArgs holds a value for every flag, most of them defaults or None.
    args = SimpleNamespace(
        worker_urls=["http://a:1"],
        policy="round_robin",
        port=30009,
        request_timeout_secs=1800,
        prometheus_port=None,
        log_level=None,
        selector={},
        ca_cert_paths=[],
        dp_aware=True,
        prefill_urls=[("http://p", None)],
        server_cert_path="cert.pem",
        server_key_path="key.pem",
        bootstrap_port_annotation="sglang.ai/bootstrap-port",
        control_plane_api_keys=[("id", "name", "s3cret", "admin")],
        something_else=1,
    )
    config = Router.from_args(args).config
    assert (config.policy, config.port, config.tls_cert_path) == ("round_robin", 30009, "cert.pem")
    assert config.admin_keys == ("s3cret",)
    assert config.warnings == ("Without effect as --pd-disaggregation is not given: --prefill",)
