"""From flags, environment variables and keywords to one `Config`: complete or refused.

What is given first in this order wins: flags or keywords, then the environment, then the default.
All problems are reported at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Final, NamedTuple

from router.arguments import parse_arguments
from router.compat import NOT_YET_SUPPORTED, UNUSED, Accepted
from router.config import Config
from router.flags import (
    ENV_PREFIX,
    ConfigError,
    Option,
    SpellingKind,
    argument,
    did_you_mean,
    options_of,
    variable,
)
from router.worker_names import worker_names

# In Kubernetes a Service named trace-router puts these into every pod of its namespace:
# TRACE_ROUTER_PORT=tcp://10.0.0.1:30000, TRACE_ROUTER_SERVICE_HOST=... They are not ours.
KUBERNETES_NAME: Final = re.compile(r"TRACE_ROUTER_(SERVICE_|PORT_\d)")
NOT_SETTINGS: Final = frozenset(("TRACE_ROUTER_URL",))  # read by `trace-router traces`
KUBERNETES_VALUE: Final = re.compile(r"(tcp|udp|sctp)://")


class Given(NamedTuple):
    """One value that someone gave, under one of the names of its flag."""

    option: Option
    kind: SpellingKind
    label: str
    value: object


@cache
def spellings() -> Mapping[str, tuple[Option, SpellingKind]]:
    """Every name that a setting can be given under, underscored."""
    return {
        spelling: (option, kind)
        for declarations in (Config, Accepted)
        for option in options_of(declarations)
        for spelling, kind in option.spellings()
    }


def from_arguments(arguments: Sequence[str], environ: Mapping[str, str]) -> Config:
    """The settings of a command line. Raises ConfigError."""
    return from_flags(parse_arguments(arguments), environ)


def from_flags(values: Mapping[str, object], environ: Mapping[str, str]) -> Config:
    """The settings of flags, by spelling, that a command line gave; None means not given.

    Raises ConfigError.
    """
    given = [
        Given(*spellings()[spelling], argument(spelling), value)
        for spelling, value in values.items()
        if value is not None
    ]
    return _build(given, environ)


def from_keywords(keywords: Mapping[str, object], environ: Mapping[str, str]) -> Config:
    """The settings of a call from Python; None means not given.

    Raises TypeError for a keyword that does not exist, ConfigError for a value that cannot be used.
    """
    known = spellings()
    for keyword in keywords:
        if keyword not in known:
            raise TypeError(f"Router() has no setting {keyword!r}{did_you_mean(keyword, known)}")
    given = [
        Given(*known[keyword], keyword, value)
        for keyword, value in keywords.items()
        if value is not None
    ]
    return _build(given, environ)


def differing(values: Mapping[str, object]) -> dict[str, object]:
    """Those of `values` that are settings and differ from their defaults.

    For objects that hold every setting, like sglang-router's RouterArgs: there, a default and
    what was asked for look alike.
    """
    known = spellings()
    return {
        name: value
        for name, value in values.items()
        if name in known and value not in (None, [], {}) and value != known[name][0].default
    }


def _build(given: list[Given], environ: Mapping[str, str]) -> Config:
    problems: list[str] = []
    from_environment, warnings = _read_environment(environ)
    chosen: dict[str, Given] = {}
    for source in (given, from_environment):
        chosen = {**_one_each(source, problems), **chosen}
    values: dict[str, object] = {}
    for item in chosen.values():
        try:
            values[item.option.name] = item.option.convert(item.value, item.kind, item.label)
        except ConfigError as problem:
            problems.append(str(problem))
    if not problems:
        problems = _refusals(values)
    if problems:
        raise ConfigError("\n".join(problems))
    own = {option.name for option in options_of(Config)}
    without_effect = [item for name, item in chosen.items() if name not in own]
    config = Config(
        **{name: value for name, value in values.items() if name in own},  # type: ignore[arg-type]
        warnings=(*_no_effect(without_effect), *_only_for_pairs(values), *warnings),
    )
    if problems := _contradictions(config):
        raise ConfigError("\n".join(problems))
    return config


def _read_environment(environ: Mapping[str, str]) -> tuple[list[Given], list[str]]:
    known = spellings()
    names = {variable(spelling): spelling for spelling in known}
    given: list[Given] = []
    warnings: list[str] = []
    for name, value in environ.items():
        if not name.startswith(ENV_PREFIX) or KUBERNETES_VALUE.match(value):
            continue
        if name not in names:
            if name not in NOT_SETTINGS and not KUBERNETES_NAME.match(name):
                hint = did_you_mean(name, names)
                warnings.append(f"Environment variable {name} is not a setting{hint}")
        elif value.strip():
            option, kind = known[names[name]]
            given.append(Given(option, kind, f"{name} ({argument(names[name])})", value))
    named = {item.option.name for item in given}
    for option, _ in known.values():
        name = option.flag.env or ""
        if environ.get(name, "").strip() and option.name not in named:
            named.add(option.name)
            given.append(Given(option, "value", f"{name} ({option.argument})", environ[name]))
    return given, warnings


def _one_each(source: Iterable[Given], problems: list[str]) -> dict[str, Given]:
    chosen: dict[str, Given] = {}
    for item in source:
        other = chosen.setdefault(item.option.name, item)
        if (other.kind, other.value) != (item.kind, item.value):
            problems.append(f"{other.label} and {item.label} are both given; give one")
    return chosen


def _refusals(values: Mapping[str, object]) -> list[str]:
    """What is asked for in vain, and would mislead if it were only warned about."""
    problems = []
    keys = ("api_key", "admin_api_key", "control_plane_api_keys")
    if values.get("jwt_issuer") and not any(values.get(key) for key in keys):
        problems.append(
            "--jwt-issuer: JWT is not supported yet, so the admin routes would be open; "
            "give --admin-api-key"
        )
    return problems


def _contradictions(config: Config) -> list[str]:
    """What single flags cannot say: settings that do not go together."""
    problems = []
    if (config.tls_cert_path is None) != (config.tls_key_path is None):
        problems.append("--tls-cert-path and --tls-key-path: give both or neither")
    if (config.client_cert_path is None) != (config.client_key_path is None):
        problems.append("--client-cert-path and --client-key-path: give both or neither")
    if config.prometheus_port and config.prometheus_port == config.port:
        problems.append(f"--prometheus-port: {config.port} is the serving port; expected another")
    if config.retry_max_backoff_ms < config.retry_initial_backoff_ms:
        problems.append("--retry-max-backoff-ms: expected at least --retry-initial-backoff-ms")
    if config.queue_size and config.concurrency_limit and not config.queue_timeout_secs:
        problems.append("--queue-timeout-secs: expected a number above 0 where there is a queue")
    buckets = config.prometheus_duration_buckets
    if any(low >= high for low, high in zip(buckets, buckets[1:], strict=False)):
        problems.append("--prometheus-duration-buckets: expected rising numbers")
    problems += _model_problems(config)
    if config.dp_size is not None and not config.dp_aware:
        problems.append("--dp-size: only with --dp-aware")
    if config.pd_disaggregation and config.worker_urls:
        problems.append("--worker-urls: with --pd-disaggregation workers are --prefill or --decode")
    try:
        worker_names(config)
    except ConfigError as problem:
        problems.append(str(problem))
    return problems


def _model_problems(config: Config) -> Iterable[str]:
    for name, given in (
        ("--model-alias", config.model_alias),
        ("--model-policy", config.model_policy),
    ):
        if given and not config.enable_igw:
            yield f"{name}: only with --enable-igw"
    aliases = [each.alias for each in config.model_alias]
    for alias in dict.fromkeys(aliases):
        if aliases.count(alias) > 1:
            yield f"--model-alias: {alias!r} is given twice"
    for each in config.model_alias:
        if each.model in aliases:
            yield f"--model-alias: {each} names an alias; expected the name of a model"
    models = [each.model for each in config.model_policy]
    for model in dict.fromkeys(models):
        if models.count(model) > 1:
            yield f"--model-policy: {model!r} is given twice"


def _only_for_pairs(values: Mapping[str, object]) -> Iterable[str]:
    """sglang-router takes these flags also without the switch that gives them a meaning."""
    names = ("prefill", "decode", "pd_protocol", "prefill_policy", "decode_policy")
    given = [argument(name) for name in names if name in values]
    if given and not values.get("pd_disaggregation"):
        return [f"Without effect as --pd-disaggregation is not given: {', '.join(given)}"]
    return []


def _no_effect(given: Iterable[Given]) -> Iterable[str]:
    groups: dict[str, list[str]] = {UNUSED: [], NOT_YET_SUPPORTED: []}
    for item in given:
        groups[item.option.flag.group].append(item.option.argument)
    parts = [f"{group}: {', '.join(names)}" for group, names in groups.items() if names]
    return [". ".join(parts)] if parts else []
