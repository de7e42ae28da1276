"""The Helm chart, rendered by Helm's own code and held against the schemas of Kubernetes.

The two packages are large and in the extra `charts`; CI has them.
"""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from router.configure import from_arguments

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "trace-router"
KUBERNETES = ("1.30", "1.34")  # the schemas that rendered objects are held against
WORKERS = ["http://worker-a:30005", "http://worker-b:30005"]

pytestmark = pytest.mark.compose

Object = dict[str, Any]


@pytest.fixture(autouse=True)
def charts() -> None:
    missing = [name for name in ("helm_python", "kubernetes_validate") if find_spec(name) is None]
    if missing and os.environ.get("CI"):
        pytest.fail(f"{missing} are not installed: pip install '.[charts]'", pytrace=False)
    if missing:
        pytest.skip(f"{missing} are not installed: pip install '.[charts]'")


def rendered(**values: object) -> dict[str, Object]:
    """The objects of a release `demo`, by kind and name."""
    import yaml
    from helm_python import Chart

    with Chart.load(CHART) as chart:
        files = chart.render({"workerUrls": WORKERS} | values, name="demo", namespace="llm")
    objects = [one for text in files.values() for one in yaml.safe_load_all(text) if one]
    return {f"{one['kind']} {one['metadata']['name']}": one for one in objects}


EVERYTHING: dict[str, object] = {
    "autoscaling": {"enabled": True},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "keysSecret": "router-keys",
    "env": {"TRACE_ROUTER_QUEUE_SIZE": "50"},
    "image": {"pullSecrets": ["registry"]},
    "podAnnotations": {"example.com/a": "b"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "redis": {"storageClass": "fast"},
}
OUTSIDE: dict[str, object] = {"redis": {"enabled": False, "url": "redis://elsewhere:6379/0"}}
SECRET: dict[str, object] = {"redis": {"enabled": False, "urlSecret": "redis"}}
FOUND: dict[str, object] = {
    "workerUrls": [],
    "discovery": {
        "dns": ["http://vllm.llm.svc:8000"],
        "kubernetes": {"enabled": True, "selector": ["app=vllm", "tier=a"], "namespace": "gpu"},
    },
}
VARIANTS = {
    "defaults": {},
    "found": FOUND,
    "everything": EVERYTHING,
    "outside": OUTSIDE,
    "secret": SECRET,
}


def container(objects: dict[str, Object]) -> Object:
    pod = objects["Deployment demo-trace-router"]["spec"]["template"]["spec"]
    found: Object = pod["containers"][0]
    return found


def environment(objects: dict[str, Object]) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container(objects)["env"] if "value" in one}


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_rendered_is_what_kubernetes_takes(variant: str, version: str) -> None:
    from kubernetes_validate import validate

    for name, one in rendered(**VARIANTS[variant]).items():
        if one["kind"] != "ServiceMonitor":  # of the Prometheus operator
            assert validate(one, version, strict=True) == version, name


def test_the_chart_is_clean() -> None:
    from helm_python import lint

    said = lint(CHART, {"workerUrls": WORKERS})
    info = 1
    assert [message for message in said["messages"] if message["severity"] > info] == []
    assert said["errors"] == []


def test_each_part_is_there_when_it_is_asked_for() -> None:
    usual = {"Deployment demo-trace-router", "Service demo-trace-router"}
    usual |= {"PodDisruptionBudget demo-trace-router"}
    redis = {"Service demo-trace-router-redis", "StatefulSet demo-trace-router-redis"}
    more = {"HorizontalPodAutoscaler demo-trace-router", "ServiceMonitor demo-trace-router"}
    assert set(rendered()) == usual | redis
    assert set(rendered(**EVERYTHING)) == usual | redis | more
    assert set(rendered(**OUTSIDE)) == set(rendered(**SECRET)) == usual


def redis_container(**values: object) -> Object:
    redis = rendered(**values)["StatefulSet demo-trace-router-redis"]
    found: Object = redis["spec"]["template"]["spec"]["containers"][0]
    return found


@pytest.mark.parametrize("traces", [100, 100_000, 10_000_000])
def test_redis_has_room_for_twice_the_traces_that_it_is_to_keep(traces: int) -> None:
    redis = redis_container(traces={"maxEntries": traces})
    command = redis["command"]
    limit = command[command.index("--maxmemory") + 1]
    assert limit == f"{traces * 8 + 131072}kb"  # as docker-compose.yml has it
    pod = redis["resources"]["limits"]["memory"]
    assert int(pod.removesuffix("Ki")) > int(limit.removesuffix("kb"))


