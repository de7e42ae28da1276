"""Servers as their owners run them: with TLS, with users, with settings that deserve a word."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.certificates import Authority, Pair
from tests.tracking.conftest import DAY, documented_user
from tests.tracking.servers import Node, wait_until
from tests.tracking.traces import record
from tests.tracking.trackers import Fleet
from tests.waiting import PATIENCE_SECONDS
from tracking.advice import Server, advice
from tracking.store import TraceStore
from tracking.view import StoreUnavailable

pytestmark = pytest.mark.redis

GOOD: dict[str, object] = {
    "redis_version": "7.0.15", "maxmemory_policy": "noeviction", "maxmemory": 0, "aof_enabled": 1,
    "configured_hz": 50,
}  # fmt: skip
CONFIG = {"save": "3600 1", "lazyfree-lazy-expire": "yes"}


def said(
    *, config: dict[str, str] | None = CONFIG, cluster: bool = False, **info: object
) -> list[str]:
    return advice(Server(GOOD | info, config, cluster), 100_000)


def test_a_server_as_recommended_is_no_cause_for_words():
    assert said() == said(aof_enabled=0) == said(redis_version="10.1") == []
    assert said(cluster_enabled=1, cluster=True) == said(maxmemory=10**9) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"redis_version": "6.2.14"}, "6.2.14 is too old: 7.0"),
        ({"maxmemory_policy": "allkeys-lru"}, "maxmemory-policy is allkeys-lru"),
        ({"maxmemory": 64 << 20}, "64 MB: room for some 18137 traces"),
        ({"cluster_enabled": 1}, r"redis\+cluster://"),
        ({"configured_hz": 10}, "hz is 10: "),
        ({"config": {**CONFIG, "lazyfree-lazy-expire": "no"}}, "lazyfree-lazy-expire is no"),
        ({"aof_enabled": 0, "config": {**CONFIG, "save": ""}}, "keeps nothing on disk"),
        ({"aof_enabled": 0, "config": None}, "may not run CONFIG GET"),
    ],
)
def test_each_setting_that_is_not_gets_one_line(settings, words):
    (line,) = said(**settings)
    assert words.replace("\\", "") in line


def test_a_user_who_may_not_ask_hears_so():
    assert len(advice(Server(None, None, False), 10)) == 1


async def test_a_tracker_warns_at_start_and_only_of_a_server_that_was_given(own_server, caplog):
    caplog.set_level(logging.WARNING, "tracking")
    admin = Redis.from_url(own_server.url)
    await admin.config_set("maxmemory-policy", "allkeys-lru")
    await admin.config_set("lazyfree-lazy-expire", "no")
    fleet = Fleet(own_server.url)
    await fleet.tracker("a")
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(caplog.messages) < 4:
            await asyncio.sleep(0.01)
    policy, hz, expiry, persistence = caplog.messages
    assert "maxmemory-policy is allkeys-lru" in policy
    assert "hz is 10" in hz
    assert "lazyfree-lazy-expire is no" in expiry
    assert "keeps nothing on disk" in persistence
    await fleet.close()
    await admin.aclose()


async def test_the_documented_user_has_one_fleet_and_a_fail_over_is_noticed(own_server):
    admin = Redis.from_url(own_server.url)
    url = await documented_user(admin, own_server.path, "mine")
    store = TraceStore.from_url(url, "mine", DAY)
    beat = await store.heartbeat("a/1", lease_seconds=3, urls=[])
    run_id = (await admin.info("server"))["run_id"]
    assert beat.server.startswith(run_id.encode())
    assert (await store.examine()).info is not None
    other = TraceStore.from_url(url, "another", DAY)
    with pytest.raises(StoreUnavailable, match="(?i)perm"):
        await other.write([record()])
    await store.close()
    await other.close()
    await admin.aclose()


async def test_a_user_without_info_and_config_works_and_is_told(own_server, caplog):
    caplog.set_level(logging.WARNING, "tracking")
    admin = Redis.from_url(own_server.url)
    url = await documented_user(admin, own_server.path, "default")
    await admin.execute_command("ACL", "SETUSER", "user-default", "-info")
    fleet = Fleet(url)
    tracker = await fleet.tracker("a")
    assert tracker.state().state == "up"
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not caplog.messages:
            await asyncio.sleep(0.01)
    assert "may not run INFO" in caplog.messages[0]
    await fleet.close()
    await admin.aclose()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def tls_server(
    tmp_path: Path, programs: dict[str, Callable[[], str]], authority: Authority
) -> Iterator[Node]:
    """It also wants to see a certificate."""
    pair = authority.issue("server")
    node = _TlsNode(programs["redis"](), tmp_path)
    node.arguments = (
        *("--tls-cert-file", str(pair.cert), "--tls-key-file", str(pair.key)),
        *("--tls-ca-cert-file", str(authority.cert)),
    )
    node.start()
    yield node
    node.kill()


class _TlsNode(Node):
    def command(self) -> list[str]:
        listen = ["--port", "0", "--tls-port", str(self.port), "--bind", "127.0.0.1"]
        return [self.program, *listen, "--save", "", *self.arguments]


async def test_tls_with_a_private_authority_and_a_client_certificate(tls_server, authority):
    mine: Pair = authority.issue("router")
    trust = f"{tls_server.url.replace('redis', 'rediss')}?ssl_ca_certs={authority.cert}"
    shown = f"{trust}&ssl_certfile={mine.cert}&ssl_keyfile={mine.key}"
    await asyncio.to_thread(wait_until, lambda: _listens(tls_server.port))
    store = TraceStore.from_url(shown, "f", DAY)
    assert await store.write([record("k")]) == 1
    await store.close()
    for url in (trust, shown.split("?")[0], tls_server.url):
        refused = TraceStore.from_url(url, "f", DAY)
        with pytest.raises(StoreUnavailable):
            await refused.write([record()])
        await refused.close()


def _listens(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
