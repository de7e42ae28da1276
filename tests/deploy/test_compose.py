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
DOCKERFILES = sorted((ROOT / "deploy").glob("*Dockerfile"))

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
    for file in DOCKERFILES:
        images += re.findall(r"^FROM (\S+:\S+)", file.read_text(), re.MULTILINE)
    assert len(images) > len(services)
    for image in images:
        assert re.search(r":v?\d+\.\d+\.\d+(-[a-z0-9-]+)?$", image), image


def test_our_images_carry_the_version_of_the_package() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text()
    version = re.search(r'^version = "(.+)"$', pyproject, re.MULTILINE)
    assert version is not None
    services = resolved("--profile", "*")["services"].values()
    built = [s["image"] for s in services if "build" in s]
    # Each by one service only, or they would be built beside each other.
    ours = {f"llm-trace-router{kind}:{version[1]}" for kind in ("", "-sim", "-llama")}
    assert sorted(built) == sorted(ours)
    assert {s["image"] for s in services if s["image"].startswith("llm-trace-router")} == ours


def test_every_service_is_watched_and_restarted() -> None:
    services = resolved("--profile", "*")["services"]
    built = {s["image"] for s in services.values() if "build" in s}
    assert sum(file.read_text().count("HEALTHCHECK ") for file in DOCKERFILES) == len(built)
    for name, service in services.items():
        assert service["restart"] == "unless-stopped", name
        assert "healthcheck" in service or service["image"] in built, name


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


def redis_settings(services: dict[str, Service]) -> dict[str, str]:
    """What Redis is started with, once the shell has had its say."""
    redis = services["redis"]
    shell, minus_c, script = (part.replace("$$", "$") for part in redis["command"])
    assert (shell, minus_c) == ("sh", "-c")
    start = "exec redis-server "
    assert script.startswith(start), "it is process 1 itself and gets the signals"
    words = subprocess.run(
        [shell, minus_c, script.replace(start, "printf '%s\\n' ")],
        env=redis["environment"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")[:-1]
    return dict(zip(words[::2], words[1::2], strict=True))


def test_redis_refuses_rather_than_evicts_and_survives_a_restart(
    services: dict[str, Service],
) -> None:
    given = redis_settings(services)
    assert given["--maxmemory-policy"] == "noeviction"
    assert (given["--hz"], given["--lazyfree-lazy-expire"]) == ("100", "yes")
    assert (given["--appendonly"], given["--appendfsync"]) == ("yes", "everysec")
    volumes = {volume["target"]: volume["type"] for volume in services["redis"]["volumes"]}
    assert volumes == {"/data": "volume"}
    assert "ports" not in services["redis"]


@pytest.mark.parametrize("traces", [100, 100_000, 10_000_000])
def test_redis_has_room_for_twice_the_traces_that_it_is_to_keep(traces: int) -> None:
    sizing = (ROOT / "docs" / "redis.md").read_text()
    record = re.search(r"takes\s+([\d.]+) KB", sizing)
    assert record is not None
    services = resolved(MAX_TRACE_ENTRIES=str(traces))["services"]
    assert services["router"]["environment"]["TRACE_ROUTER_MAX_TRACE_ENTRIES"] == str(traces)
    limit = redis_settings(services)["--maxmemory"]
    assert int(limit.removesuffix("kb")) * 1024 > 2 * traces * float(record[1]) * 1000


def test_the_memory_of_redis_can_be_set() -> None:
    services = resolved(REDIS_MAXMEMORY="3gb")["services"]
    assert redis_settings(services)["--maxmemory"] == "3gb"


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
        assert service["cap_drop"] == ["ALL"], name


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


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_a_dockerfile_is_clean(file: Path) -> None:
    run = subprocess.run(
        [program("hadolint"), str(file)], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout) == (0, "")


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_a_dockerfile_builds_without_buildkit_and_runs_without_root(file: Path) -> None:
    lines = file.read_text().splitlines()
    assert not any(line.startswith("# syntax") or "--mount" in line for line in lines)
    assert [line for line in lines if line.startswith("USER")] == ["USER 10001:10001"]
    for line in lines:
        if line.startswith(("ENTRYPOINT", "CMD")):
            assert line.split(" ", 1)[1].startswith("["), line


def test_an_image_built_without_a_target_is_the_router() -> None:
    (router,) = (file for file in DOCKERFILES if file.name == "Dockerfile")
    assert re.findall(r"^FROM \S+ AS (\w+)", router.read_text(), re.MULTILINE)[-1] == "router"
