"""The user's script and the guide's curl commands, word for word."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from tests.fleets import Fleet, body, error_of, fleet, post
from tests.processes import Json, Process, Processes, SimWorker, answers, free_port
from tests.raw_tcp import RawConnection

pytestmark = pytest.mark.e2e

SCRIPT = """
from router import PolicyType, Router
Router(worker_urls=[{first!r}, {second!r}], policy=PolicyType.CacheAware,
       port={port}, enable_request_tracking=True, max_trace_entries=100000, trace_ttl_seconds=3600,
       log_level="INFO").start()
print("start() came back")
"""
SEND = """
curl -X POST http://localhost:30009/generate \\
  -H "Content-Type: application/json" \\
  -H "X-Request-Id: test-manual-123" \\
  -d '{
    "text": "Hello world",
    "sampling_params": {
      "max_new_tokens": 10,
      "temperature": 0.7
    }
  }'
"""
GUIDE_FIELDS = {
    "request_id": str,
    "node_id": str,
    "worker_url": str,
    "routing_policy": str,
    "status": str,
    "timestamp": str,
    "cache_hit_rate": float,
    "queue_size": int,
}


class Script(Process):
    """The user's script, as a file run by Python."""

    name = "script"

    def __init__(self, path: Path, workers: Sequence[SimWorker]) -> None:
        super().__init__()
        self._path = path
        self.port = free_port()
        first, second = (worker.url.replace("127.0.0.1", "localhost") for worker in workers)
        path.write_text(SCRIPT.format(first=first, second=second, port=self.port))

    def command(self) -> Sequence[str]:
        return [sys.executable, str(self._path)]

    def environment(self) -> dict[str, str]:
        root = str(Path(__file__).parents[2])
        return {"PYTHONPATH": root, "TRACE_ROUTER_DRAIN_SECS": "0"}

    async def is_ready(self) -> bool:
        return await answers(f"http://127.0.0.1:{self.port}/readiness")

    async def curl(self, command: str) -> tuple[int, bytes]:
        """What a command of the guide prints; only the port is changed. Status and body."""
        command = command.replace("localhost:30009", f"127.0.0.1:{self.port}").strip()
        process = await asyncio.create_subprocess_shell(
            command.replace("curl ", "curl -s -w '\\n%{http_code}' ", 1),
            stdout=asyncio.subprocess.PIPE,
        )
        printed, _ = await process.communicate()
        content, _, status = printed.rpartition(b"\n")
        return int(status), content

    async def json(self, command: str) -> Json:
        status, content = await self.curl(command)
        assert status == 200, content
        return msgspec.json.decode(content, type=Json)


async def test_the_users_script_and_the_guides_commands(processes: Processes, tmp_path: Path):
    workers = [await processes.start(SimWorker()) for _ in range(2)]
    script = await processes.start(Script(tmp_path / "start_test_router.py", workers))
    assert "Initializing request tracker" in script.log()

    stats = await script.json("curl http://localhost:30009/v1/traces/stats")
    assert stats["total_requests"] == stats["active_traces"] == 0

    sent = await script.json(SEND)
    assert set(sent) >= {"text", "meta_info"}
    for number in range(4):
        await script.json(SEND.replace("-123", f"-{number}"))

    trace = await script.json("curl http://localhost:30009/v1/traces/test-manual-123")
    for name, kind in GUIDE_FIELDS.items():
        assert isinstance(trace[name], kind), name
    assert trace["request_id"] == "test-manual-123"
    assert trace["node_id"] in ("worker-0", "worker-1")
    assert trace["routing_policy"] == "cache_aware"
    assert trace["status"] == "completed"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(trace["timestamp"]))
    ports = {worker.port for worker in workers}
    assert int(str(trace["worker_url"]).split(":")[-1].strip("/")) in ports
    assert str(trace["worker_url"]).startswith("http://localhost:")

    status, content = await script.curl("curl http://localhost:30009/v1/traces?limit=10")
    assert status == 200
    listed = msgspec.json.decode(content, type=list[Json])
    assert [t["request_id"] for t in listed] == [
        *(f"test-manual-{number}" for number in (3, 2, 1, 0)),
        "test-manual-123",
    ]
    status, content = await script.curl(
        "curl -X POST http://localhost:30009/v1/traces/batch "
        """-d '{"request_ids": ["test-manual-1", "never", "test-manual-123"]}'"""
    )
    batch = msgspec.json.decode(content, type=list[Json])
    assert [t["request_id"] for t in batch] == ["test-manual-1", "test-manual-123"]

    stats = await script.json("curl http://localhost:30009/v1/traces/stats")
    assert stats["total_requests"] == stats["active_traces"] == 5
    assert msgspec.convert(stats["requests_per_status"], Json) == {"completed": 5}
    per_node = msgspec.convert(stats["requests_per_node"], dict[str, int])
    assert sum(per_node.values()) == 5
    assert set(per_node) <= {"worker-0", "worker-1"}

    status, content = await script.curl("curl http://localhost:30009/v1/traces/never-sent")
    assert status == 404
    assert b"never-sent" in content

    script.signal(signal.SIGINT)
    assert await script.wait(20) == 0
    assert "start() came back" in script.log()
    for worker in workers:
        await worker.wait_free()


async def get(running: Fleet, path: str, method: str = "GET"):
    async with await RawConnection.connect(running.router.port) as client:
        await client.send(
            f"{method} {path} HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n".encode()
        )
        return await client.read_response()


async def test_with_tracking_off_requests_flow_and_every_question_is_a_501(processes: Processes):
    async with fleet(
        processes, workers=1, flags=["--disable-request-tracking"], tracked=False
    ) as running:
        answer = await post(running.router, "/generate", body(), request_id="untraced")
        assert answer.status == 200
        assert answer.header("x-request-id") == "untraced"
        for method, path in (
            ("GET", "/v1/traces"),
            ("GET", "/v1/traces/stats"),
            ("GET", "/v1/traces/untraced"),
            ("POST", "/v1/traces/batch"),
        ):
            refused = await get(running, path, method)
            assert refused.status == 501, path
            assert "Request tracking is not enabled" in str(error_of(refused)["message"])
        assert "Initializing request tracker" not in running.router.log()


async def test_without_any_key_deletion_is_forbidden(processes: Processes):
    async with fleet(processes, workers=1) as running:
        await running.generate(request_id="stays")
        for path in ("/v1/traces", "/v1/traces/stays"):
            refused = await get(running, path, "DELETE")
            assert refused.status == 403
            assert error_of(refused)["type"] == "permission_error"
        assert (await running.trace("stays"))["request_id"] == "stays"
