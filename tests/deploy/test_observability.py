"""Dashboards, rules and alerts: every query runs against a real Prometheus scraping real routers."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from deploy import dashboards
from tests.fleets import body, chat_body, fleet, post
from tests.processes import Process, Processes, answers, free_port
from tests.programs import program
from tests.waiting import PATIENCE_SECONDS

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
# Nothing has gone wrong in the fleet of these tests in such a way.
MAY_BE_EMPTY = {
    "smg_worker_cb_transitions_total",
    "trace_router_aborts_total",
    "trace_router_store_memory_limit_bytes",
}

pytestmark = pytest.mark.compose


def queries() -> Iterator[tuple[str, str]]:
    """Every query of every dashboard: where it is, and its PromQL with the variables filled in."""
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                expr = target["expr"].replace("$__rate_interval", "1m").replace("$node", ".*")
                yield f"{path.stem}: {panel['title']} {target['refId']}", expr


QUERIES = list(queries())


class Prometheus(Process):
    """Scrapes `ports` each second under the shipped rules."""

    name = "prometheus"

    def __init__(self, directory: Path, ports: list[int]) -> None:
        super().__init__()
        self._program = program("prometheus")
        self._directory = directory
        targets = [f"127.0.0.1:{port}" for port in ports]
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES / "recording.yml"), str(RULES / "alerts.yml")],
            "scrape_configs": [{"job_name": "router", "static_configs": [{"targets": targets}]}],
        }
        self._config = directory / "prometheus.json"  # JSON is YAML
        self._config.write_text(json.dumps(config))
        self.port = free_port()

    def command(self) -> list[str]:
        return [
            self._program,
            f"--config.file={self._config}",
            f"--storage.tsdb.path={self._directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]

    async def is_ready(self) -> bool:
        return await answers(f"http://127.0.0.1:{self.port}/-/ready")

    async def ask(self, path: str, **params: str) -> Any:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.port}/api/v1/{path}", params=params) as response,
        ):
            said = await response.json()
        assert said["status"] == "success", f"{params}: {said.get('error')}"
        return said["data"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def prometheus(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Prometheus]:
    """It has seen a fleet at work: streams, failures, retries, clients that were refused."""
    directory = tmp_path_factory.mktemp("prometheus")
    async with (
        Processes(directory) as processes,
        fleet(
            processes,
            replicas=2,
            redis=True,
            switches=["--enable-cache-report"],
            flags=["--retry-initial-backoff-ms=1"],
        ) as running,
    ):
        ports = [router.port for router in running.routers]
        started = await processes.start(Prometheus(directory, ports))
        async with asyncio.timeout(
            PATIENCE_SECONDS
        ):  # Prometheus takes its time to look at its targets
            while not (await started.ask("query", query="count(up == 1) == 2"))["result"]:
                await asyncio.sleep(0.2)
        for round_ in range(4):  # a rate needs two scrapes
            for router in running.routers:
                content = chat_body(f"hello {round_}", stream=True)
                await post(router, "/v1/chat/completions", content)
                await running.faults({"kind": "status", "status": 503, "times": 1})
                await post(router, "/generate", body(stream=True))
                await post(router, "/generate", b"no json")
            await asyncio.sleep(1.1)
        yield started


def test_the_dashboard_files_are_those_that_the_script_makes() -> None:
    made = dashboards.files()
    there = {path.name: path.read_bytes() for path in DASHBOARDS}
    assert there == made, "run python -m deploy.dashboards"


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_laid_out_as_grafana_wants_it(path: Path) -> None:
    board = json.loads(path.read_text())
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert {panel["type"] for panel in panels} <= {"stat", "timeseries"}
    variables = {variable["name"] for variable in board["templating"]["list"]}
    assert set(re.findall(r"\$\{?(?!__)(\w+)", path.read_text())) <= variables
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_dashboards_use_only_metrics_that_there_are() -> None:
    documented = set(
        re.findall(r"^\| `(\w+)`", (DEPLOY.parent / "docs" / "metrics.md").read_text(), re.M)
    )
    used = {name for _, expr in QUERIES for name in re.findall(r"(?:smg|trace_router)_\w+", expr)}
    assert {re.sub(r"_bucket$", "", name) for name in used} <= documented
    assert len(QUERIES) > 60


def test_facts_of_the_whole_fleet_are_read_with_max() -> None:
    texts = [expr for _, expr in QUERIES] + [path.read_text() for path in RULES.glob("*s.yml")]
    facts = r"trace_router_(?:replicas|store_memory_bytes|store_memory_limit_bytes)\b"
    around = [found for text in texts for found in re.findall(rf".{{4}}{facts}", text)]
    assert len(around) > 6
    assert {found[:4] for found in around} == {"max("}


@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="module")
async def test_every_query_of_the_dashboards_has_an_answer(prometheus: Prometheus) -> None:
    empty = []
    for where, expr in QUERIES:
        found = await prometheus.ask("query", query=expr)
        if not found["result"] and not any(name in expr for name in MAY_BE_EMPTY):
            empty.append(f"{where}: {expr}")
    assert empty == []


@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="module")
async def test_every_rule_is_evaluated_without_an_error(prometheus: Prometheus) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            groups = (await prometheus.ask("rules"))["groups"]
            rules = [rule for group in groups for rule in group["rules"]]
            if all(rule["health"] != "unknown" for rule in rules):
                break
            await asyncio.sleep(0.2)
    assert len(rules) == 18
    assert {rule["name"]: rule["health"] for rule in rules if rule["health"] != "ok"} == {}
    firing = {rule["name"] for rule in rules if rule.get("state") == "firing"}
    assert firing == set()
    healthy = await prometheus.ask("query", query="fleet:smg_workers_healthy:count")
    assert healthy["result"][0]["value"][1] == "2"


def test_alerts_fire_when_they_should_and_only_then() -> None:
    run = subprocess.run(
        [program("promtool"), "test", "rules", "alerts_test.yml"],
        cwd=RULES,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_alert_is_tested_and_explained() -> None:
    alerts = set(re.findall(r"alert: (\w+)", (RULES / "alerts.yml").read_text()))
    tested = (RULES / "alerts_test.yml").read_text()
    explained = (DEPLOY.parent / "docs" / "operations.md").read_text()
    for alert in alerts:
        assert tested.count(f"alertname: {alert}") >= 2, alert
        assert f"`{alert}`" in explained, alert
