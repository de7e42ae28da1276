"""Which sources the settings ask for, and what they cannot ask for."""

from __future__ import annotations

import shlex
from random import Random

import pytest

from router.configure import from_arguments
from router.discovery.sources import api_url, sources_of
from router.flags import ConfigError


def names(line: str, **environ: str) -> list[str]:
    config = from_arguments(shlex.split(line), {})
    return [source.name for source in sources_of(config, environ, Random(1), lambda: 0.0)]


def test_nothing_asked_for_is_nothing():
    assert names("--selector app=vllm") == []


def test_each_selector_is_a_source_and_all_kinds_work_together():
    line = "--service-discovery --prefill-selector role=p --decode-selector role=d tier=a"
    more = "--service-discovery-namespace llm --discovery-file /w.json --discovery-dns http://vllm"
    assert names(f"{line} {more} --kubernetes-api-url http://127.0.0.1:8001") == [
        "file:/w.json",
        "dns:vllm:80",
        "kubernetes:llm/role=p",
        "kubernetes:llm/role=d,tier=a",
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("--service-discovery", "which pods?"),
        ("--service-discovery --selector app=vllm", "KUBERNETES_SERVICE_HOST is not set"),
        ("--selector vllm", "expected labels as KEY=VALUE, got 'vllm'"),
        ("--discovery-dns vllm", "expected http://HOST:PORT"),
    ],
)
def test_what_cannot_work_is_refused_and_named(line: str, reason: str):
    with pytest.raises(ConfigError, match=reason):
        names(line)


def test_every_pod_is_told_where_the_api_is():
    assert api_url({}) is None
    inside = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    assert api_url(inside) == "https://10.96.0.1:443"
    assert api_url({"KUBERNETES_SERVICE_HOST": "fd00::1"}) == "https://[fd00::1]:443"
