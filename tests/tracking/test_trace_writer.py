"""The writer: what it writes when, and what it keeps when the store does not take it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tracking.traces import live
from tests.waiting import PATIENCE_SECONDS
from tracking.health import StoreHealth
from tracking.lifecycle import LiveTrace
from tracking.record import Record
from tracking.trace import Candidate, Decision, TraceDetail, TraceError
from tracking.view import StoreUnavailable
from tracking.writer import LANES, TraceWriter


class FakeSink:
    """A store that remembers every batch; `down` makes it fail at once, `slow` makes it hang."""

    def __init__(self) -> None:
        self.batches: list[list[Record]] = []
        self.calls = 0
        self.down = False
        self.slow = asyncio.Event()
        self.slow.set()

    async def write(self, records: Sequence[Record]) -> int:
        self.calls += 1
        if self.down:
            raise StoreUnavailable("down")
        await self.slow.wait()
        self.batches.append(list(records))
        return len(records)

    @property
    def records(self) -> list[Record]:
        return [record for batch in self.batches for record in batch]

    @property
    def keys(self) -> list[str]:
        return [record.key for record in self.records]


class Bench:
    """A running writer on a fake store."""

    def __init__(self, buffer_bytes: int = 16 << 20) -> None:
        self.sink = FakeSink()
        self.health = StoreHealth()
        self.health.succeeded("heartbeat")
        self.flushes: list[tuple[float, int]] = []
        self.writer = TraceWriter(
            self.sink,
            self.health,
            owner="a/1",
            now=time.monotonic,
            buffer_bytes=buffer_bytes,
            on_flush=lambda seconds, count: self.flushes.append((seconds, count)),
        )
        self.task: asyncio.Task[None] | None = None

    def run(self) -> None:
        self.task = asyncio.create_task(self.writer.run())

    async def end(self) -> None:
        if self.task is not None:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task

    async def until(self, condition) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not condition():
                await asyncio.sleep(0.005)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    one = Bench()
    one.run()
    yield one
    await one.end()


def receipt(node: str) -> Decision:
    candidates = [Candidate(node, "http://localhost:30005", True, {"load": 1.0})]
    return Decision("cache_aware", "cached", "exact", 1, candidates, 0.01, 0.001)


def finish(one: LiveTrace) -> LiveTrace:
    one.move("routed")
    one.move("processing")
    one.move("completed")
    return one


async def test_a_short_request_is_written_once_when_it_is_over(bench):
    one = live("k", status="queued")
    bench.writer.put(one)
    finish(one)
    bench.writer.put(one)
    await bench.until(lambda: bench.sink.batches)
    assert [(r.key, r.status) for r in bench.sink.records] == [("k", "completed")]
    assert bench.writer.stats().buffered == 0
    assert bench.flushes[0][1] == 1


async def test_what_runs_is_written_after_one_whole_wait_and_what_has_ended_before(bench):
    bench.writer.put(live("first"))
    await asyncio.sleep(0)  # the wait has begun
    bench.writer.put(live("running", status="processing"))
    bench.writer.put(live("ended"))
    await bench.until(lambda: len(bench.sink.records) == 3)
    assert [[r.key for r in batch] for batch in bench.sink.batches] == [
        ["first", "ended"], ["running"],
    ]  # fmt: skip


async def test_as_many_short_requests_as_a_batch_holds_are_each_written_once(bench):
    bench.writer.put(live("first"))
    await asyncio.sleep(0)
    many = [live(f"k{i}", status="queued") for i in range(64)]
    for one in many:
        bench.writer.put(one)
    await asyncio.sleep(0)
    for one in many:
        bench.writer.put(finish(one))
    await bench.until(lambda: len(bench.sink.records) >= 65)
    assert sorted(bench.sink.keys) == sorted(["first", *(one.key for one in many)])


async def test_batches_are_bounded_and_keep_the_order(bench):
    for i in range(250):
        bench.writer.put(live(f"k{i:03}"))
    await bench.until(lambda: len(bench.sink.records) == 250)
    assert [len(batch) for batch in bench.sink.batches] == [64, 64, 64, 58]
    assert bench.sink.keys == [f"k{i:03}" for i in range(250)]


async def test_large_records_make_smaller_batches(bench):
    for i in range(90):
        one = live(f"k{i}")
        one.prefix_hashes = ["0" * 16] * 1600  # nearly the largest there may be
        bench.writer.put(one)
    await bench.until(lambda: len(bench.sink.records) == 90)
    assert max(map(len, bench.sink.batches)) < 11


async def test_a_change_without_a_move_is_still_newer_for_the_store(bench):
    one = live("k", status="processing")
    bench.writer.put(one)
    await bench.until(lambda: len(bench.sink.records) == 1)
    one.ttft_seconds = 0.5
    bench.writer.put(one)
    await bench.until(lambda: len(bench.sink.records) == 2)
    first, second = bench.sink.records
    assert second.revision > first.revision


async def test_flush_returns_when_what_was_put_before_is_committed(bench):
    assert await bench.writer.flush(0.0)
    for i in range(150):
        bench.writer.put(live(f"k{i}"))
    assert await bench.writer.flush(PATIENCE_SECONDS)
    assert len(bench.sink.records) == 150


async def test_flush_also_waits_for_what_is_under_way(bench):
    bench.sink.slow.clear()
    bench.writer.put(live("k"))
    await bench.until(lambda: bench.sink.calls)
    waiting = asyncio.create_task(bench.writer.flush(PATIENCE_SECONDS))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    bench.sink.slow.set()
    assert await waiting


async def test_flush_gives_up_in_time_when_the_store_hangs(bench):
    bench.sink.slow.clear()
    bench.writer.put(live("k"))
    assert not await bench.writer.flush(0.05)
    bench.sink.slow.set()
    assert await bench.writer.flush(PATIENCE_SECONDS)


async def test_flush_fails_at_once_when_the_store_fails(bench):
    bench.sink.down = True
    bench.writer.put(live("k"))
    assert not await bench.writer.flush(PATIENCE_SECONDS)
    assert not await bench.writer.flush(PATIENCE_SECONDS)


async def test_a_store_that_fails_at_once_does_not_stop_the_loop_and_loses_nothing(bench, caplog):
    caplog.set_level(logging.INFO, "tracking")
    bench.sink.down = True
    running = live("open", status="processing")
    bench.writer.put(running)
    for i in range(120):
        bench.writer.put(live(f"k{i:03}"))
    await bench.until(lambda: bench.sink.calls >= 3)
    assert not bench.health.up
    assert bench.writer.stats().buffered == 121
    bench.sink.down = False
    await bench.until(lambda: bench.writer.stats().buffered == 0)
    assert sorted(bench.sink.keys) == sorted(["open", *(f"k{i:03}" for i in range(120))])
    messages = [r.message for r in caplog.records if r.name == "tracking.store"]
    assert [m.split(" (")[0] for m in messages] == [
        "trace store: unreachable", "trace store: reachable again",
    ]  # fmt: skip


async def test_a_long_outage_is_filled_in_order_and_new_changes_do_not_wait_for_it(bench):
    bench.sink.down = True
    for i in range(1000):
        bench.writer.put(live(f"old{i:04}"))
    await bench.until(lambda: bench.writer.stats().buffered_bytes > 0 and not bench.health.up)
    await bench.until(lambda: bench.sink.calls >= 2)
    await asyncio.sleep(0.05)  # it pauses before the next try; what it had is in the backlog
    bench.sink.down = False
    bench.writer.put(live("new"))
    await bench.until(lambda: bench.writer.stats().buffered == 0)
    keys = bench.sink.keys
    assert keys.index("new") <= 100
    keys.remove("new")
    assert keys == [f"old{i:04}" for i in range(1000)]


async def test_beyond_the_bound_the_oldest_finished_traces_are_dropped_and_counted():
    bench = Bench(buffer_bytes=20_000)
    bench.run()
    bench.sink.down = True
    running = live("open", status="processing")
    bench.writer.put(running)
    for i in range(100):
        bench.writer.put(live(f"k{i:03}"))
    await bench.until(lambda: bench.writer.stats().dropped_total and bench.sink.calls >= 4)
    stats = bench.writer.stats()
    assert stats.buffered_bytes <= 20_000
    bench.sink.down = False
    await bench.until(lambda: bench.writer.stats().buffered == 0)
    kept = 100 - stats.dropped_total
    assert sorted(bench.sink.keys) == sorted(
        ["open", *(f"k{i:03}" for i in range(100 - kept, 100))]
    )
    await bench.end()


async def test_another_server_gets_running_requests_and_the_last_seconds_again(bench):
    running = live("open", status="processing")
    bench.writer.put(running)
    bench.writer.put(live("done"))
    assert await bench.writer.flush(PATIENCE_SECONDS)
    bench.sink.batches.clear()
    bench.writer.send_again()
    await bench.until(lambda: len(bench.sink.records) == 2)
    assert sorted(bench.sink.keys) == ["done", "open"]


async def test_commits_are_kept_until_ten_seconds_later_the_server_is_the_same(bench):
    bench.writer.put(live("done"))
    assert await bench.writer.flush(PATIENCE_SECONDS)
    committed = time.monotonic()
    bench.sink.batches.clear()
    bench.writer.settle(committed + 9)  # however long nothing was heard after it
    bench.writer.send_again()
    await bench.until(lambda: bench.sink.keys == ["done"])
    bench.sink.batches.clear()
    bench.writer.settle(time.monotonic() + 11)
    bench.writer.send_again()
    bench.writer.put(live("next"))
    assert await bench.writer.flush(PATIENCE_SECONDS)
    assert bench.sink.keys == ["next"]


async def test_a_slow_store_gets_several_calls_at_once_and_every_flush_waits_for_its_own(bench):
    bench.sink.slow.clear()
    for i in range(250):
        bench.writer.put(live(f"k{i}"))
    await bench.until(lambda: bench.sink.calls == 4)
    waiting = asyncio.create_task(bench.writer.flush(PATIENCE_SECONDS))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    assert bench.writer.stats().buffered == 250
    bench.sink.slow.set()
    assert await waiting
    assert len(bench.sink.records) == 250


async def test_a_store_slower_than_the_load_fills_the_bounded_buffer_and_no_more():
    bench = Bench(buffer_bytes=100_000)
    bench.sink.slow.clear()
    bench.run()
    for i in range(4000):
        bench.writer.put(live(f"k{i}"))
    await bench.until(lambda: bench.writer.stats().dropped_total)
    assert bench.sink.calls <= LANES + 1  # the lanes, and one that fills in
    assert bench.writer.stats().buffered_bytes <= 100_000
    bench.sink.slow.set()
    await bench.until(lambda: bench.writer.stats().buffered == 0)
    stats = bench.writer.stats()
    assert stats.dropped_total > 0
    assert stats.flushed_total + stats.dropped_total == 4000
    await bench.end()


async def test_a_lapsed_lease_writes_running_requests_again_and_nothing_else(bench):
    bench.writer.put(live("open", status="processing"))
    bench.writer.put(live("done"))
    await bench.writer.flush(PATIENCE_SECONDS)
    bench.sink.batches.clear()
    bench.writer.rewrite_open()
    await bench.writer.flush(PATIENCE_SECONDS)
    assert bench.sink.keys == ["open"]


async def test_cancelling_in_the_middle_of_a_write_loses_nothing(bench):
    bench.sink.slow.clear()
    bench.writer.put(live("open", status="processing"))
    bench.writer.put(live("done"))
    await bench.until(lambda: bench.sink.calls)
    await bench.end()
    assert bench.writer.stats().buffered == 2
    bench.sink.slow.set()
    bench.run()
    await bench.until(lambda: len(bench.sink.records) == 2)


async def test_close_writes_what_is_left(bench):
    for i in range(120):
        bench.writer.put(live(f"k{i}"))
    assert await bench.writer.close(5) == 0
    assert len(bench.sink.records) == 120


async def test_close_ends_at_its_deadline_and_says_what_is_lost(bench, caplog):
    bench.sink.down = True
    bench.writer.put(live("k"))
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await bench.writer.close(0.1) == 1
    assert "1 traces could not be stored" in caplog.text


async def test_a_trace_that_cannot_be_encoded_costs_only_itself(bench, caplog):
    broken = live("broken")
    broken.label = object()  # type: ignore[assignment]
    bench.writer.put(broken)
    bench.writer.put(live("fine"))
    await bench.writer.flush(PATIENCE_SECONDS)
    assert bench.sink.keys == ["fine"]
    assert bench.writer.stats().dropped_total == 1
    assert "'broken' cannot be encoded" in caplog.text


async def test_what_is_not_committed_is_known_here_by_every_id(bench):
    bench.sink.down = True
    bench.writer.put(live("k1", request_id="mine", engine="e1"))
    bench.writer.put(live("k2", request_id="running", status="processing"))
    await bench.until(lambda: bench.sink.calls >= 2)
    for one_id, key in (
        ("mine", "k1"),
        ("k1", "k1"),
        ("e1", "k1"),
        ("running", "k2"),
        ("k2", "k2"),
    ):
        (known,) = bench.writer.known([one_id])
        assert known is not None, one_id
        assert msgspec.json.decode(known.whole())["key"] == key
    assert bench.writer.known(["nobody"]) == [None]
    assert {r.key for r in bench.writer.all_known(100)} == {"k1", "k2"}


async def test_what_was_committed_lately_is_known_here_by_every_id(bench):
    bench.writer.put(live("k1", request_id="mine", engine="e1"))
    bench.writer.put(live("k2", request_id="mine"))
    assert await bench.writer.flush(PATIENCE_SECONDS)
    ids = {"mine": "k2", "k1": "k1", "e1": "k1"}
    known = bench.writer.known([*ids, "nobody"])
    assert [one and one.key for one in known] == [*ids.values(), None]
    bench.writer.forget(lambda record: record.key == "k2")
    assert bench.writer.known(["k2"]) == [None]


async def test_every_version_of_a_trace_shows_the_receipt_of_its_last_choice(bench):
    one = live("k", status="routed")
    for node in ("worker-0", "worker-1"):
        one.decision = receipt(node)
        for revision in (1, 2):  # encoded once, written twice
            one.attempts[0].duration_seconds = float(revision)
            bench.writer.put(one)
            assert await bench.writer.flush(1)
            shown = msgspec.json.decode(bench.sink.records[-1].detail, type=TraceDetail)
            assert shown == one.detail()


async def test_words_of_a_worker_that_are_not_utf8_leave_the_receipt_as_it_is(bench):
    one = live("k", status="failed")
    one.decision = receipt("worker-0")
    one.attempts[0].error = TraceError("\udce9", "connect")
    bench.writer.put(one)
    assert await bench.writer.flush(1)
    (written,) = bench.sink.records
    shown = msgspec.json.decode(written.detail, type=TraceDetail)
    assert shown.decision == one.decision
    assert shown.attempts[0].error == TraceError("?", "connect")


async def test_provisional_names_never_reach_the_store():
    bench = Bench()
    bench.writer.hold()
    bench.run()
    running = live("open", status="processing", node="worker-0@1")
    running.decision = receipt("worker-0@1")
    bench.writer.put(running)
    assert bench.writer.known(["open"]) != [None]  # encoded already, to be shown here
    bench.writer.put(live("done", node="worker-1"))
    await bench.until(lambda: bench.writer.stats().buffered_bytes > 0)
    assert bench.sink.calls == 0
    names = {"worker-0@1": "worker-1@1", "worker-1@1": "worker-0@1", "worker-1": "worker-0"}
    bench.writer.release(lambda name: names.get(name, name))
    await bench.until(lambda: len(bench.sink.records) == 2)
    rows = {r.key: msgspec.json.decode(r.whole()) for r in bench.sink.records}
    assert (rows["open"]["node_id"], rows["done"]["node_id"]) == ("worker-1@1", "worker-0")
    assert rows["open"]["decision"]["candidates"][0]["node_id"] == "worker-1@1"
    assert rows["done"]["attempts"][0]["node_id"] == "worker-0"
    assert {r.key: r.node_id for r in bench.sink.records} == {
        "open": "worker-1@1",
        "done": "worker-0",
    }
    await bench.end()


async def test_names_of_another_length_leave_the_buffer_counted_right():
    bench = Bench()
    bench.writer.hold()
    bench.run()
    bench.writer.put(live("done", node="worker-1"))
    await bench.until(lambda: bench.writer.stats().buffered_bytes > 0)
    bench.writer.release(lambda name: f"{name}-under-a-longer-name")
    await bench.until(lambda: bench.writer.stats().buffered == 0)
    assert bench.writer.stats().buffered_bytes == 0
    await bench.end()


@settings(max_examples=40)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("step"), st.integers(0, 7)),
            st.tuples(st.sampled_from(["down", "up", "yield", "again"]), st.just(0)),
        ),
        max_size=60,
    )
)
def test_every_trace_reaches_the_store_in_its_last_state_whatever_happens(steps):
    """Puts, outages and repeats in any order: nothing is lost, nothing older comes last."""

    async def story() -> None:
        bench = Bench()
        bench.run()
        path = ("routed", "processing", "completed")
        traces: dict[int, LiveTrace] = {}
        for what, number in steps:
            match what:
                case "step":
                    if number not in traces:
                        traces[number] = live(f"k{number}", status="queued")
                    elif not traces[number].terminal:
                        status = traces[number].status
                        traces[number].move(path[("queued", *path).index(status)])  # type: ignore[arg-type]
                    bench.writer.put(traces[number])
                case "down":
                    bench.sink.down = True
                case "up":
                    bench.sink.down = False
                case "again":
                    bench.writer.send_again()
                case "yield":
                    await asyncio.sleep(0.012)
        bench.sink.down = False
        await bench.until(lambda: bench.writer.stats().buffered == 0)
        newest: dict[str, Record] = {}
        for record in bench.sink.records:
            held = newest.get(record.key)
            if held is None or record.revision > held.revision:
                newest[record.key] = record
        assert {k: r.status for k, r in newest.items()} == {
            f"k{n}": one.status for n, one in traces.items()
        }
        await bench.end()

    asyncio.run(story())


async def test_a_trace_that_has_ended_is_never_told_as_it_was_before(bench):
    """Its end failed at once, and the call with what was before still waits for the store."""
    bench.sink.slow.clear()
    one = live("k", status="routed")
    bench.writer.put(one)
    await bench.until(lambda: bench.sink.calls == 1)
    bench.sink.down = True
    one.move("processing")
    one.move("completed")
    bench.writer.put(one)
    await bench.until(lambda: not bench.health.up)
    (known,) = bench.writer.known(["k"])
    told = [known, *bench.writer.all_known(100)]
    assert [msgspec.json.decode(each.whole())["status"] for each in told] == ["completed"] * 2
