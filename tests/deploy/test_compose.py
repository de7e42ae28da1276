"""docker-compose.yml starts what it says, in order, and stops it without cutting anybody off."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from router.configure import from_arguments
from tests.programs import program

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"

pytestmark = pytest.mark.compose

Service = dict[str, Any]


def resolved(*more: str, **settings: str) -> dict[str, Any]:
    """The file as Compose understands it, with `settings` as its .env would give them.

    `more` are further options of Compose, such as another profile or file.
    """
    compose = [program("docker-compose"), "--env-file", os.devnull]
    run = subprocess.run(
        [*compose, *more, "config", "--format", "json"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "warning" not in run.stderr.lower()
    config: dict[str, Any] = json.loads(run.stdout)
    return config


@pytest.fixture(scope="module")
def services() -> dict[str, Service]:
    found: dict[str, Service] = resolved()["services"]
    return found


def seconds(duration: str) -> float:
    units = {"h": 3600, "m": 60, "s": 1}
    return sum(float(n) * units[u] for n, u in re.findall(r"([\d.]+)([hms])", duration))


def settings_of_example() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_all_parts_are_there(services: dict[str, Service]) -> None:
    expected = {"redis", "router", "worker-0", "worker-1", "loadbalancer", "prometheus", "grafana"}
    assert set(services) == expected
    with_llama = resolved("--profile", "llama")["services"]
    assert set(with_llama) == expected | {"llama-0", "llama-1"}
    assert services["router"]["deploy"]["replicas"] == 2


def test_only_the_load_balancer_is_open_to_the_network(services: dict[str, Service]) -> None:
    open_ports = {
        name: [(port.get("host_ip"), port["published"], port["target"]) for port in ports]
        for name, service in services.items()
        if (ports := service.get("ports"))
    }
    assert open_ports == {
        "loadbalancer": [(None, "30009", 30009)],
        "prometheus": [("127.0.0.1", "9090", 9090)],
        "grafana": [("127.0.0.1", "3000", 3000)],
        "router": [("127.0.0.1", "30010-30019", 30009)],
    }


def test_every_image_has_one_exact_version(services: dict[str, Service]) -> None:
    images = [service["image"] for service in services.values()]
    images += re.findall(r"^FROM (\S+:\S+)", DOCKERFILE.read_text(), re.MULTILINE)
    assert len(images) > len(services)
    for image in images:
        assert re.search(r":v?\d+\.\d+\.\d+(-[a-z0-9-]+)?$", image), image


def test_our_images_carry_the_version_of_the_package() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text()
    version = re.search(r'^version = "(.+)"$', pyproject, re.MULTILINE)
    assert version is not None
    built = {s["image"] for s in resolved("--profile", "*")["services"].values() if "build" in s}
    assert built == {f"llm-trace-router{kind}:{version[1]}" for kind in ("", "-sim", "-llama")}


def test_every_service_is_watched_and_restarted() -> None:
    services = resolved("--profile", "*")["services"]
    in_dockerfile = DOCKERFILE.read_text().count("HEALTHCHECK ")
    assert in_dockerfile == len({s["build"]["target"] for s in services.values() if "build" in s})
    for name, service in services.items():
        assert service["restart"] == "unless-stopped", name
        assert "healthcheck" in service or "build" in service, name


def test_nobody_starts_before_what_they_need_is_healthy(services: dict[str, Service]) -> None:
    def gates(name: str) -> dict[str, str]:
        needs = services[name].get("depends_on", {})
        return {other: need["condition"] for other, need in needs.items()}

    healthy = "service_healthy"
    workers = ("worker-0", "worker-1", "llama-0", "llama-1")  # those that are in the project
    assert gates("router") == {"redis": healthy} | dict.fromkeys(workers, healthy)
    needs = services["router"]["depends_on"]
    assert not any(needs[worker]["required"] for worker in workers)
    assert gates("loadbalancer") == {"router": healthy}
    assert gates("prometheus") == {"router": healthy}
    assert gates("grafana") == {"prometheus": healthy}


def test_docker_waits_longer_than_the_router_needs_to_finish(services: dict[str, Service]) -> None:
    router = services["router"]
    drain = float(router["environment"]["TRACE_ROUTER_DRAIN_SECS"])
    grace = float(router["environment"]["TRACE_ROUTER_SHUTDOWN_GRACE_PERIOD_SECS"])
    assert seconds(router["stop_grace_period"]) > drain + grace
    assert seconds(services["loadbalancer"]["stop_grace_period"]) > drain + grace


def test_the_drain_is_longer_than_the_balancer_needs_to_notice(
    services: dict[str, Service],
) -> None:
    config = (ROOT / "deploy" / "haproxy.cfg").read_text()
    # One check may just have passed; the first failure is followed by a quicker second one.
    check = re.search(r"check inter (\d+)s fastinter (\d+)ms fall 2 ", config)
    assert check is not None
    notices_seconds = int(check[1]) + int(check[2]) / 1000
    drain = float(services["router"]["environment"]["TRACE_ROUTER_DRAIN_SECS"])
    assert drain > 2 * notices_seconds


def test_redis_refuses_rather_than_evicts_and_survives_a_restart(
    services: dict[str, Service],
) -> None:
    command = " ".join(services["redis"]["command"])
    for words in ("--maxmemory-policy noeviction", "--appendonly yes", "--appendfsync everysec"):
        assert words in command
    assert re.search(r"--maxmemory \d+[a-z]+", command)
    volumes = {volume["target"]: volume["type"] for volume in services["redis"]["volumes"]}
    assert volumes == {"/data": "volume"}


def test_redis_has_room_for_twice_the_traces_that_it_is_to_keep(
    services: dict[str, Service],
) -> None:
    sizing = (ROOT / "docs" / "redis.md").read_text()
    record = re.search(r"takes\s+([\d.]+) KB", sizing)
    limit = re.search(r"--maxmemory (\d+)gb", " ".join(services["redis"]["command"]))
    assert record is not None
    assert limit is not None
    traces = int(services["router"]["environment"]["TRACE_ROUTER_MAX_TRACE_ENTRIES"])
    assert int(limit[1]) * 2**30 > 2 * traces * float(record[1]) * 1000


def test_what_is_mounted_into_a_container_is_there() -> None:
    volumes = [
        volume["source"]
        for service in resolved()["services"].values()
        for volume in service.get("volumes", [])
        if volume["type"] == "bind"
    ]
    assert len(volumes) > 3
    for path in volumes:
        assert Path(path).exists(), path


def test_the_balancer_has_room_for_every_replica_that_has_a_port_of_its_own() -> None:
    first, last = settings_of_example()["REPLICA_PORTS"].split("-")
    template = re.search(
        r"server-template replica- (\d+)", (ROOT / "deploy" / "haproxy.cfg").read_text()
    )
    assert template is not None
    assert int(template[1]) == int(last) - int(first) + 1


def test_gpu_workers_are_those_of_the_guide() -> None:
    gpu = ("--file", "docker-compose.yml", "--file", "deploy/compose.gpu.yml")
    services = resolved(*gpu, SIMULATED_WORKERS="0")["services"]
    for number in (0, 1):
        worker = services[f"sglang-{number}"]
        command = " ".join(worker["command"])
        assert f"--port {30005 + number} --base-gpu-id {number}" in command
        assert worker["deploy"]["resources"]["reservations"]["devices"][0]["driver"] == "nvidia"
        assert re.search(r":v\d+\.\d+\.\d+$", worker["image"])


def test_containers_cannot_change_their_own_files_or_gain_rights(
    services: dict[str, Service],
) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        # Redis' own entry point needs rights to hand over to its user.
        assert service.get("cap_drop") == (None if name == "redis" else ["ALL"]), name


def test_the_example_settings_are_the_defaults() -> None:
    assert resolved(**settings_of_example()) == resolved()


def test_every_setting_of_the_file_is_in_the_example() -> None:
    used = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    assert used == set(settings_of_example())


def test_own_workers_take_the_place_of_the_simulated_ones() -> None:
    url = "http://host.docker.internal:8000"
    services = resolved(WORKER_URLS=url, SIMULATED_WORKERS="0")["services"]
    assert services["router"]["environment"]["TRACE_ROUTER_WORKER_URLS"] == url
    assert services["router"]["extra_hosts"] == ["host.docker.internal=host-gateway"]
    for name in ("worker-0", "worker-1"):
        assert services[name]["deploy"]["replicas"] == 0
        assert services["router"]["depends_on"][name]["required"] is False


def test_the_routers_settings_are_settings_the_router_knows(
    services: dict[str, Service],
) -> None:
    config = from_arguments([], services["router"]["environment"])
    assert config.warnings == ()
    assert config.port == 30009
    assert config.worker_urls == ("http://worker-0:30005", "http://worker-1:30005")


def test_the_dockerfile_is_clean() -> None:
    run = subprocess.run(
        [program("hadolint"), str(DOCKERFILE)], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout) == (0, "")


def test_the_dockerfile_builds_without_buildkit_and_runs_without_root() -> None:
    lines = DOCKERFILE.read_text().splitlines()
    assert not any(line.startswith("# syntax") or "--mount" in line for line in lines)
    assert [line for line in lines if line.startswith("USER")] == ["USER 10001:10001"]
    for line in lines:
        if line.startswith(("ENTRYPOINT", "CMD")):
            assert line.split(" ", 1)[1].startswith("["), line
    stages = re.findall(r"^FROM \S+ AS (\w+)", "\n".join(lines), re.MULTILINE)
    assert stages[-1] == "router", "an image built without --target is the router"
