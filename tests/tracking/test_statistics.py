"""Sums of finished requests: what a window shows, exactly once, whoever sums up."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from time import process_time
from typing import Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tracking.traces import live, now_us, record
from tracking.finished import Finished, write_lines
from tracking.histogram import bucket
from tracking.lifecycle import LiveTrace
from tracking.record import Record
from tracking.sums import ALL, KINDS, MAX_NAMES, Kind, Place, Sums, grown, sum_up, window
from tracking.tallies import Tallies, Window
from tracking.trace import Decision, DecisionQuality, Status

NOON_US = 1_767_268_800_000_000


def finished(key: str, *, owner: str = "a/1", revision: int = 1, **fields: object) -> Record:
    """The record of a streamed request that took 2 s and had its first of 11 tokens after 1 s."""
    one = live(key, revision=revision)
    told = {
        "stream": True, "queue_seconds": 0.001, "ttft_seconds": 1.0, "duration_seconds": 2.0,
        "input_tokens": 100, "output_tokens": 11, "cached_tokens": 40, "cache_hit_rate": 0.4,
    } | fields  # fmt: skip
    for name, value in told.items():
        assert hasattr(one, name)
        setattr(one, name, value)
    return Record(one, owner)


async def last_hour(store) -> Window:
    return await store.tallies.window(3600, KINDS)


def requests(sums: dict[str, Sums]) -> dict[str, int]:
    return {name: one.requests for name, one in sums.items()}


def ended(
    arrived_us: int = NOON_US,
    node: str = "n",
    model: str = "m",
    policy: str = "p",
    route: str = "r",
    status: Status = "completed",
    quality: DecisionQuality | None = None,
    regret_tokens: int | None = None,
    **figures: float | None,
) -> LiveTrace:
    """The trace of a request that is over; figures that are left out nobody knows."""
    one = live(at_us=arrived_us, node=node, model=model, policy=policy, route=route, status=status)
    if quality is not None:
        one.decision = Decision(policy, "because", quality, 1, [], 0.0, 0.0, regret_tokens)
    for name, value in figures.items():
        assert hasattr(one, name)
        setattr(one, name, value)
    return one


def elements(batches: Iterable[Sequence[LiveTrace]]) -> list[bytes]:
    """As they are in the log."""
    return [write_lines(map(finished_of, batch))[:-1] for batch in batches]


def finished_of(one: LiveTrace) -> Finished:
    finished = Record(one, "a/1").finished
    assert finished is not None
    return finished


async def nobody_waits() -> None: ...


counts = st.none() | st.integers(0, 1000)
seconds = st.none() | st.floats(0, 1e4)
ended_requests = st.builds(
    ended,
    arrived_us=st.integers(-70, 70).map(lambda minutes: NOON_US + 59_000_000 * minutes),
    node=st.sampled_from(["w0", "w1", ""]),
    model=st.sampled_from(["m", "m\tn", ""]),
    policy=st.just("random"),
    route=st.sampled_from(["/generate", "/v1/completions"]),
    status=st.sampled_from(["completed", "failed"]),
    quality=st.sampled_from([None, "exact", "missed"]),
    regret_tokens=counts,
    queue_seconds=seconds,
    ttft_seconds=seconds,
    duration_seconds=seconds,
    input_tokens=counts,
    output_tokens=counts,
    cached_tokens=counts,
    cache_hit_rate=st.none() | st.integers(0, 10_000).map(lambda share: share / 10_000),
    predicted_cached_tokens=counts,
)


def one_by_one(requests: Iterable[LiveTrace]) -> dict[Place, dict[str, Sums]]:
    found: dict[Place, dict[str, Sums]] = {}
    for one in requests:
        names: list[tuple[Kind | Literal["all"], str]] = [
            (ALL, ALL), ("node", one.node_id), ("model", one.model or ""),
            ("policy", one.routing_policy), ("route", one.route or ""),
        ]  # fmt: skip
        for kind, name in names:
            for place in (
                Place("minute", one.arrived_us // 60_000_000, kind),
                Place("hour", one.arrived_us // 3_600_000_000, kind),
            ):
                if name:
                    shown = name.replace("\t", " ")
                    one_more(found.setdefault(place, {}).setdefault(shown, Sums()), one)
    return found


def one_more(sums: Sums, one: LiveTrace) -> None:
    """What the sums with one more request are."""
    tokens, duration, first = one.output_tokens or 0, one.duration_seconds, one.ttft_seconds
    cached, predicted = one.cached_tokens, one.predicted_cached_tokens
    sums.statuses = Counter(sums.statuses) + Counter([one.status])
    if one.decision is not None:
        sums.qualities = Counter(sums.qualities) + Counter([one.decision.quality])
        sums.regret_tokens += one.decision.regret_tokens or 0
    sums.input_tokens += one.input_tokens or 0
    sums.output_tokens += tokens
    sums.cached_tokens += cached or 0
    if cached is not None and predicted is not None:
        sums.predicted_tokens += predicted
        sums.prediction_error_tokens += abs(predicted - cached)
    sums.hit_rates = round(sums.hit_rates + (one.cache_hit_rate or 0), 4)
    sums.hit_rates_known += one.cache_hit_rate is not None
    observed = {"queue_seconds": one.queue_seconds, "duration_seconds": duration}
    if duration and tokens:
        observed["tokens_per_second"] = tokens / duration
    if duration is not None and first is not None:
        observed["ttft_seconds"] = first
        if tokens > 1:
            observed["inter_token_seconds"] = max(0, duration - first) / (tokens - 1)
    for name, value in observed.items():
        if value is not None:
            setattr(sums, name, Counter(getattr(sums, name)) + Counter([bucket(value)]))


# --- the sums themselves ---------------------------------------------------------------------------


def counted(requests: Sequence[LiveTrace]) -> Sums:
    """Over everything, in the one minute that they are of."""
    summed = asyncio.run(sum_up(elements([requests]), nobody_waits))
    return summed[Place("minute", NOON_US // 60_000_000, ALL)][ALL]


def test_a_summary_tells_counts_rates_and_distributions():
    outcomes: list[tuple[Status, float]] = [
        ("completed", 2.0), ("completed", 4.0), ("failed", 30.0),
    ]  # fmt: skip
    some = [
        ended(status=status, queue_seconds=0.5, ttft_seconds=1.0, duration_seconds=duration,
              input_tokens=100, output_tokens=11, cached_tokens=50, cache_hit_rate=0.5,
              predicted_cached_tokens=70, quality="exact", regret_tokens=10)
        for status, duration in outcomes
    ]  # fmt: skip
    sums = counted([*some, ended(status="cancelled")])
    shown = sums.summary(60)
    near = pytest.approx
    assert shown == {
        "requests": 4,
        "requests_per_status": {"completed": 2, "failed": 1, "cancelled": 1},
        "error_rate": 0.25,
        "input_tokens": 300,
        "output_tokens": 33,
        "cached_tokens": 150,
        "decisions_per_quality": {"exact": 3},
        "predicted_cached_tokens": 210,
        "prediction_error_tokens": 60,
        "regret_tokens": 30,
        "output_tokens_per_second": 0.55,
        "cache_hit_rate": 0.5,
        "queue_seconds": near({"count": 3, "p50": 0.5, "p90": 0.5, "p95": 0.5, "p99": 0.5}, 0.05),
        "ttft_seconds": near({"count": 3, "p50": 1, "p90": 1, "p95": 1, "p99": 1}, 0.05),
        "inter_token_seconds": near(
            {"count": 3, "p50": 0.3, "p90": 2.9, "p95": 2.9, "p99": 2.9}, 0.05
        ),
        "duration_seconds": near({"count": 3, "p50": 4, "p90": 30, "p95": 30, "p99": 30}, 0.05),
        "tokens_per_second": near(
            {"count": 3, "p50": 2.75, "p90": 5.5, "p95": 5.5, "p99": 5.5}, 0.05
        ),
    }


def test_a_step_of_a_series_tells_what_is_drawn_and_leaves_out_what_nobody_knows():
    assert Sums().brief() == {"requests_per_status": {}}
    sums = counted([ended(ttft_seconds=1.0, duration_seconds=2.0, cache_hit_rate=0.5)])
    near = pytest.approx
    assert sums.brief() == {
        "requests_per_status": {"completed": 1},
        "cache_hit_rate": 0.5,
        "ttft_seconds": near({"p50": 1, "p95": 1}, 0.05),
        "duration_seconds": near({"p50": 2, "p95": 2}, 0.05),
    }


def test_of_nothing_a_summary_invents_nothing():
    shown = Sums().summary(60)
    assert shown["requests"] == 0
    unknown = {name for name, value in shown.items() if value is None}
    assert unknown == {
        "error_rate", "cache_hit_rate", "queue_seconds", "ttft_seconds", "inter_token_seconds",
        "duration_seconds", "tokens_per_second",
    }  # fmt: skip


def test_an_answer_that_is_no_stream_has_no_first_token_and_no_gaps_between_tokens():
    sums = counted([ended(duration_seconds=2.0, output_tokens=10)])
    assert (sums.ttft_seconds, sums.inter_token_seconds) == ({}, {})
    assert sum(sums.tokens_per_second.values()) == 1


async def test_a_request_is_summed_up_in_its_minute_and_hour_over_all_and_under_its_names():
    one = ended(NOON_US + 61_000_000, "worker-0", "", "random", "/generate")
    sums = await sum_up(elements([[one, one]]), nobody_waits)
    minute, hour = NOON_US // 60_000_000 + 1, NOON_US // 3_600_000_000
    names: dict[Kind | Literal["all"], str] = {
        "all": ALL, "node": "worker-0", "policy": "random", "route": "/generate",
    }  # fmt: skip
    assert {str(place): requests(names) for place, names in sums.items()} == {
        str(place): {name: 2}
        for kind, name in names.items()
        for place in (Place("minute", minute, kind), Place("hour", hour, kind))
    }


@given(st.lists(st.lists(ended_requests, min_size=1, max_size=4), max_size=8))
def test_sums_are_what_adding_up_request_by_request_gives(batches):
    summed = asyncio.run(sum_up(elements(batches), nobody_waits))
    assert summed == one_by_one(one for batch in batches for one in batch)


async def test_others_have_their_turn_while_much_is_summed_up():
    batch = [ended(node=f"n{n}", queue_seconds=0.1) for n in range(100)]
    taken, turns = False, 0

    async def call(_script: str, mode: str, *_arguments: object) -> object:
        nonlocal taken
        if mode == "take":
            log, taken = [] if taken else elements([batch] * 60), True
            return [b"1", b"0", *log]
        return [[]] * 10 if mode == "read" else 1

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(others())
    began = process_time()
    await Tallies(call).sum_up()
    seconds = process_time() - began
    task.cancel()
    assert turns >= seconds / 0.005


async def test_sums_come_back_from_bytes_as_they_went():
    one = finished("k").finished
    assert one is not None
    sums = await sum_up([write_lines([one])[:-1]], nobody_waits)
    for names in sums.values():
        for under_name in names.values():
            assert msgspec.json.decode(msgspec.json.encode(under_name), type=Sums) == under_name


def test_names_beyond_the_most_are_counted_as_other_and_known_ones_go_on():
    stored: dict[str, Sums] = {}
    for batch in range(3):
        more = {f"m{batch}-{i}": Sums({"completed": 1}) for i in range(30)}
        more["m0-0"] = Sums({"completed": 1})
        stored |= grown(stored, more)
    assert len(stored) == MAX_NAMES + 1
    assert stored["m0-0"].requests == 3
    assert stored["other"].requests == 92 - 66
    assert sum(requests(stored).values()) == 92


def test_a_short_window_begins_at_a_whole_minute_and_a_long_one_at_a_whole_hour():
    since, places = window(NOON_US + 30_000_000, 90, ["node"])
    assert since == NOON_US - 60_000_000
    minute = NOON_US // 60_000_000
    assert places == [Place("minute", n, k) for n in (minute - 1, minute) for k in (ALL, "node")]
    since, places = window(NOON_US + 30_000_000, 3 * 3600, [])
    hour = NOON_US // 3_600_000_000
    assert since == NOON_US - 3 * 3_600_000_000
    assert places == [Place("hour", n, ALL) for n in range(hour - 3, hour + 1)]


# --- in the store ----------------------------------------------------------------------------------


async def test_a_window_shows_what_finished_over_all_and_by_every_name(backend):
    store = backend.store()
    await store.write([finished("k1"), finished("k2", node_id="worker-1", status="failed")])
    await store.write([record("open", status="processing")])
    found = await last_hour(store)
    assert found.total.statuses == {"completed": 1, "failed": 1}
    assert {kind: requests(names) for kind, names in found.by.items()} == {
        "node": {"worker-0": 1, "worker-1": 1},
        "model": {"m": 2},
        "policy": {"cache_aware": 2},
        "route": {"/generate": 2},
    }
    assert (found.total.input_tokens, found.total.hit_rates_known) == (200, 2)
    assert found.since_us % 60_000_000 == 0
    assert found.until_us - found.since_us >= 3600 * 1_000_000


async def test_a_series_has_every_minute_of_the_window_also_those_without_requests(backend):
    store = backend.store()
    earlier = live("earlier", age_seconds=300)
    await store.write([Record(earlier, "a/1"), finished("now"), finished("now too")])
    found = await store.tallies.window(600, ["node"], stepwise=True)
    steps = found.steps
    assert steps is not None
    assert list(steps) == list(range(found.since_us, found.until_us + 1, 60_000_000))
    counts = [step.total.requests for step in steps.values() if step.total.requests]
    assert counts == [1, 2] or counts == [1, 1, 1]  # the minute may have turned
    by_node = [requests(step.by["node"]) for step in steps.values()]
    assert sum(names.get("worker-0", 0) for names in by_node) == found.total.requests == 3
    assert (await store.tallies.window(600, [])).steps is None


async def test_only_the_names_asked_for_are_read(backend):
    store = backend.store()
    await store.write([finished("k1")])
    assert (await store.tallies.window(60, ["model"])).by.keys() == {"model"}
    assert (await store.tallies.window(60, [])).by == {}


async def test_a_request_is_counted_when_it_ends_and_only_once(backend):
    store = backend.store()
    await store.write([record("k", status="processing", revision=1)])
    assert (await last_hour(store)).total.requests == 0
    await store.write([finished("k", revision=2)])
    await store.write([finished("k", revision=2)])  # a repeat after a broken connection
    await last_hour(store)
    await store.write([finished("k", revision=2)])
    assert (await last_hour(store)).total.requests == 1


async def test_of_a_batch_with_repeats_only_what_is_new_is_counted_by_its_own_facts(backend):
    store = backend.store()
    repeat = finished("repeat", input_tokens=1)
    await store.write([repeat])
    running = record("running", status="processing")
    batch = [finished("a", input_tokens=10), repeat, running, finished("b", input_tokens=100)]
    assert await store.write(batch) == 3
    found = await last_hour(store)
    assert (found.total.requests, found.total.input_tokens) == (3, 111)
    assert (await store.stats()).per_route == {"/generate": 3}


async def test_a_lost_request_that_comes_back_is_counted_once_by_its_own_outcome(backend):
    store = backend.store()
    await store.write([record("k", owner="p/1", status="processing", revision=3)])
    assert await store.sweep() == (1, False)
    assert (await last_hour(store)).total.requests == 0
    await store.write([finished("k", owner="p/1", revision=4, status="failed")])
    await store.write([finished("k", owner="p/1", revision=4, status="failed")])
    assert (await last_hour(store)).total.statuses == {"failed": 1}


async def test_many_routers_that_sum_up_at_once_count_everything_once(backend):
    store = backend.store()
    others = [backend.store() for _ in range(4)]
    for batch in range(12):
        await store.write([finished(f"k{batch}-{i}", node_id=f"w{i % 3}") for i in range(25)])
        await asyncio.gather(*(other.tallies.sum_up() for other in others))
    found = await last_hour(others[0])
    assert found.total.requests == 300
    assert requests(found.by["node"]) == {"w0": 108, "w1": 96, "w2": 96}
    assert sum(found.total.duration_seconds.values()) == 300


async def test_a_backlog_longer_than_one_step_is_summed_up_whole(backend):
    store = backend.store()
    for i in range(45):
        await store.write([finished(f"k{i}")])
    assert (await last_hour(store)).total.requests == 45
    assert "ended" not in await backend.keys()


async def test_windows_see_arrivals_within_them(backend):
    store = backend.store()
    now = now_us()
    old = live("old", age_seconds=3 * 3600)
    await store.write([Record(old, "a/1"), finished("new")])
    assert (await store.tallies.window(60, [])).total.requests == 1
    assert (await store.tallies.window(2 * 3600, [])).total.requests == 1
    assert (await store.tallies.window(4 * 3600, [])).total.requests == 2
    assert now - (await store.tallies.window(4 * 3600, [])).since_us < 5 * 3600 * 1_000_000


async def test_deleting_all_forgets_the_sums_also_those_under_way(backend):
    store = backend.store()
    await store.write([finished("k1")])
    await last_hour(store)
    await store.write([finished("k2")])
    await store.delete_all()
    assert (await last_hour(store)).total.requests == 0
    await store.write([finished("k3")])
    assert (await last_hour(store)).total.requests == 1


async def test_names_with_separators_or_endless_ones_are_summed_up_too(backend):
    store = backend.store()
    for key in ("k1", "k2"):
        await store.write([finished(key, model="a\tb\nc", node_id="ü" * 300)])
        await last_hour(store)
    found = await last_hour(store)
    assert requests(found.by["model"]) == {"a b c": 2}
    assert requests(found.by["node"]) == {"ü" * 100: 2}


async def test_the_keys_of_sums_expire(backend):
    store = backend.store(ttl_seconds=3600)
    await store.write([finished("k")])
    assert (await backend.keys())["ended"] > 0
    await last_hour(store)
    sums = {name: ttl for name, ttl in (await backend.keys()).items() if name.count(":") == 3}
    assert {name.rsplit(":", 1)[1] for name in sums} == {"all", *KINDS}
    assert all(0 < ttl <= 7320 for ttl in sums.values())
