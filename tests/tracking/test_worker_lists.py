"""Lists of workers in the store: what is told at one replica is read at all."""

from __future__ import annotations

from tests.tracking.conftest import Backend
from tracking.keys import PATTERNS, WITHOUT_EXPIRY
from tracking.store import TraceStore
from tracking.worker_lists import change_worker, read_workers
from tracking.workers import Change, StaticList, WorkerChange, WorkerEntry, restoring

URL = "http://10.0.0.1:30000"


class Lists:
    def __init__(self, store: TraceStore, owner: str) -> None:
        self.store = store
        self.owner = owner

    async def beat(self, *static: str, age_seconds: float = 0.0) -> None:
        await self.store.heartbeat(
            self.owner, lease_seconds=3.0, urls=[], age_seconds=age_seconds, static=static
        )

    async def change(self, what: Change, url: str = URL, **fields: bytes) -> None:
        await change_worker(self.store, WorkerChange(url, what, fields))

    async def entries(self) -> dict[str, WorkerEntry]:
        return (await read_workers(self.store, self.owner)).entries

    async def version(self) -> int:
        return (await read_workers(self.store, self.owner)).version


async def test_lists_that_nobody_changed_are_empty(backend: Backend):
    lists = await read_workers(backend.store(), "a/1")
    assert (lists.version, lists.epoch, lists.statics, lists.entries) == (0, b"", [], {})


async def test_a_worker_that_is_added_changed_and_found_healthy_is_so_for_all(backend: Backend):
    a, b = Lists(backend.store(), "a/1"), Lists(backend.store(), "b/1")
    await a.change("add", priority=b"7")
    first = await a.version()
    await b.change("update", cost=b"2.5")
    second = await a.version()
    await a.change("join")
    (entry,) = (await b.entries()).values()
    assert entry.added_us is not None
    assert (entry.deleted_us, entry.joined) == (None, True)
    assert entry.fields == {"priority": b"7", "cost": b"2.5"}
    assert 0 < first < second < await b.version()


async def test_one_that_is_added_again_stays_as_it_is(backend: Backend):
    a = Lists(backend.store(), "a/1")
    await a.change("add", priority=b"7")
    before = (await a.entries(), await a.version())
    await a.change("add", priority=b"1")
    assert (await a.entries(), await a.version()) == before


async def test_a_deletion_leaves_only_its_time_until_the_worker_is_added_again(backend: Backend):
    a = Lists(backend.store(), "a/1")
    await a.change("add", priority=b"7", api_key=b'"secret"')
    added = (await a.entries())[URL].added_us
    await a.change("delete")
    entry = (await a.entries())[URL]
    assert added is not None
    assert entry.deleted_us is not None
    assert entry.deleted_us >= added
    assert (entry.added_us, entry.fields) == (None, {})
    await a.change("update", priority=b"1")
    await a.change("join")
    assert (await a.entries())[URL] == entry
    await a.change("add")
    entry = (await a.entries())[URL]
    assert (entry.deleted_us, entry.joined, entry.fields) == (None, False, {})


async def test_a_worker_that_could_not_be_added_leaves_no_mark_unless_another_found_it_healthy(
    backend: Backend,
):
    a = Lists(backend.store(), "a/1")
    await a.change("add")
    await a.change("retract")
    assert await a.entries() == {}
    await a.change("add")
    await a.change("join")
    await a.change("retract")
    assert (await a.entries())[URL].joined


async def test_replicas_show_what_they_were_started_with_and_when(backend: Backend):
    a, b = Lists(backend.store(), "a/1"), Lists(backend.store(), "b/1")
    await a.beat(URL, "http://two:1", age_seconds=100.0)
    version = await a.version()
    await a.beat(URL, "http://two:1", age_seconds=101.0)
    assert (await a.version(), (await read_workers(a.store, a.owner)).statics) == (version, [])
    await b.beat()
    (static,) = (await read_workers(b.store, b.owner)).statics
    assert isinstance(static, StaticList)
    assert static.urls == [URL, "http://two:1"]
    await b.change("delete")
    deleted = (await b.entries())[URL].deleted_us
    assert deleted is not None
    assert 100_000_000 <= deleted - static.started_us < 160_000_000
    await a.store.leave(a.owner)
    assert (await read_workers(b.store, b.owner)).statics == []


async def test_what_the_store_has_lost_is_put_back_as_it_was(backend: Backend):
    a = Lists(backend.store(), "a/1")
    await a.change("add", priority=b"7")
    await a.change("join")
    await a.change("delete", "http://two:1")
    before = await read_workers(a.store, a.owner)
    for key in await backend.keys():
        await backend.client.delete(backend.key(key))
    assert (await read_workers(a.store, a.owner)).epoch == b""
    await a.change("add", "http://two:1")  # somebody was quicker
    for url, entry in before.entries.items():
        await change_worker(a.store, restoring(url, entry))
    after = await read_workers(a.store, a.owner)
    assert after.entries[URL] == before.entries[URL]
    assert after.entries["http://two:1"].deleted_us is None
    assert after.epoch not in (b"", before.epoch)
    assert after.version > before.version


async def test_only_tombstones_fade_from_the_lists(backend: Backend):
    a = Lists(backend.store(), "a/1")
    await a.change("add")
    await a.change("delete", "http://two:1")
    keys = await backend.keys()
    for name in keys:
        assert any(name == p or (p.endswith(":") and name.startswith(p)) for p in PATTERNS), name
    assert keys["worker:" + URL] == -1
    assert 0 < keys["worker:http://two:1"] <= 30 * 86400
    assert keys["workers-version"] == -1
    assert "workers-version" in WITHOUT_EXPIRY
    await backend.client.delete(backend.key("worker:http://two:1"))  # its time is over
    assert {*await a.entries()} == {URL}
    await a.change("update", priority=b"1")
    assert await backend.client.scard(backend.key("workers")) == 1
