"""Workers listed in a file come and go with it, in a whole router."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from router.app import App
from tests.running import InProcessWorker, Records, call, running, sim_worker
from tests.sim.call import WorkerConfig
from tests.waiting import until

LISTED = "trace_router_discovery_workers"
ERRORS = "trace_router_discovery_errors_total"


def replace(path: Path, content: object) -> None:
    """As an operator should: whole, by renaming."""
    text = content if isinstance(content, bytes) else msgspec.json.encode(content)
    aside = path.with_name("new")
    aside.write_bytes(text)
    aside.replace(path)


def urls(app: App) -> set[str]:
    return {worker.url for worker in app.fleet.workers}


async def lists(app: App, *workers: InProcessWorker | str) -> None:
    """The fleet is these, and they serve."""
    wanted = {worker if isinstance(worker, str) else worker.url for worker in workers}
    await until(lambda: urls(app) == wanted)


async def metric(app: App, name: str) -> float:
    text = (await call(app, "GET", "/metrics")).text
    (line,) = [line for line in text.splitlines() if line.startswith(name + "{")]
    return float(line.rpartition(" ")[2])


async def origins(app: App) -> dict[object, object]:
    shown = (await call(app, "GET", "/workers")).json["workers"]
    assert isinstance(shown, Iterable)
    return {worker["url"]: worker["origin"] for worker in shown}


@pytest.fixture(autouse=True)
def looked_at_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.discovery.file.POLL_SECONDS", 0.02)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "workers.json"


async def test_a_file_says_which_part_of_a_pair_a_worker_does(
    path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, "router")
    parts = (WorkerConfig(part="prefill"), WorkerConfig(part="decode"))
    async with sim_worker(parts[0]) as one, sim_worker(parts[1]) as two, sim_worker() as whole:
        prefill = {"url": one.url, "worker_type": "prefill", "bootstrap_port": one.control_port}
        replace(path, [prefill, {"url": two.url, "worker_type": "decode"}, whole.url])
        async with running(discovery_file=str(path), pd_disaggregation=True) as app:
            await lists(app, one, two)
            answer = await call(app, "POST", "/generate", {"text": "hello"})
            assert answer.status == 200
            assert answer.headers["x-smg-routed-worker-id"] == two.url
    assert f"regular worker {whole.url}: left alone, we take prefill and decode" in caplog.text


async def test_workers_follow_the_file_and_those_named_at_start_stay(path: Path):
    async with sim_worker() as named, sim_worker() as one, sim_worker() as two:
        replace(path, [one.url])
        async with running(named.url, discovery_file=str(path)) as app:
            await lists(app, named, one)
            replace(path, {"workers": [{"url": two.url, "priority": 7, "labels": {"zone": "a"}}]})
            await lists(app, named, two)
            assert await origins(app) == {named.url: "static", two.url: f"file:{path}"}
            (member,) = [m for m in app.registry.members if m.url == two.url]
            assert (member.priority, member.labels) == (7, {"zone": "a"})
            assert await metric(app, LISTED) == 1
            replace(path, [])
            await lists(app, named)


async def test_one_that_is_named_found_and_deleted_stays_away_until_it_is_found_anew(path: Path):
    async with sim_worker() as one, sim_worker() as two:
        replace(path, [one.url, two.url])
        async with running(discovery_file=str(path)) as app:
            await lists(app, one, two)
            (member,) = [m for m in app.registry.members if m.url == one.url]
            await call(app, "DELETE", f"/workers/{member.id}")
            await lists(app, two)
            replace(path, [one.url])
            await lists(app)
            replace(path, [])
            await until(lambda: app.discovery and app.discovery.listing() == [])
            replace(path, [one.url])
            await lists(app, one)


async def test_a_trace_tells_where_its_worker_was_found(path: Path):
    async with sim_worker() as one:
        replace(path, [one.url])
        async with running(discovery_file=str(path)) as app:
            await lists(app, one)
            records = Records(app)
            await call(app, "POST", "/generate", {"text": "a"}, headers={"X-Request-Id": "r"})
            live = records.live["r"]
            assert live.worker_origin == f"file:{path}"
            assert [a.worker_origin for a in live.attempts] == [f"file:{path}"]


async def test_one_that_was_added_by_api_stays_whatever_the_file_says(path: Path):
    async with sim_worker() as one, sim_worker() as two:
        replace(path, [one.url])
        async with running(discovery_file=str(path)) as app:
            await lists(app, one)
            await call(app, "POST", "/workers", {"url": two.url})
            await lists(app, one, two)
            replace(path, [])
            await lists(app, two)
            assert await origins(app) == {two.url: "api"}


async def test_what_cannot_be_understood_changes_nothing_and_is_told(
    path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO", "router.discovery")
    async with sim_worker() as one, sim_worker() as two:
        replace(path, [one.url])
        async with running(discovery_file=str(path)) as app:
            await lists(app, one)
            replace(path, [{"link": two.url}])
            await until(lambda: "the 1 workers found last stay" in caplog.text)
            assert await metric(app, ERRORS) >= 1
            assert urls(app) == {one.url}
            replace(path, [two.url])
            await lists(app, two)
            assert "works again" in caplog.text


async def test_a_file_that_is_not_there_yet_or_no_more_changes_nothing(
    path: Path, caplog: pytest.LogCaptureFixture
):
    async with sim_worker() as one, running(discovery_file=str(path)) as app:
        assert "the 0 workers found last stay" in caplog.text
        replace(path, [one.url])
        await lists(app, one)
        os.unlink(path)
        await until(lambda: "the 1 workers found last stay" in caplog.text)
        assert urls(app) == {one.url}


async def test_the_links_of_a_mounted_config_map_are_followed(tmp_path: Path):
    async with sim_worker() as one, sim_worker() as two:
        for name, worker in (("first", one), ("second", two)):
            (tmp_path / name).mkdir()
            replace(tmp_path / name / "workers.json", [worker.url])
        (tmp_path / "..data").symlink_to("first")
        path = tmp_path / "workers.json"
        path.symlink_to("..data/workers.json")
        async with running(discovery_file=str(path)) as app:
            await lists(app, one)
            os.symlink("second", tmp_path / "..data_tmp")
            (tmp_path / "..data_tmp").rename(tmp_path / "..data")
            await lists(app, two)