def test_the_memory_of_redis_and_of_its_container_can_be_set() -> None:
    limits = {"memory": "4Gi", "cpu": "1"}
    redis = redis_container(redis={"maxmemory": "3gb", "resources": {"limits": limits}})
    assert "3gb" in redis["command"]
    assert redis["resources"] == {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": limits}


def test_a_release_without_a_redis_is_refused() -> None:
    from helm_python import HelmError

    with pytest.raises(HelmError, match="urlSecret"):
        rendered(redis={"enabled": False})


@pytest.mark.parametrize(
    "values",
    [
        {"replica": 3},
        {"replicas": 0},
        {"workerUrls": ["worker-a"]},
        {"image": {"tag": "latest"}},
        {"env": {"TRACE_ROUTER_QUEUE_SIZE": 50}},
        {"discovery": {"kubernetes": {"enabled": True, "selector": ["vllm"]}}},
    ],
    ids=str,
)
def test_values_that_cannot_be_meant_are_refused(values: dict[str, object]) -> None:
    from helm_python import HelmError

    with pytest.raises(HelmError):
        rendered(**values)


def test_the_routers_settings_are_settings_the_router_knows() -> None:
    given = environment(rendered(**EVERYTHING))
    config = from_arguments([], given)
    assert config.warnings == ()
    assert config.worker_urls == tuple(WORKERS)
    assert config.redis_url == "redis://demo-trace-router-redis:6379/0"
    assert (config.max_trace_entries, config.trace_ttl) == (100_000, 3600)
    assert config.queue_size == 50
    assert config.port == container(rendered())["ports"][0]["containerPort"]


def test_who_is_to_find_pods_may_read_them_in_their_namespace_and_nothing_else() -> None:
    objects = rendered(**FOUND)
    config = from_arguments([], environment(objects))
    assert config.warnings == ()
    assert (config.service_discovery, config.service_discovery_port) == (True, 8000)
    assert config.selector == ("app=vllm", "tier=a")
    assert config.service_discovery_namespace == "gpu"
    assert config.discovery_dns == ("http://vllm.llm.svc:8000",)
    role = objects["Role demo-trace-router"]
    assert role["rules"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
    ]
    binding = objects["RoleBinding demo-trace-router"]
    assert role["metadata"]["namespace"] == binding["metadata"]["namespace"] == "gpu"
    (subject,) = binding["subjects"]
    assert (subject["name"], subject["namespace"]) == ("demo-trace-router", "llm")
    pod = objects["Deployment demo-trace-router"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == subject["name"]
    assert pod["automountServiceAccountToken"] is True
    assert not any(name.startswith(("Role", "ServiceAccount")) for name in rendered())


def test_kubernetes_waits_longer_than_the_router_needs_to_finish() -> None:
    for shutdown in ({}, {"drainSeconds": 30, "graceSeconds": 600}):
        objects = rendered(shutdown=shutdown)
        config = from_arguments([], environment(objects))
        pod = objects["Deployment demo-trace-router"]["spec"]["template"]["spec"]
        needs = config.drain_secs + config.shutdown_grace_period_secs
        assert pod["terminationGracePeriodSeconds"] > needs + 5


def test_the_drain_is_longer_than_kubernetes_needs_to_notice() -> None:
    objects = rendered()
    probe = container(objects)["readinessProbe"]
    config = from_arguments([], environment(objects))
    notices = probe["periodSeconds"] * probe["failureThreshold"] + probe["timeoutSeconds"]
    assert config.drain_secs > notices


def test_probes_ask_what_they_should() -> None:
    router = container(rendered())
    assert router["readinessProbe"]["httpGet"]["path"] == "/readiness"
    assert router["livenessProbe"]["httpGet"]["path"] == "/health"
    assert router["startupProbe"]["httpGet"]["path"] == "/health"


def test_nothing_runs_as_root_or_writes_where_it_need_not() -> None:
    for name in ("Deployment demo-trace-router", "StatefulSet demo-trace-router-redis"):
        pod = rendered()[name]["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        context = pod["containers"][0]["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}


def test_the_autoscaler_and_the_deployment_do_not_both_say_how_many() -> None:
    assert rendered()["Deployment demo-trace-router"]["spec"]["replicas"] == 2
    assert "replicas" not in rendered(**EVERYTHING)["Deployment demo-trace-router"]["spec"]


def test_services_and_monitors_find_the_pods_that_are_meant() -> None:
    objects = rendered(**EVERYTHING)
    for service, owner in (
        ("Service demo-trace-router", "Deployment demo-trace-router"),
        ("Service demo-trace-router-redis", "StatefulSet demo-trace-router-redis"),
        ("PodDisruptionBudget demo-trace-router", "Deployment demo-trace-router"),
    ):
        selector = objects[service]["spec"]["selector"]
        wanted = selector.get("matchLabels", selector)
        labels = objects[owner]["spec"]["template"]["metadata"]["labels"]
        assert wanted.items() <= labels.items()
        assert wanted == objects[owner]["spec"]["selector"]["matchLabels"]
    monitored = objects["ServiceMonitor demo-trace-router"]["spec"]["selector"]["matchLabels"]
    labelled = {
        name
        for name, one in objects.items()
        if name.startswith("Service ") and monitored.items() <= one["metadata"]["labels"].items()
    }
    assert labelled == {"Service demo-trace-router"}


def test_chart_image_and_package_are_of_one_version() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert version is not None
    assert container(rendered())["image"] == f"llm-trace-router:{version[1]}"
