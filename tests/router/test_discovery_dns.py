"""Workers behind a name come and go with its addresses."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.discovery import dns
from router.discovery.dns import DnsSource, one_kind
from router.discovery.source import Found
from tests.running import running, sim_worker
from tests.waiting import until

V4, V6 = socket.AF_INET, socket.AF_INET6


class Names:
    """Stands for the system's resolver."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answer: list[dns.Address] | OSError = []
        monkeypatch.setattr(dns, "resolve", self.resolve)

    async def resolve(self, host: str) -> list[dns.Address]:
        assert host == "vllm.llm.svc"
        if isinstance(self.answer, OSError):
            raise self.answer
        return self.answer


class Said:
    """A report that keeps the last word."""

    def __init__(self) -> None:
        self.workers: list[str] | None = None
        self.problem: str | None = None

    def found(self, workers: Sequence[Found]) -> None:
        self.workers, self.problem = [worker.url for worker in workers], None

    def failed(self, reason: str) -> None:
        self.problem = reason


async def test_every_address_is_a_worker_and_a_failure_is_told(monkeypatch: pytest.MonkeyPatch):
    names, said = Names(monkeypatch), Said()
    names.answer = [(V4, "10.0.0.2"), (V4, "10.0.0.1"), (V4, "10.0.0.2"), (V6, "fd00::1")]
    task = asyncio.create_task(DnsSource("http://vllm.llm.svc:8000", 0.005).run(said))
    try:
        await until(lambda: said.workers == ["http://10.0.0.1:8000", "http://10.0.0.2:8000"])
        names.answer = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        await until(lambda: said.problem == "does not resolve: Name or service not known")
        names.answer = [(V6, "fd00::1")]
        await until(lambda: said.workers == ["http://[fd00::1]:8000"])
    finally:
        task.cancel()


async def test_a_router_uses_what_the_systems_resolver_says():
    async with (
        sim_worker() as sim,
        running(discovery_dns=(sim.url.replace("127.0.0.1", "localhost"),)) as app,
    ):
        await until(lambda: [worker.url for worker in app.fleet.workers] == [sim.url])
        (member,) = app.registry.members
        assert member.origin == f"dns:localhost:{sim.url.rpartition(':')[2]}"


@given(st.lists(st.tuples(st.sampled_from([V4, V6]), st.sampled_from(["a", "b", "c"]))))
def test_no_worker_is_counted_under_two_kinds_of_address(addresses):
    shown = one_kind(addresses)
    assert shown == sorted(set(shown))
    kinds = {family for family, _ in addresses}
    wanted = V4 if V4 in kinds else V6
    assert set(shown) == {address for family, address in addresses if family == wanted}
