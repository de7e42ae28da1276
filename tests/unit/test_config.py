"""Settings: flags before environment before default; complete or refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from router.config import Config
from router.configure import from_arguments, from_keywords
from router.core.membership import Listed
from router.flag_docs import markdown
from router.flag_types import PrefillUrl
from router.flags import ConfigError, Option, argument, options_of, variable
from router.policies import REGISTRY, PolicyConfig
from router.policytype import PolicyType
from router.shown_settings import effective
from router.worker_names import worker_names

ROOT = Path(__file__).parents[2]
OPTIONS = options_of(Config)
# A value for each kind of flag that differs from the default, as text and as it is read.
SAMPLES: dict[str, tuple[str, object]] = {
    "worker_urls": ("http://a:1 http://b:2", ("http://a:1", "http://b:2")),
    "node_ids": ("", ()),
    "selector": ("app=a tier=b", ("app=a", "tier=b")),
    "prefill_selector": ("role=p", ("role=p",)),
    "decode_selector": ("role=d", ("role=d",)),
    "service_discovery_port": ("8000", 8000),
    "discovery_dns": ("http://a:1 http://b:2", ("http://a:1", "http://b:2")),
    "port_gpu_mapping": ('{"30005": "cuda:2"}', {30005: "cuda:2"}),
    "policy": ("random", "random"),
    "assignment_mode": ("min_load", "min_load"),
    "redis_url": ("rediss://h:1/0", "rediss://h:1/0"),
    "receipt_candidates": ("all", "all"),
    "log_level": ("DEBUG", "debug"),
    "log_format": ("json", "json"),
    "request_id_headers": ("x-a x-b", ("x-a", "x-b")),
    "forward_paths": ("/start_profile", ("/start_profile",)),
    "health_check_endpoint": ("/ping", "/ping"),
    "prometheus_duration_buckets": ("0.5 1", (0.5, 1.0)),
    "cache_threshold": ("0.9", 0.9),
    "retry_jitter_factor": ("0.9", 0.9),
    "queue_timeout_secs": ("7", 7.0),
    "retry_initial_backoff_ms": ("51", 51),
    "retry_max_backoff_ms": ("51", 51),
    "prefill": (
        "http://p:1 9000 http://q:1",
        (PrefillUrl("http://p:1", 9000), PrefillUrl("http://q:1")),
    ),
    "decode": ("http://d:1 http://e:1", ("http://d:1", "http://e:1")),
    "pd_protocol": ("vllm", "vllm"),
    "prefill_policy": ("random", "random"),
    "decode_policy": ("random", "random"),
    "policy_weights": ('{"30005": 0.7}', {"30005": 0.7}),
}
# Only together with another.
PAIRS = {
    *("tls_cert_path", "tls_key_path", "client_cert_path", "client_key_path"),
    *("model_alias", "model_policy", "dp_size"),
}


def sample(option: Option) -> tuple[str, object]:
    if option.name in SAMPLES:
        return SAMPLES[option.name]
    if option.is_switch:
        return ("false", False) if option.default else ("true", True)
    if option.name == "control_plane_api_keys":
        return "i:n:admin:k", option.convert("i:n:admin:k", "value", "")
    if option.is_list:
        return "x-one x-two", ("x-one", "x-two")
    if option.metavar in ("N", "SECONDS", "BYTES", "CHARACTERS"):
        return "4711", 4711
    return "text", "text"


def parse(*arguments: str, environ: Mapping[str, str] | None = None) -> Config:
    return from_arguments(arguments, environ or {})


def refusal(*arguments: str, environ: Mapping[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as refused:
        parse(*arguments, environ=environ)
    return str(refused.value)


NAMES = [o for o in OPTIONS if o.name not in PAIRS | {"node_ids"}]


@pytest.mark.parametrize("option", NAMES, ids=lambda option: option.name)
def test_each_setting_is_read_from_flag_environment_and_keyword(option: Option) -> None:
    text, value = sample(option)
    assert value != option.default
    if option.is_switch:
        flag = option.flag.negation if option.default else option.name
        words = [argument(str(flag))]
    elif option.name == "control_plane_api_keys":
        words = [option.argument, text]
    else:
        words = [option.argument, *(text.split() if option.is_list else [text])]
    assert getattr(parse(*words), option.name) == value
    assert getattr(parse(environ={variable(option.name): text}), option.name) == value
    assert getattr(from_keywords({option.name: value}, {}), option.name) == value


def test_the_certificate_and_its_key_come_together() -> None:
    config = parse("--tls-cert-path", "c", "--tls-key-path", "k")
    assert (config.tls_cert_path, config.tls_key_path) == ("c", "k")
    assert refusal("--tls-cert-path", "c") == (
        "--tls-cert-path and --tls-key-path: give both or neither"
    )
    assert "--client-key-path" in refusal("--client-cert-path", "c")


def test_a_flag_wins_over_the_environment_and_that_over_the_default() -> None:
    environ = {"TRACE_ROUTER_PORT": "1111"}
    assert parse().port == 30000
    assert parse(environ=environ).port == 1111
    assert parse("--port", "2222", environ=environ).port == 2222
    assert from_keywords({"port": 3333}, environ).port == 3333
    assert from_keywords({"port": None}, environ).port == 1111


def test_a_flag_also_wins_over_the_environment_under_another_name() -> None:
    environ = {"TRACE_ROUTER_TRACE_TTL_SECONDS": "1", "TRACE_ROUTER_DISABLE_REQUEST_TRACKING": "1"}
    assert parse(environ=environ).trace_ttl == 1
    assert parse(environ=environ).enable_request_tracking is False
    given = ("--trace-ttl", "2", "--enable-tracking")
    assert parse(*given, environ=environ).trace_ttl == 2
    assert parse(*given, environ=environ).enable_request_tracking is True


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("--workers http://a:1", "worker_urls", ("http://a:1",)),
        ("--worker-urls http://a:1 --workers http://b:2", "worker_urls", ("http://a:1", "http://b:2")),
        ("--trace-ttl-seconds 5", "trace_ttl", 5),
        ("--enable-tracking", "enable_request_tracking", True),
        ("--disable-request-tracking", "enable_request_tracking", False),
        ("--disable-request-tracking --enable-tracking", "enable_request_tracking", True),
        ("--log-level WARNING", "log_level", "warn"),
        ("--idle-timeout-secs 0.5", "idle_timeout_secs", 0.5),
    ],
)  # fmt: skip
def test_aliases_mean_the_same(words: str, name: str, value: object) -> None:
    assert getattr(parse(*words.split()), name) == value


def test_the_redis_url_is_also_read_where_sglang_router_reads_it() -> None:
    environ = {"REDIS_URL": "redis://a:1"}
    assert parse(environ=environ).redis_url == "redis://a:1"
    environ["TRACE_ROUTER_REDIS_URL"] = "redis://b:2"
    assert parse(environ=environ).redis_url == "redis://b:2"


def test_an_empty_variable_is_not_given() -> None:
    environ = {"TRACE_ROUTER_API_KEY": "", "TRACE_ROUTER_WORKER_URLS": " ", "REDIS_URL": ""}
    config = parse(environ=environ)
    assert (config.api_key, config.worker_urls, config.redis_url) == (None, (), None)


def test_what_kubernetes_puts_beside_a_service_of_our_name_is_not_ours() -> None:
    config = parse(
        environ={
            "TRACE_ROUTER_PORT": "tcp://10.0.0.1:30000",
            "TRACE_ROUTER_PORT_30000_TCP_PROTO": "tcp",
            "TRACE_ROUTER_SERVICE_HOST": "10.0.0.1",
        }
    )
    assert (config.port, config.warnings) == (30000, ())


def test_a_variable_that_is_no_setting_is_warned_about() -> None:
    config = parse(environ={"TRACE_ROUTER_POLICI": "random"})
    assert config.warnings == (
        "Environment variable TRACE_ROUTER_POLICI is not a setting; "
        "did you mean TRACE_ROUTER_POLICY or TRACE_ROUTER_POLICY_SEED?",
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--port x", "--port: expected a whole number from 0 to 65535, got 'x'"),
        ("--port 65536", "--port: expected a whole number from 0 to 65535, got '65536'"),
        ("--cache-threshold 1.1", "--cache-threshold: expected a number from 0 to 1, got '1.1'"),
        ("--cache-threshold nan", "--cache-threshold: expected a number from 0 to 1, got 'nan'"),
        ("--idle-timeout-secs inf", "--idle-timeout-secs: expected a number above 0, got 'inf'"),
        ("--trace-ttl 0", "--trace-ttl: expected a whole number of at least 1, got '0'"),
        ("--log-format xml", "--log-format: expected one of json, text, got 'xml'"),
        ("--redis-url http://x", "--redis-url: expected redis://HOST:PORT/DB, "
         "redis+sentinel://HOST:PORT,.../MASTER, redis+cluster://HOST:PORT,..., the same with "
         "rediss, or unix:///PATH"),
        ("--forward-paths x", "--forward-paths: expected paths that begin with /, got 'x'"),
        ("--port-gpu-mapping {", "--port-gpu-mapping: expected a JSON object from ports to names "
         "of at most 64 letters, digits, '.', '_', ':' or '-', got '{'"),
        ('--policy-weights {"a":0}', "--policy-weights: expected a JSON object from ports, "
         "node_ids or URLs to numbers of at least 0, one of them above 0, got '{\"a\":0}'"),
        ("--worker-urls ftp://x", "--worker-urls: worker URL 'ftp://x': expected http://HOST:PORT "
         "or https://HOST:PORT"),
        ("--policy best", f"--policy: expected one of {', '.join(PolicyType)}, or FILE.py:CLASS, "
         "got 'best'"),
        ("--fleet a{b}", "--fleet: expected at most 128 letters, digits, '.', '_' or '-', "
         "got 'a{b}'"),
        ("--prometheus-duration-buckets 2 1", "--prometheus-duration-buckets: expected rising "
         "numbers"),
        ("--prometheus-port 30000", "--prometheus-port: 30000 is the serving port; expected "
         "another"),
        ("--retry-max-backoff-ms 1", "--retry-max-backoff-ms: expected at least "
         "--retry-initial-backoff-ms"),
        ("--max-concurrent-requests 1 --queue-timeout-secs 0", "--queue-timeout-secs: expected a "
         "number above 0 where there is a queue"),
        ("--worker-url http://x", "unknown flag --worker-url; did you mean --worker-urls or "
         "--hide-worker-urls?"),
        ('--port-gpu-mapping {"1":"a","1":"b"}', "--port-gpu-mapping: '1' is given twice"),
        ("--host=", "--host: expected some text, got ''"),
        ("--port", "argument --port: expected one argument"),
    ],
)  # fmt: skip
def test_a_bad_value_is_refused_naming_flag_and_what_is_allowed(words: str, message: str) -> None:
    assert refusal(*words.split()) == message


def test_a_bad_variable_is_refused_naming_it_and_its_flag() -> None:
    assert refusal(environ={"TRACE_ROUTER_PORT": "x"}) == (
        "TRACE_ROUTER_PORT (--port): expected a whole number from 0 to 65535, got 'x'"
    )
    assert refusal(environ={"TRACE_ROUTER_DISABLE_RETRIES": "perhaps"}) == (
        "TRACE_ROUTER_DISABLE_RETRIES (--disable-retries): expected one of "
        "1, true, yes, on, 0, false, no, off, got 'perhaps'"
    )


def test_all_problems_are_told_at_once() -> None:
    assert refusal("--port", "x", "--trace-ttl", "y").count("\n") == 1


def test_two_names_of_one_setting_that_disagree_are_refused() -> None:
    with pytest.raises(ConfigError, match="enable_tracking and disable_request_tracking are both"):
        from_keywords({"enable_tracking": True, "disable_request_tracking": False}, {})


def test_a_misspelt_flag_does_not_repeat_the_key_behind_it() -> None:
    message = refusal("--api-kye", "s3cret", "--admin-api-kye=s3cret")
    assert "--api-kye, --admin-api-kye" in message
    assert "s3cret" not in message


def test_a_key_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("s3cret\n")
    assert parse("--api-key-file", str(file)).api_key == "s3cret"
    assert parse(environ={"TRACE_ROUTER_ADMIN_API_KEY_FILE": str(file)}).admin_api_key == "s3cret"
    assert from_keywords({"worker_api_key_file": file}, {}).worker_api_key == "s3cret"
    assert refusal("--api-key-file", str(file), "--api-key", "x") == (
        "--api-key-file and --api-key are both given; give one"
    )


def test_a_key_file_that_holds_no_key_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "key"
    assert refusal("--api-key-file", str(file)) == (
        f"--api-key-file: cannot read '{file}': No such file or directory"
    )
    file.write_text("\n")
    assert refusal("--api-key-file", str(file)) == f"--api-key-file: '{file}' is empty"
    file.write_text("two words")
    assert refusal("--api-key-file", str(file)) == (
        "--api-key-file: expected visible ASCII characters without spaces"
    )


def test_keys_fall_back_as_the_contract_says() -> None:
    assert parse().admin_keys == ()
    only = parse("--api-key", "a")
    assert (only.admin_keys, only.static_worker_key) == (("a",), "a")
    each = parse("--api-key", "a", "--admin-api-key", "b", "--worker-api-key", "c")
    assert (each.admin_keys, each.static_worker_key) == (("b",), "c")


def test_only_control_plane_keys_of_role_admin_open_the_admin_routes() -> None:
    config = parse("--control-plane-api-keys", "1:The Ops:admin:a:b", "2:Read Only:user:c")
    assert config.admin_keys == ("a:b",)
    message = refusal("--control-plane-api-keys", "1:x:owner:s3cret")
    assert message == (
        "--control-plane-api-keys: expected ID:NAME:ROLE:KEY with role admin or user"
    )


SECRETS = {
    "api_key": "s3cret-1",
    "admin_api_key": "s3cret-2",
    "worker_api_key": "s3cret-3",
    "control_plane_api_keys": ["i:n:admin:s3cret-4"],
    "redis_url": "redis://user:s3cret-5@host:6379/0",
}


def test_secrets_are_masked_wherever_settings_are_shown() -> None:
    config = from_keywords({**SECRETS, "port": 5}, {})
    for shown in (effective(config), repr(config), str(config), f"{config}"):
        assert "s3cret" not in shown
        assert "redis_url=redis://user:***@host:6379/0" in shown
        assert "api_key=***" in shown
        assert "port=5" in shown


@pytest.mark.parametrize(
    "url",
    [
        "redis://:s3c@ret@h:1",
        "redis://:s3/cret@h",
        "unix:///s?db=0&password=s3cret",
        "redis+sentinel://u:s3cret@a:1,b:2/m?sentinel_password=s3cret",
    ],
)
def test_the_password_of_any_redis_url_is_masked(url: str) -> None:
    shown = effective(parse("--redis-url", url))
    assert "s3" not in shown
    assert "cret" not in shown
    assert "***" in shown


@pytest.mark.parametrize("name", SECRETS)
def test_a_bad_secret_is_not_repeated(name: str) -> None:
    with pytest.raises(ConfigError) as refused:
        from_keywords({name: "not allowed: s3cret\x01"}, {})
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    "setting",
    ["api_key", "fleet", "router_id", "redis_url_file", "health_check_endpoint", "node_ids",
     "forward_headers"],
)  # fmt: skip
def test_a_line_break_at_the_end_of_a_value_does_not_slip_through(setting: str) -> None:
    values: dict[str, object] = {"worker_urls": ["http://a:1"], setting: "/x\n"}
    if setting in ("node_ids", "forward_headers"):
        values[setting] = [("x\n")]
        assert getattr(from_keywords(values, {}), setting) == ("x",)
    else:
        with pytest.raises(ConfigError):
            from_keywords(values, {})


def test_settings_cannot_change_after_the_start() -> None:
    with pytest.raises(AttributeError):
        parse().port = 1  # type: ignore[misc]


def test_every_replica_has_a_name_of_its_own() -> None:
    assert parse().router_id != parse().router_id
    assert parse("--router-id", "r1").router_id == "r1"


def test_a_config_made_without_sources_is_complete() -> None:
    config = Config()
    assert msgspec.structs.asdict(config) == {
        **msgspec.structs.asdict(parse()),
        "router_id": config.router_id,
    }


def named(*words: str) -> list[tuple[str, str | None]]:
    return [(listed.url, name) for listed, name in worker_names(parse(*words))]


TWO = ("--worker-urls", "http://a:30005", "http://b:30006")


def test_workers_have_no_name_of_their_own_unless_asked() -> None:
    assert named(*TWO) == [("http://a:30005", None), ("http://b:30006", None)]


def test_node_ids_name_workers_in_order() -> None:
    assert named(*TWO, "--node-ids", "gpu-2") == [("http://a:30005", "gpu-2"), ("http://b:30006", None)]  # fmt: skip


def test_the_port_mapping_names_the_worker_on_the_port() -> None:
    mapping = '{"30006": "cuda:3", "30099": "cuda:9"}'
    assert named(*TWO, "--port-gpu-mapping", mapping)[1] == ("http://b:30006", "cuda:3")
    config = from_keywords({"worker_urls": ["http://b"], "port_gpu_mapping": {80: "cuda:3"}}, {})
    assert worker_names(config) == [(Listed("http://b"), "cuda:3")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*TWO, "http://A:30005/"), "--worker-urls: http://a:30005 is claimed by two workers, "
         "http://a:30005 and http://A:30005/"),
        ((*TWO, "--node-ids", "x", "x"), "the name 'x' is claimed by two workers, "
         "http://a:30005 and http://b:30006"),
        ((*TWO, "--node-ids", "worker-1"), "the name 'worker-1' is claimed by two workers, "
         "http://a:30005 and http://b:30006"),
        ((*TWO, "--port-gpu-mapping", '{"30005": "x", "30006": "x"}'), "the name 'x' is claimed "
         "by two workers, http://a:30005 and http://b:30006"),
        ((*TWO, "http://c:30006", "--port-gpu-mapping", '{"30006": "x"}'), "--port-gpu-mapping: "
         "port 30006 is claimed by two workers, http://b:30006 and http://c:30006"),
        ((*TWO, "--node-ids", "x", "y", "z"), "--node-ids: 'z' is one name more than workers"),
        ((*TWO, "--node-ids", "x", "--port-gpu-mapping", '{"30005": "y"}'), "http://a:30005 is "
         "named 'x' by --node-ids and 'y' by --port-gpu-mapping"),
        ((*TWO, "--node-ids", "none"), "http://a:30005: 'none' cannot name a worker"),
    ],
)  # fmt: skip
def test_names_that_would_not_tell_workers_apart_are_refused(
    words: tuple[str, ...], message: str
) -> None:
    assert refusal(*words) == message


def test_the_policies_that_can_be_asked_for_are_those_there_are() -> None:
    assert {policy.value for policy in PolicyType} == set(REGISTRY)


def test_a_policy_made_without_settings_has_the_flags_defaults() -> None:
    config, policy = Config(), PolicyConfig()
    for name in policy.__struct_fields__:
        assert getattr(policy, name) == getattr(config, name)


def test_the_page_of_flags_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "flags.md"
    assert page.read_text(encoding="utf-8") == markdown()


def test_every_setting_that_acts_is_read_by_somebody() -> None:
    """One that nobody reads is declared in compat.py, and the start says so."""
    code = "".join(path.read_text() for path in (ROOT / "router").rglob("*.py"))
    read = {*re.findall(r"\.(\w+)", code), *PolicyConfig.__struct_fields__}
    assert [option.name for option in OPTIONS if option.name not in read] == []
