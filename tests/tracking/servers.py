"""Redis processes in the shapes people run them in: with Sentinels, as a cluster, with TLS, ACL.

All on loopback, on ports of their own. `Topology.url` is what `--redis-url` would be given.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from redis import Redis
from redis.exceptions import RedisError

from tests.processes import free_port

UP_SECONDS = 30.0
BUS = 10_000  # a cluster node talks to others at its port plus this


class Node:
    """One server process on a port. `arguments` as redis-server takes them."""

    def __init__(self, program: str, directory: Path, *arguments: str, port: int = 0) -> None:
        self.program = program
        self.port = port or free_port()
        self.directory = directory / str(self.port)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.arguments = arguments
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"redis://{self.address}"

    def command(self) -> Sequence[str]:
        return [
            self.program,
            *("--port", str(self.port), "--bind", "127.0.0.1", "--save", ""),
            *self.arguments,
        ]

    def start(self) -> Node:
        self.process = subprocess.Popen(
            self.command(), stdout=subprocess.DEVNULL, cwd=self.directory
        )
        return self

    def client(self) -> Redis:
        return Redis(port=self.port, socket_timeout=2, socket_connect_timeout=2)

    def ask(self, *command: str | int) -> object:
        """One command at this very server, answered."""
        client = self.client()
        try:
            return client.execute_command(*command)
        finally:
            client.close()

    def info(self, section: str) -> dict[str, object]:
        client = self.client()
        try:
            return cast(dict[str, object], client.info(section))
        finally:
            client.close()

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
            self.process = None


def wait_until(condition: Callable[[], object], seconds: float = UP_SECONDS) -> None:
    """Poll `condition()`; a server that does not answer yet counts as no."""
    end = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except RedisError:
            pass
        assert time.monotonic() < end, "the servers are not ready in time"
        time.sleep(0.05)


async def wait_for(condition: Callable[[], object], seconds: float = UP_SECONDS) -> None:
    await asyncio.to_thread(wait_until, condition, seconds)


class Topology:
    """Servers that belong together."""

    nodes: list[Node]

    @property
    def url(self) -> str:
        raise NotImplementedError

    def master(self, fleet: str) -> Node:
        """The server that holds the records of `fleet` now, as the others see it."""
        raise NotImplementedError

    def close(self) -> None:
        for node in reversed(self.nodes):
            node.kill()


class Cluster(Topology):
    """Three masters, each with a replica."""

    def __init__(self, program: str, directory: Path, *, node_timeout_ms: int = 2000) -> None:
        options = (
            *("--cluster-enabled", "yes", "--cluster-node-timeout", str(node_timeout_ms)),
            *("--repl-diskless-sync-delay", "0"),
        )
        self.nodes = [Node(program, directory, *options, port=_with_bus()) for _ in range(6)]

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(node.address for node in self.nodes)

    def start(self) -> Cluster:
        for node in self.nodes:
            node.start()
        for node in self.nodes:
            wait_until(lambda node=node: node.ask("PING"))  # type: ignore[misc]
        masters, replicas = self.nodes[:3], self.nodes[3:]
        for number, node in enumerate(self.nodes):
            # Epochs of their own, at once: else they are found out by collisions, which takes long.
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        bounds = [0, 5461, 10923, 16384]
        for number, node in enumerate(masters):
            node.ask("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
        for node in self.nodes[1:]:
            node.ask("CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port)
        for node in self.nodes:
            wait_until(lambda node=node: len(_table(node)) == 6)  # type: ignore[misc]
        for master, replica in zip(masters, replicas, strict=True):
            replica.ask("CLUSTER", "REPLICATE", master.ask("CLUSTER", "MYID"))  # type: ignore[arg-type]
        for node in self.nodes:
            wait_until(lambda node=node: self._settled(node))  # type: ignore[misc]
        return self

    def _settled(self, node: Node) -> bool:
        rows = _table(node)
        state = node.ask("CLUSTER", "INFO")
        assert isinstance(state, bytes | str | dict)
        ok = (
            state.get("cluster_state") == "ok"
            if isinstance(state, dict)
            else "cluster_state:ok" in (state if isinstance(state, str) else state.decode())
        )
        linked = all(row[7] == "connected" for row in rows)
        replicas = sum("slave" in row[2] for row in rows)
        synced = node.info("replication").get("master_link_status", "up") == "up"
        return ok and linked and replicas == 3 and synced

    def master(self, fleet: str) -> Node:
        slot = int(str(self._alive().ask("CLUSTER", "KEYSLOT", "{%s}:all" % fleet)))
        for row in _table(self._alive()):
            if "master" in row[2] and "fail" not in row[2].split(","):
                for span in row[8:]:
                    first, _, last = span.partition("-")
                    if first.isdecimal() and int(first) <= slot <= int(last or first):
                        port = int(row[1].split("@")[0].rpartition(":")[2])
                        return next(node for node in self.nodes if node.port == port)
        raise RedisError("no master for the slot now")

    def _alive(self) -> Node:
        """The last one that runs and answers: replicas are asked first."""
        for node in reversed(self.nodes):
            if node.process is not None:
                try:
                    node.ask("PING")
                except RedisError:
                    continue
                return node
        raise RedisError("no node runs")


class Sentinels(Topology):
    """A master with a replica, watched by three sentinels."""

    NAME = "traces"

    def __init__(self, program: str, directory: Path, *, down_after_ms: int = 1000) -> None:
        self._directory = directory
        self._program = program
        self._down_after = down_after_ms
        first = Node(program, directory, "--repl-diskless-sync-delay", "0")
        second = Node(
            program, directory, "--repl-diskless-sync-delay", "0",
            "--replicaof", f"127.0.0.1 {first.port}",
        )  # fmt: skip
        self.servers = [first, second]
        self.nodes = list(self.servers)
        self.sentinels: list[Node] = []

    @property
    def url(self) -> str:
        return "redis+sentinel://%s/%s" % (
            ",".join(one.address for one in self.sentinels),
            self.NAME,
        )

    def start(self) -> Sentinels:
        for node in self.servers:
            node.start()
        first, second = self.servers
        wait_until(lambda: first.info("replication")["connected_slaves"] == 1)
        wait_until(lambda: second.info("replication")["master_link_status"] == "up")
        for _ in range(3):
            port = free_port()
            file = self._directory / f"sentinel-{port}.conf"
            file.write_text(
                f"sentinel monitor {self.NAME} 127.0.0.1 {first.port} 2\n"
                f"sentinel down-after-milliseconds {self.NAME} {self._down_after}\n"
                f"sentinel failover-timeout {self.NAME} 6000\n"
            )
            self.sentinels.append(
                _Sentinel(self._program, self._directory, str(file), port=port).start()
            )
        self.nodes += self.sentinels
        for one in self.sentinels:
            wait_until(lambda one=one: self._ready(one))  # type: ignore[misc]
        return self

    def _ready(self, sentinel: Node) -> bool:
        client = sentinel.client()
        try:
            masters = cast(dict[str, dict[str, int]], client.sentinel_masters())
        finally:
            client.close()
        state = masters[self.NAME]
        return state["num-other-sentinels"] == 2 and state["num-slaves"] == 1

    def master(self, fleet: str) -> Node:
        found = self.sentinels[0].ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.NAME)
        assert isinstance(found, list | tuple)
        return next(node for node in self.servers if node.port == int(found[1]))


class _Sentinel(Node):
    def command(self) -> Sequence[str]:
        (file,) = self.arguments
        return [self.program, file, "--sentinel", "--port", str(self.port), "--bind", "127.0.0.1"]


def _with_bus() -> int:
    """A port whose bus port is free as well."""
    while True:
        port = free_port()
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port + BUS))
            except OSError:
                continue
        return port


def _table(node: Node) -> list[list[str]]:
    """CLUSTER NODES, its lines split."""
    client = Redis(port=node.port, socket_timeout=2, socket_connect_timeout=2)
    client.set_response_callback("CLUSTER NODES", lambda text, **_: text)
    try:
        text = client.execute_command("CLUSTER NODES")
    finally:
        client.close()
    text = text if isinstance(text, str) else text.decode()
    return [line.split() for line in text.splitlines()]
