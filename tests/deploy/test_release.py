"""What is built and installed: the two packages with their data, nothing else; and it runs alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from zipfile import ZipFile

import msgspec
import pytest
import pytest_asyncio
from packaging.metadata import Metadata

from tests.fleets import body, post
from tests.processes import Json, Processes, RouterProcess, SimWorker

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAME = f"llm_trace_router-{PROJECT['version']}"
PACKAGES = ("router", "tracking")


class Built:
    """The two files that a release is made of, and what went into them."""

    def __init__(self, source: Path, output: Path) -> None:
        self.wheel = output / f"{NAME}-py3-none-any.whl"
        self.sdist = output / f"{NAME}.tar.gz"
        self.files = {
            str(path.relative_to(source))
            for package in PACKAGES
            for path in (source / package).rglob("*")
            if path.is_file()
        }


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The wheel is built from the sdist. The sources are the files that the Dockerfile copies, too."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("output")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, source / package, ignore=ignored)
    found = Built(source, output)
    build = [sys.executable, "-m", "build", "--outdir", str(output), str(source)]
    run = subprocess.run(build, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return found


@pytest.fixture(scope="module")
def environment(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment that has the wheel, what it needs, and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    subprocess.run(pip(folder / "bin" / "python", "install", str(built.wheel)), check=True)
    return folder / "bin"


def pip(python: Path | str, *arguments: str) -> list[str]:
    quiet = ("--quiet", "--disable-pip-version-check", "--no-input")
    return [str(python), "-m", "pip", arguments[0], *quiet, *arguments[1:]]


class Installed(RouterProcess):
    """A router from an environment of its own."""

    def __init__(self, bin: Path, worker_urls: Sequence[str]) -> None:
        super().__init__(worker_urls)
        self._bin = bin

    def command(self) -> Sequence[str]:
        _, *words = super().command()
        return [str(self._bin / "python"), "-P", *words]


@pytest.mark.slow
def test_wheel_and_sdist_hold_all_that_is_needed_and_no_more(built: Built) -> None:
    wheel = {name for name in ZipFile(built.wheel).namelist() if ".dist-info/" not in name}
    assert wheel == built.files
    assert {"router/py.typed", "router/ui/index.html", "tracking/scripts/write.lua"} <= wheel
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames() if "egg-info" not in name}
    folders = {name.partition("/")[0] for name in names}
    assert built.files <= names
    assert folders - {""} == {
        *PACKAGES, "LICENSE", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg",
    }  # fmt: skip


@pytest.mark.slow
def test_the_metadata_is_what_an_index_takes(built: Built) -> None:
    text = ZipFile(built.wheel).read(f"{NAME}.dist-info/METADATA")
    told = Metadata.from_email(text, validate=True)
    assert (told.name, str(told.version)) == (PROJECT["name"], PROJECT["version"])
    assert told.description_content_type == "text/markdown"
    assert told.license_expression == "Apache-2.0"
    assert set(told.provides_extra or ()) == set(PROJECT["optional-dependencies"])


@pytest.mark.slow
# Without `dev`: who runs this has installed it.
@pytest.mark.parametrize("extra", sorted({*PROJECT["optional-dependencies"]} - {"dev"}))
def test_what_an_extra_needs_can_be_installed(built: Built, environment: Path, extra: str) -> None:
    resolve = pip(environment / "python", "install", "--dry-run", f"{built.wheel}[{extra}]")
    run = subprocess.run(resolve, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
def test_the_command_is_there_and_tells_its_version_and_flags(environment: Path) -> None:
    def said(*words: str) -> str:
        command = [str(environment / "trace-router"), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert said("--version") == f"{PROJECT['name']} {PROJECT['version']}\n"
    assert "traces" in said("--help")
    assert "--worker-urls" in said("serve", "--help")


@pytest_asyncio.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    async with Processes(tmp_path) as started:
        yield started


@pytest.mark.e2e
@pytest.mark.slow
async def test_installed_alone_it_serves_traces_and_shows_its_page(
    processes: Processes, environment: Path
) -> None:
    worker = await processes.start(SimWorker())
    router = await processes.start(Installed(environment, [worker.url]))
    assert (await post(router, "/generate", body(), request_id="one")).status == 200
    trace = msgspec.convert(await router.json("/v1/traces/one"), Json)
    assert trace["status"] == "completed"
    stats = msgspec.convert(await router.json("/v1/traces/stats"), Json)
    assert msgspec.convert(stats["store"], Json)["kind"] == "embedded"
    assert "/v1/traces" in str(await router.json("/openapi.json"))
