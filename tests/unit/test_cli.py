"""The command `trace-router`, and the router started from Python."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

import pytest

import router
from router import PolicyType, Router
from router.cli import main
from router.config import Config
from router.flags import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("TRACE_ROUTER_") or name == "REDIS_URL":
            monkeypatch.delenv(name)


class App:
    """Stands in for router.serving: notes what it was asked to run."""

    def __init__(self) -> None:
        self.ran: list[Config] = []
        self.status = 0

    def run(self, config: Config) -> int:
        self.ran.append(config)
        return self.status


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> App:
    app = App()
    module = ModuleType("router.serving")
    module.run = app.run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "router.serving", module)
    monkeypatch.setattr(router, "app", module, raising=False)
    return app


def test_serve_runs_the_router_with_the_settings_given(app: App) -> None:
    assert main(["serve", "--worker-urls", "http://a:1", "--port", "30009"]) == 0
    assert [(c.worker_urls, c.port) for c in app.ran] == [(("http://a:1",), 30009)]


def test_flags_without_a_command_serve(app: App) -> None:
    assert main(["--port", "30009"]) == 0
    assert app.ran[0].port == 30009


def test_the_exit_status_is_that_of_the_router(app: App) -> None:
    app.status = 1
    assert main(["serve"]) == 1


def test_the_settings_and_one_warning_are_logged_at_start(
    app: App, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "serve --port 30009 --api-key s3cret --control-plane-audit-enabled --model-path m --log-level INFO"
    assert main(words.split()) == 0
    out = capsys.readouterr().out
    assert "Settings: port=30009" in out
    assert "s3cret" not in out
    assert out.count("WARNING") == 1
    assert (
        "Accepted without effect: --model-path. Not supported yet: --control-plane-audit-enabled"
        in out
    )


def test_bad_settings_end_with_status_2_and_a_line_each(
    app: App, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--port", "x", "--queue-size", "y"]) == 2
    assert capsys.readouterr().err == (
        "trace-router: --port: expected a whole number from 0 to 65535, got 'x'\n"
        "trace-router: --queue-size: expected a whole number of at least 0, got 'y'\n"
    )
    assert app.ran == []


def test_a_log_directory_that_cannot_be_used_ends_with_status_2(
    app: App, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    assert main(["serve", "--log-dir", str(file)]) == 2
    assert capsys.readouterr().err == (
        f"trace-router: --log-dir: cannot log to '{file}': File exists\n"
    )
    assert app.ran == []


def test_help_shows_every_flag_with_its_default_and_unit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--trace-ttl SECONDS How long a trace is held. (also --trace-ttl-seconds, default: 3600)" in text  # fmt: skip
    assert "Request tracking: --enable-request-tracking" in text
    assert f"--policy NAME How a worker is chosen: {', '.join(PolicyType)};" in text
    assert "TRACE_ROUTER_TRACE_TTL" in text
    assert "--history-backend" in text


@pytest.mark.parametrize(("words", "status"), [([], 2), (["--help"], 0)])
def test_without_a_command_the_commands_are_shown(
    words: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == status
    shown = capsys.readouterr().out
    assert all(command in shown for command in ("serve", "store", "health"))


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for word, hint in (
        ("launch", "trace-router --help lists them"),
        ("serv", "did you mean serve?"),
    ):
        assert main([word]) == 2
        assert capsys.readouterr().err == f"trace-router: there is no command '{word}'; {hint}\n"


class Health(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> object:
    server = HTTPServer(("127.0.0.1", 0), Health)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_health_tells_by_its_exit_status_whether_the_router_answers(
    server: HTTPServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = server.server_address[1]
    assert main(["health", "--url", f"http://127.0.0.1:{port}"]) == 0
    monkeypatch.setenv("TRACE_ROUTER_PORT", str(port))
    assert main(["health"]) == 0
    monkeypatch.setattr(Health, "status", 503)
    assert main(["health"]) == 1
    assert capsys.readouterr().err == f"http://127.0.0.1:{port}: status 503\n"


def test_health_fails_when_nobody_listens(
    server: HTTPServer, capsys: pytest.CaptureFixture[str]
) -> None:
    port = server.server_address[1]
    server.shutdown()
    server.server_close()
    assert main(["health", "--url", f"http://127.0.0.1:{port}"]) == 1
    assert "refused" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["127.0.0.1:1", "http://a:b", "ftp://a", "http://"])
def test_health_refuses_what_is_no_url(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health", "--url", url]) == 2
    assert "--url: expected http://HOST:PORT" in capsys.readouterr().err


def test_python_m_router_is_serve() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "router", "--port", "x"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("trace-router: --port: expected")


def test_the_import_is_light() -> None:
    code = (
        "import sys, router; router.Router(worker_urls=['http://a:1']); router.PolicyType; "
        "print(sorted({'aiohttp', 'asyncio', 'redis', 'uvloop', 'prometheus_client'} "
        "& set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.stdout == "[]\n"


def test_the_guides_own_start_works(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    Router(
        worker_urls=["http://localhost:30005", "http://localhost:30006"],
        policy=PolicyType.CacheAware,
        port=30009,
        enable_request_tracking=True,
        max_trace_entries=100000,
        trace_ttl_seconds=3600,
        log_level="INFO",
    ).start()
    (config,) = app.ran
    assert config.worker_urls == ("http://localhost:30005", "http://localhost:30006")
    assert (config.policy, config.port, config.trace_ttl) == ("cache_aware", 30009, 3600)
    assert config.enable_request_tracking
    assert "Settings: port=30009" in capsys.readouterr().out


def test_the_users_script_may_name_workers_by_their_gpu() -> None:
    config = Router(
        workers=["http://localhost:30005"], enable_tracking=True,
        port_gpu_mapping={"30005": "cuda:2"}, policy="round_robin",
    ).config  # fmt: skip
    assert config.port_gpu_mapping == {30005: "cuda:2"}
    assert config.policy is PolicyType.RoundRobin


def test_an_unknown_keyword_is_a_type_error_that_names_what_comes_close() -> None:
    with pytest.raises(TypeError, match="no setting 'max_trace_entry'; .* max_trace_entries"):
        Router(max_trace_entry=1)


def test_a_bad_keyword_value_is_refused_by_its_name() -> None:
    with pytest.raises(ConfigError, match="^port: expected a whole number from 0 to 65535"):
        Router(port=70000)
    with pytest.raises(ConfigError, match="^worker_urls: expected a list"):
        Router(worker_urls=5)


def test_a_router_that_ends_badly_ends_the_script_with_its_status(app: App) -> None:
    app.status = 1
    with pytest.raises(SystemExit) as ended:
        Router().start()
    assert ended.value.code == 1


def test_the_environment_also_reaches_a_router_started_from_python(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRACE_ROUTER_REDIS_URL", "redis://h:1")
    assert Router().config.redis_url == "redis://h:1"
    assert Router(redis_url="redis://other:1").config.redis_url == "redis://other:1"


def test_the_store_serves_until_it_is_told_to_end() -> None:
    command = [sys.executable, "-m", "router", "store", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as store:
        assert store.stdout is not None
        url = store.stdout.readline().strip()
        try:
            assert url.startswith("redis://127.0.0.1:")
            with socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), 5) as client:
                client.sendall(b"PING\r\n")
                assert client.recv(100) == b"+PONG\r\n"
        finally:
            store.terminate()
        assert store.wait(10) == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), 5)


def test_a_store_that_cannot_listen_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [sys.executable, "-m", "router", "store", "--port", str(taken.getsockname()[1])]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith("trace-router: the private store did not start: ")


def test_a_store_on_an_address_that_is_not_ours_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["store", "--host", "192.0.2.1", "--port", "0"]) == 2
    assert "--host: cannot listen on '192.0.2.1'" in capsys.readouterr().err
