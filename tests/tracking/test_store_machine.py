"""Whatever is done to a store, in whatever order, it answers as a plain dictionary would."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import fakeredis
import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from tests.tracking.conftest import Backend
from tests.tracking.model_store import ModelStore, Version
from tests.tracking.traces import now_us, record
from tracking.connect import Client, close, connect
from tracking.query import STATUSES, TraceQuery
from tracking.record import Record
from tracking.store import TraceStore
from tracking.tallies import Tallies

CAP = 12
KEYS = 24
NODES = ("none", "worker-0", "worker-1")
OWNERS = ("a/1", "b/1")
MODELS = ("m", "n")
Run = Callable[[Coroutine[Any, Any, Any]], Any]


def stored_form(version: Version) -> Record:
    return record(
        version.key, owner=version.owner, status=version.status, revision=version.revision,
        at_us=version.arrived_us, request_id=version.request_id, node=version.node,
        session=version.session, model=version.model,
    )  # fmt: skip


class StoreMachine(RuleBasedStateMachine):
    """One fleet. `run` awaits; `backend()` gives a fleet of its own on some server."""

    run: Run
    backend: Callable[[], Backend]

    def __init__(self) -> None:
        super().__init__()
        self.at = self.backend()
        self.store: TraceStore = self.at.store(max_entries=CAP)
        self.model = ModelStore(CAP)
        self.generation = 0
        self.first_us = now_us() // 60_000_000 * 60_000_000 - 900_000_000

    def version(self, number: int, owner: str, revision: int, status: Any, node: str) -> Version:
        key = f"g{self.generation}-{number:02}"
        return Version(
            key=key,
            arrived_us=self.first_us + number // 2,  # two share an arrival each
            owner=owner,
            revision=revision,
            status=status,
            node=node,
            request_id="same" if number % 3 == 0 else key,
            session=(None, "s", "t")[number % 3],
            model=MODELS[number % 2],
        )

    numbers = st.integers(0, KEYS - 1)
    versions = st.tuples(
        numbers, st.sampled_from(OWNERS), st.integers(1, 3),
        st.sampled_from([status for status in STATUSES if status != "lost"]),
        st.sampled_from(NODES),
    )  # fmt: skip
    queries = st.builds(
        TraceQuery,
        node_id=st.none() | st.sampled_from(NODES),
        status=st.none() | st.sampled_from(STATUSES),
        session_id=st.none() | st.sampled_from(["s", "t"]),
        model=st.none() | st.sampled_from(MODELS),
        order=st.sampled_from(["desc", "asc"]),
        limit=st.integers(1, 5),
    )

    # --- what happens ----------------------------------------------------------------------------

    @rule(batch=st.lists(versions, min_size=1, max_size=8), fresh=st.booleans())
    def write(self, batch: list[tuple[int, str, int, str, str]], fresh: bool) -> None:
        versions = [self.version(*one) for one in batch]
        records = [stored_form(one) for one in versions]
        for one in records:
            one.fresh = fresh  # right or wrong, it changes nothing
        accepted = self.run(self.store.write(records))
        assert accepted == self.model.write(versions)

    @rule(number=numbers)
    def write_what_is_too_old(self, number: int) -> None:
        old = self.version(number, "a/1", 9, "completed", "worker-0")
        old = msgspec.structs.replace(old, key="old", arrived_us=now_us() - 100_000 * 1_000_000)
        assert self.run(self.store.write([stored_form(old)])) == 0

    @rule(owner=st.sampled_from(OWNERS))
    def beat(self, owner: str) -> None:
        self.run(self.store.heartbeat(owner, lease_seconds=600, urls=[]))
        self.model.alive.add(owner)

    @rule(owner=st.sampled_from(OWNERS))
    def leave(self, owner: str) -> None:
        self.run(self.store.leave(owner))
        self.model.alive.discard(owner)

    @rule()
    def sweep(self) -> None:
        assert self.run(self.store.sweep()) == (self.model.sweep(), False)

    @rule(number=numbers, by_key=st.booleans())
    def delete(self, number: int, by_key: bool) -> None:
        one = self.version(number, "a/1", 1, "queued", "none")
        one_id = one.key if by_key else one.request_id
        assert self.run(self.store.delete(one_id)) == self.model.delete(one_id)

    @rule(session=st.sampled_from(["s", "t"]))
    def delete_session(self, session: str) -> None:
        deleted = self.run(self.store.delete_session(session))
        assert deleted == self.model.delete_session(session)

    @precondition(lambda self: self.generation < 3)
    @rule()
    def delete_all(self) -> None:
        self.deleted_all(self.run(self.store.delete_all()))

    @precondition(lambda self: self.generation < 3)
    @rule()
    def delete_all_while_somebody_sums_up(self) -> None:
        deleted: list[int] = []

        async def call(name: str, *arguments: Any) -> Any:
            reply = await self.store.call(name, *arguments)
            if not deleted:  # between reading what has finished and storing its sums
                deleted.append(await self.store.delete_all())
            return reply

        self.run(Tallies(call).sum_up())
        self.deleted_all(deleted[0])

    def deleted_all(self, deleted: int) -> None:
        # What arrives from now on is later than everything that was deleted.
        self.first_us = now_us() + 1000
        self.generation += 1
        assert deleted == self.model.delete_all(self.first_us)

    @rule()
    def sum_up(self) -> None:
        self.run(self.store.tallies.sum_up())

    # --- what it answers -------------------------------------------------------------------------

    @rule(number=numbers)
    def get(self, number: int) -> None:
        key = self.version(number, "a/1", 1, "queued", "none").key
        ids = [key, "same", "nobody"]
        found = self.run(self.store.get(ids))
        shown = [one and msgspec.json.decode(one.body) for one in found]
        expected = [self.model.get(one) for one in ids]
        assert [one and (one["key"], one["status"], one["node_id"]) for one in shown] == [
            one and (one.key, one.status, one.node) for one in expected
        ]

    @rule(query=queries, since=st.none() | numbers, until=st.none() | numbers,
          budget=st.integers(1, 30))  # fmt: skip
    def list(self, query: TraceQuery, since: int | None, until: int | None, budget: int) -> None:
        query = msgspec.structs.replace(
            query,
            since_us=None if since is None else self.first_us + since,
            until_us=None if until is None else self.first_us + until,
        )
        expected = self.model.list(query)
        seen: list[str] = []
        while True:
            page = self.run(self.store.page(query, scan_budget=budget))
            assert len(page.rows) <= query.limit
            seen += [msgspec.json.decode(row)["key"] for row in page.rows]
            if page.next_cursor is None:
                break
            assert page.next_cursor != query.cursor  # each page gets further
            assert page.rows or page.budget_spent or len(seen) == len(expected)
            query = msgspec.structs.replace(query, cursor=page.next_cursor)
        assert seen == expected

    @rule()
    def count(self) -> None:
        stats = self.run(self.store.stats())
        held = self.model.held()
        arrivals = sorted(version.arrived_us for version in held)
        assert (stats.total, stats.active) == (self.model.total, len(held))
        assert stats.per_node == Counter(version.node for version in held)
        assert stats.per_status == Counter(version.status for version in held)
        assert (stats.oldest_us, stats.newest_us) == (
            (arrivals[0], arrivals[-1]) if arrivals else (None, None)
        )
        finished: Counter[str] = Counter()
        for (model, _), count in self.model.finished.items():
            finished[model] += count
        assert stats.per_model == finished

    @rule()
    def look_through_a_window(self) -> None:
        window = self.run(self.store.tallies.window(3600, ["model"]))
        statuses: Counter[str] = Counter()
        by_model: dict[str, Counter[str]] = {}
        for (model, status), count in self.model.finished.items():
            statuses[status] += count
            by_model.setdefault(model, Counter())[status] += count
        assert window.total.statuses == statuses
        assert {name: sums.statuses for name, sums in window.by["model"].items()} == by_model

    def teardown(self) -> None:
        self.count()
        self.look_through_a_window()
        for order in ("desc", "asc"):
            self.list(TraceQuery(order=order, limit=2), None, None, 30)
        kept = {name.removeprefix("r:") for name in self.run(self.at.keys()) if name[:2] == "r:"}
        assert kept == set(self.model.stored)


def check(run: Run, backend: Callable[[], Backend], *, examples: int, steps: int = 25) -> None:
    """Run the machine against fleets that `backend` makes."""
    machine = type(
        "Machine", (StoreMachine,), {"run": staticmethod(run), "backend": staticmethod(backend)}
    )
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            # Shrinking takes longer than a test may. To understand a failure, take this line away.
            phases=[Phase.reuse, Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.fixture
def run() -> Iterator[Run]:
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        "fakeredis",
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("valkey", marks=pytest.mark.redis),
        pytest.param("cluster", marks=pytest.mark.redis),
    ],
)
def test_a_store_answers_as_a_dictionary_would(kind, run, shared_server, shared_cluster):
    async def client() -> Client:
        if kind == "fakeredis":
            return fakeredis.FakeAsyncRedis()
        return connect((shared_cluster() if kind == "cluster" else shared_server(kind)).url)

    connected = run(client())
    try:
        check(run, lambda: Backend(connected, shebang=kind != "fakeredis"), examples=40)
    finally:
        run(close(connected))
