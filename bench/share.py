"""What it costs replicas to know of each other: one exchange, at the router and at Redis.

    python -m bench.share [--workers 64] [--replicas 4] [--calls 2000] [--prompts 10]

`--replicas` routers in this process tell a real Redis in turn. Before each call every worker's
requests have changed and `--prompts` prompts of 16 KB were routed to some worker, half of which the
fleet had seen before; then the same with nothing new. CPU time of this process and of the server,
per call, in microseconds.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from random import Random

import uvloop

from router.caches import Caches
from router.core.prefix_news import PrefixNews
from router.core.worker import Worker
from router.fleet import Fleet
from router.policies import PolicyConfig, build_policy
from router.shared import Sharing
from tracking.sharing import Heard, Told, share
from tracking.store import Retention, TraceStore

BLOCKS = 20  # of 16 KB


class Replica:
    def __init__(self, url: str, name: str, workers: int) -> None:
        self.store = TraceStore.from_url(url, "bench", Retention(1000, 60))
        self.owner = f"{name}/1"
        self.fleet = Fleet([Worker(f"http://10.0.0.{i}:30000", f"w{i}") for i in range(workers)])
        self.policy = build_policy("cache_aware", PolicyConfig(), Random(1))
        self.caches = Caches([self.policy], PrefixNews())
        self.sharing = Sharing(
            self._exchange, self.fleet, self.caches, self._nothing_new, time.monotonic
        )

    async def _exchange(self, told: Told) -> Heard:
        return await share(self.store, self.owner, told)

    async def _nothing_new(self, version: int, others: frozenset[str]) -> None:
        """Lists of workers are read only when they change."""

    async def beat(self) -> None:
        await self.store.heartbeat(self.owner, lease_seconds=3.0, urls=[])


class Server:
    """A Redis of its own, on a unix socket."""

    def __init__(self, folder: Path) -> None:
        path = folder / "redis.sock"
        program = shutil.which("redis-server") or "redis-server"
        command = [program, "--port", "0", "--unixsocket", str(path), "--save", ""]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=folder)
        self.url = f"unix://{path}"
        while not path.exists():
            time.sleep(0.01)

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100


async def measure(server: Server, options: argparse.Namespace, *, busy: bool) -> None:
    chance = Random(1)
    replicas = [Replica(server.url, f"r{i}", options.workers) for i in range(options.replicas)]
    for replica in replicas:
        await replica.beat()
        await replica.sharing.share()
    heads = [chance.getrandbits(64) for _ in range(200)]
    own = routing = 0.0
    redis = server.cpu_seconds()
    for call in range(options.calls):
        replica = replicas[call % len(replicas)]
        if call % 200 == 0:
            for each in replicas:
                await each.beat()
        if busy:
            for worker in replica.fleet.workers:
                worker.in_flight = chance.randrange(1, 50)
                worker.own_queued_tokens = chance.randrange(100_000)
            prompts = [
                [chance.choice(heads), *(chance.getrandbits(64) for _ in range(BLOCKS - 1))]
                if number % 2
                else [chance.choice(heads)]
                for number in range(options.prompts)
            ]
            started = time.process_time()
            for blocks in prompts:
                replica.caches.routed(blocks, chance.choice(replica.fleet.workers))
            routing += time.process_time() - started
        started = time.process_time()
        await replica.sharing.share()
        own += time.process_time() - started
    redis = server.cpu_seconds() - redis
    what = "all changed" if busy else "nothing new"
    print(
        f"{what:<12} {options.workers} workers, {options.replicas} replicas: "
        f"router {own / options.calls * 1e6:.0f} µs, redis {redis / options.calls * 1e6:.0f} µs "
        f"a call"
        + (
            f"; noting a prompt {routing / options.calls / options.prompts * 1e6:.1f} µs"
            if busy
            else ""
        )
    )
    for replica in replicas:
        await replica.store.leave(replica.owner)
        await replica.store.close()


async def run(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            await measure(server, options, busy=False)
            await measure(server, options, busy=True)
        finally:
            server.process.kill()
            server.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--prompts", type=int, default=10, help="routed before each call")
    uvloop.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
