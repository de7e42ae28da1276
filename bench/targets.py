"""What is measured against what: one entry a target."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import msgspec

from bench.interpreter import chosen

ROOT = Path(__file__).parent.parent
VENVS = ROOT / "bench/.venvs"
COMPILED = VENVS / "router-compiled"
PACKAGES = ("router", "tracking")


class Place(msgspec.Struct, frozen=True):
    """Where a target runs: what it listens on, what stands behind it, a directory of its own."""

    port: int
    other_port: int
    worker_ports: tuple[int, ...]
    redis_url: str
    directory: Path

    @property
    def worker_urls(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self.worker_ports]


class Unavailable(Exception):
    """A target cannot be run here. The message says why."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """`prepare` returns the version, or raises Unavailable. No `command`: straight to the workers.

    `cases` are those it is measured in where it is not asked for by name; none named: all.
    """

    name: str
    prepare: Callable[[], str]
    command: Callable[[Place], list[str]] | None = None
    redis: bool = False
    cases: tuple[str, ...] = ()

    def measured_in(self, case: str) -> bool:
        return not self.cases or case in self.cases


def install(name: str, *packages: str, python: str = sys.executable) -> Path:
    """The bin directory of a virtual environment of `python` with `packages`. Raises Unavailable."""
    home = VENVS / name
    done = home / "installed"
    wanted = "\n".join(packages)
    if not done.is_file() or done.read_text() != wanted:
        print(f"installing {' '.join(packages)} into {home}", flush=True)
        try:
            # with the pip of this one: a system's Python may have none to give
            subprocess.run([python, "-m", "venv", "--clear", "--without-pip", home], check=True)
            pip = [sys.executable, "-m", "pip", "--python", str(home / "bin/python")]
            subprocess.run([*pip, "install", "--quiet", *packages], check=True)
        except subprocess.CalledProcessError as error:
            raise Unavailable(f"{packages[0]} cannot be installed: {error}") from None
        done.write_text(wanted)
    return home / "bin"


def _our_version() -> str:
    """The commit, and whether the checkout differs from it."""
    git = shutil.which("git")
    if git is None:
        return "unknown"
    describe = [git, "describe", "--always", "--dirty"]
    said = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True)
    return said.stdout.strip() or "unknown"


def _prepare_python() -> str:
    """The Python our router runs on, with what it needs. Raises Unavailable."""
    if chosen().program == sys.executable:
        return sys.executable
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needs = *project["dependencies"], *project["optional-dependencies"]["compiled"]
    name = f"router-{chosen().version}"
    return str(install(name, *needs, f"--editable={ROOT}", python=chosen().program) / "python")


def _prepare_interpreted() -> str:
    _prepare_python()
    return _our_version()


def _prepare_compiled() -> str:
    """A copy of the tree with its hot path compiled, as in our image. Raises Unavailable."""
    python = _prepare_python()
    sources = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    newest = max(path.stat().st_mtime for path in sources)
    done = COMPILED / "done"
    if not done.exists() or done.stat().st_mtime < newest or done.read_text() != python:
        print(f"compiling the router in {COMPILED}", flush=True)
        shutil.rmtree(COMPILED, ignore_errors=True)
        ignored = shutil.ignore_patterns("__pycache__", "*.so")
        for package in PACKAGES:
            shutil.copytree(ROOT / package, COMPILED / package, ignore=ignored)
        command = [python, "-m", "router.compiled", str(COMPILED)]
        try:
            subprocess.run(command, cwd=ROOT, check=True)
        except subprocess.CalledProcessError as error:
            raise Unavailable(f"the router cannot be compiled: {error}") from None
        done.write_text(python)
    return _our_version()


def _router(
    *flags: str, redis: bool = False, compiled: bool = True
) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        # -P: not from the working directory, which comes before everything else
        tree = COMPILED if compiled else ROOT
        python = ["env", f"PYTHONPATH={tree}", _prepare_python(), "-P", "-m", "router"]
        listen = ["--host", "127.0.0.1", "--port", str(place.port)]
        store = ["--redis-url", place.redis_url] if redis else []
        workers = ["--worker-urls", *place.worker_urls]
        quiet = ["--log-level", "warn"]
        return [*python, *listen, *workers, *quiet, *store, *flags]

    return command


def ours(*flags: str) -> Target:
    """The router as in our image, with these flags."""
    name = " ".join(("router", *flags))
    command = _router(*flags, redis=True)
    return Target(name=name, prepare=_prepare_compiled, command=command, redis=True)


def _prepare_sglang_router() -> str:
    install("sglang-router", "sglang-router==0.3.2")
    return "0.3.2"


def _sglang_router(place: Place) -> list[str]:
    python = str(VENVS / "sglang-router/bin/python")
    listen = ["--host", "127.0.0.1", "--port", str(place.port)]
    metrics = ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(place.other_port)]
    workers = ["--worker-urls", *place.worker_urls, "--policy", "round_robin"]
    launch = [python, "-m", "sglang_router.launch_router"]
    return [*launch, *listen, *metrics, *workers, "--log-level", "warn"]


def _prepare_vllm_router() -> str:
    install("vllm-router", "vllm-router==0.1.17")
    return "0.1.17"


def _vllm_router(place: Place) -> list[str]:
    program = str(VENVS / "vllm-router/bin/vllm-router")
    listen = ["--host", "127.0.0.1", "--port", str(place.port)]
    metrics = ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(place.other_port)]
    workers = ["--worker-urls", *place.worker_urls, "--policy", "round_robin"]
    return [program, *listen, *metrics, *workers, "--log-level", "warning"]


def _prepare_smg() -> str:
    install("smg", "smg==1.13.0")
    return "1.13.0"


def _smg(place: Place) -> list[str]:
    program = str(VENVS / "smg/bin/smg")
    listen = ["--host", "127.0.0.1", "--port", str(place.port)]
    metrics = ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(place.other_port)]
    workers = ["--worker-urls", *place.worker_urls, "--policy", "round_robin"]
    return [program, "launch", *listen, *metrics, *workers, "--log-level", "warn"]


def _prepare_litellm() -> str:
    python = install("litellm", "litellm[proxy]") / "python"
    ask = "from importlib.metadata import version; print(version('litellm'))"
    said = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True)
    return said.stdout.strip()


def _litellm(place: Place) -> list[str]:
    models = [
        {
            "model_name": "mock",
            "litellm_params": {"model": "openai/mock", "api_base": f"{url}/v1", "api_key": "none"},
        }
        for url in place.worker_urls
    ]
    config = place.directory / "litellm.json"  # YAML takes JSON
    config.write_bytes(msgspec.json.encode({"model_list": models}))
    listen = ["--host", "127.0.0.1", "--port", str(place.port)]
    program = str(VENVS / "litellm/bin/litellm")
    keyless = "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY=true"  # on loopback, for seconds
    command = [program, *listen, "--config", str(config), "--num_workers", "1"]
    return ["env", keyless, *command, "--telemetry", "False"]


def _prepare_haproxy() -> str:
    program = shutil.which("haproxy")
    if program is None:
        raise Unavailable("haproxy is not installed")
    said = subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stdout
    return said.split()[2]


def _haproxy(place: Place) -> list[str]:
    servers = "\n".join(
        f"  server worker-{number} 127.0.0.1:{port}"
        for number, port in enumerate(place.worker_ports)
    )
    config = place.directory / "haproxy.cfg"
    config.write_text(
        "global\n  nbthread 1\n  maxconn 8000\n"
        "defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n"
        "  timeout server 60s\n  option http-no-delay\n  http-reuse always\n"
        f"listen router\n  bind 127.0.0.1:{place.port} backlog 4096\n{servers}\n"
    )
    return ["haproxy", "-db", "-q", "-f", str(config)]


def _prepare_nginx() -> str:
    program = shutil.which("nginx")
    if program is None:
        raise Unavailable("nginx is not installed")
    said = subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stderr
    return said.strip().rpartition("/")[2]


def _nginx(place: Place) -> list[str]:
    servers = "".join(f"server 127.0.0.1:{port};" for port in place.worker_ports)
    paths = "".join(
        f"{kind}_temp_path {place.directory}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.geteuid() == 0 else ""
    config = place.directory / "nginx.conf"
    config.write_text(f"""
        daemon off; worker_processes 1; pid {place.directory}/nginx.pid; {user}
        error_log {place.directory}/error.log;
        events {{ worker_connections 4096; }}
        http {{
          access_log off; tcp_nodelay on; client_body_buffer_size 64k; {paths}
          keepalive_requests 1000000000;
          upstream workers {{ {servers} keepalive 400; keepalive_requests 1000000000; }}
          server {{
            listen 127.0.0.1:{place.port} backlog=4096;
            location / {{
              proxy_pass http://workers; proxy_http_version 1.1;
              proxy_set_header Connection ""; proxy_buffering off;
            }}
          }}
        }}
    """)
    return ["nginx", "-p", str(place.directory), "-c", str(config)]


TARGETS = (
    Target(name="direct", prepare=lambda: ""),
    ours(),
    Target(
        name="router-untraced",
        prepare=_prepare_compiled,
        command=_router("--disable-request-tracking"),
    ),
    Target(
        name="router-interpreted",
        prepare=_prepare_interpreted,
        command=_router(redis=True, compiled=False),
        redis=True,
        cases=("json-1k",),
    ),
    Target(name="sglang-router", prepare=_prepare_sglang_router, command=_sglang_router),
    Target(name="vllm-router", prepare=_prepare_vllm_router, command=_vllm_router),
    Target(name="smg", prepare=_prepare_smg, command=_smg),
    Target(
        name="litellm", prepare=_prepare_litellm, command=_litellm, cases=("json-1k", "sse-10k")
    ),
    Target(name="nginx", prepare=_prepare_nginx, command=_nginx),
    Target(name="haproxy", prepare=_prepare_haproxy, command=_haproxy),
)
