"""What the store promises, on every server it runs on."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from tests.tracking.traces import live, now_us, record
from tracking.keys import PATTERNS, WITHOUT_EXPIRY
from tracking.query import TraceQuery
from tracking.record import Record
from tracking.store import NodeNameTaken, SchemaMismatch, TraceStore
from tracking.trace import Decision


async def keys_of(store: TraceStore, **query) -> list[str]:
    page = await store.page(TraceQuery(**query))
    return [msgspec.json.decode(row)["key"] for row in page.rows]


async def whole(store, one_id):
    (found,) = await store.get([one_id])
    return None if found is None else msgspec.json.decode(found.body)


async def beat(store: TraceStore, owner: str, lease: float = 60.0, urls=(), schema: int = 1):
    return await store.heartbeat(owner, lease_seconds=lease, urls=list(urls), schema=schema)


# --- records and ids ---------------------------------------------------------------------------


async def test_a_record_is_found_by_request_id_key_and_engine_id(backend):
    store = backend.store()
    await store.write([record("k1", request_id="mine", engine="chatcmpl-7")])
    for one_id in ("mine", "k1", "chatcmpl-7"):
        found = await whole(store, one_id)
        assert found is not None
        assert found["key"] == "k1"
        assert found["attempts"][0]["node_id"] == "worker-0"


@pytest.mark.parametrize("prefix", ["chatcmpl-", "cmpl-"])
async def test_ids_that_an_engine_makes_of_ours_need_no_index_and_are_found(backend, prefix):
    store = backend.store()
    await store.write(
        [
            record("k1", engine=f"{prefix}k1"),
            record("k2", request_id="mine", engine=f"{prefix}mine", age_seconds=9),
            record("k3", request_id="mine", engine=f"{prefix}other", age_seconds=5),
            record("k4", request_id="mine", status="failed"),
            record("k5", request_id='say "5"', engine=f'{prefix}say "5"'),
        ]
    )
    for one_id, key in ((f"{prefix}k1", "k1"), (f"{prefix}mine", "k2"), (f"{prefix}other", "k3"),
                        (f'{prefix}say "5"', "k5")):  # fmt: skip
        assert (await whole(store, one_id))["key"] == key
    assert await whole(store, f"{prefix}k4") is None  # no engine has said so
    indexes = [name for name in await backend.keys() if name.startswith("engine:")]
    assert sorted(indexes) == sorted([f"engine:{prefix}other", f'engine:{prefix}say "5"'])
    for one_id in (f"{prefix}k1", f"{prefix}mine", f"{prefix}other"):
        assert await store.delete(one_id) == 1
        assert await whole(store, one_id) is None
    assert sorted(await keys_of(store)) == ["k4", "k5"]


async def test_an_id_that_only_resembles_those_an_engine_makes_of_ours_is_found(backend):
    store = backend.store()
    made = ("chatk1", "chat-cmpl-k2", "chatcmpl-chatcmpl-k3")
    await store.write([record(f"k{n}", engine=one_id) for n, one_id in enumerate(made, start=1)])
    for number, one_id in enumerate(made, start=1):
        assert (await whole(store, one_id))["key"] == f"k{number}"


async def test_an_engine_id_of_ours_is_held_as_long_as_its_record(backend):
    store = backend.store(max_entries=1)
    await store.write([record("k1", engine="chatcmpl-k1", age_seconds=9)])
    await store.write([record("k2", engine="chatcmpl-k2")])
    assert await whole(store, "chatcmpl-k1") is None
    assert (await whole(store, "chatcmpl-k2"))["key"] == "k2"


async def test_answers_by_id_keep_the_order_asked_and_leave_gaps(backend):
    store = backend.store()
    await store.write([record("k1"), record("k2")])
    found = await store.get(["k2", "nobody", "k1"])
    assert [one and msgspec.json.decode(one.body)["key"] for one in found] == ["k2", None, "k1"]


async def test_a_reused_request_id_answers_with_the_newest_and_loses_nothing(backend):
    store = backend.store()
    await store.write([record("new", request_id="same", age_seconds=1)])
    await store.write([record("old", request_id="same", age_seconds=9)])  # a late back-fill
    assert (await whole(store, "same"))["key"] == "new"
    assert await keys_of(store) == ["new", "old"]
    assert (await whole(store, "old"))["key"] == "old"


async def test_a_minted_id_that_a_client_sends_again_answers_with_the_later_request(backend):
    store = backend.store()
    await store.write([record("k1", age_seconds=5), record("k2", request_id="k1")])
    assert (await whole(store, "k1"))["key"] == "k2"


async def test_when_the_newest_of_a_reused_id_is_pushed_out_the_earlier_one_answers(backend):
    store = backend.store(max_entries=10)  # room for one rejection
    await store.write([record("kept", request_id="same", age_seconds=9)])
    await store.write([record("gone", request_id="same", status="rejected", age_seconds=5)])
    await store.write([record("later", status="rejected")])
    assert await whole(store, "gone") is None
    assert (await whole(store, "same"))["key"] == "kept"


async def test_only_newer_revisions_of_the_same_owner_are_taken(backend):
    store = backend.store()
    assert await store.write([record("k", revision=3, status="processing")]) == 1
    assert await store.write([record("k", revision=3, status="failed")]) == 0
    assert await store.write([record("k", revision=2, status="queued")]) == 0
    assert await store.write([record("k", revision=9, owner="b/2")]) == 0
    assert (await whole(store, "k"))["status"] == "processing"
    assert await store.write([record("k", revision=4)]) == 1
    assert (await whole(store, "k"))["status"] == "completed"
    assert (await store.stats()).total == 1


async def test_within_one_batch_the_last_version_of_a_key_wins(backend):
    store = backend.store()
    await store.write([record("k", status="queued", revision=1), record("k", revision=2)])
    stats = await store.stats()
    assert (stats.total, stats.per_status) == (1, {"completed": 1})


async def test_indexes_follow_a_record_that_moves(backend):
    store = backend.store()
    await store.write([record("k", status="queued", node="none", revision=1)])
    await store.write([record("k", status="routed", node="worker-1", revision=2, session="s")])
    assert await keys_of(store, node_id="none") == []
    assert await keys_of(store, status="queued") == []
    assert await keys_of(store, node_id="worker-1", status="routed", session_id="s") == ["k"]
    assert (await store.stats()).per_node == {"worker-1": 1}


async def test_names_with_separators_and_other_scripts_are_kept_and_found(backend):
    store = backend.store()
    await store.write([record("k", session="tab\tline\nü", node="gpu 2", engine="x\ty")])
    assert await keys_of(store, session_id="tab\tline\nü", node_id="gpu 2") == ["k"]
    assert (await whole(store, "x\ty"))["session_id"] == "tab\tline\nü"


async def test_text_that_is_not_utf8_costs_its_letters_not_the_record(backend):
    store = backend.store()
    one = live("k", session="caf\udce9")
    one.label = "\udce9"
    await store.write([Record(one, "a/1")])
    assert (await whole(store, "k"))["label"] == "?"


# --- retention ---------------------------------------------------------------------------------


async def test_the_newest_up_to_the_cap_are_held_and_every_count_agrees(backend):
    store = backend.store(max_entries=5)
    for i in range(12):
        await store.write([record(f"k{i:02}", age_seconds=100 - i, node=f"worker-{i % 2}")])
    stats = await store.stats()
    assert await keys_of(store) == ["k11", "k10", "k09", "k08", "k07"]
    assert (stats.total, stats.active) == (12, 5)
    assert sum(stats.per_node.values()) == sum(stats.per_status.values()) == 5
    assert await whole(store, "k06") is None
    assert "r:k06" not in await backend.keys()


async def test_a_record_older_than_the_retention_is_neither_added_nor_counted(backend):
    store = backend.store(ttl_seconds=60)
    await store.write([record("old", age_seconds=61), record("new", age_seconds=1)])
    assert await keys_of(store) == ["new"]
    assert (await store.stats()).total == 1


async def test_a_record_is_gone_for_every_reader_when_its_time_is_over(backend):
    generous, short = backend.store(ttl_seconds=3600), backend.store(ttl_seconds=10)
    await generous.write([record("old", age_seconds=30), record("new")])
    stats = await short.stats()
    assert await keys_of(short) == ["new"]
    assert await whole(short, "old") is None
    assert (stats.active, stats.per_node, stats.per_status) == (
        1,
        {"worker-0": 1},
        {"completed": 1},
    )


async def test_a_request_that_outlives_the_retention_leaves_nothing_behind(backend):
    store, later = backend.store(ttl_seconds=3600), backend.store(ttl_seconds=10)
    await store.write([record("k", status="processing", age_seconds=30)])
    await backend.client.delete(backend.key("r:k"))  # as if its time had run out
    await later.write([record("k", status="completed", revision=2, age_seconds=30)])
    assert await whole(later, "k") is None
    assert not [name for name in await backend.keys() if name.startswith(("open:", "r:"))]


async def test_a_late_record_below_a_full_view_is_not_added(backend):
    store = backend.store(max_entries=3)
    await store.write([record(f"k{i}", age_seconds=i) for i in range(3)])
    await store.write([record("late", age_seconds=50)])
    assert await keys_of(store) == ["k0", "k1", "k2"]
    assert (await store.stats()).total == 3


async def test_rejections_hold_at_most_a_tenth_so_a_flood_washes_nothing_away(backend):
    store = backend.store(max_entries=30)
    await store.write([record(f"good{i}", age_seconds=60 - i) for i in range(20)])
    for _ in range(4):
        await store.write([record(status="rejected", node="none") for _ in range(50)])
    stats = await store.stats()
    assert stats.per_status == {"completed": 20, "rejected": 3}
    assert stats.active == 23
    assert len(await keys_of(store)) == 23


async def test_even_the_smallest_view_shows_one_rejection(backend):
    store = backend.store(max_entries=4)
    await store.write([record(f"r{i}", status="rejected", age_seconds=9 - i) for i in range(3)])
    assert await keys_of(store) == ["r2"]


async def test_the_largest_settings_of_the_living_are_in_force(backend):
    small, large = backend.store(max_entries=2, ttl_seconds=60), backend.store(7, 600)
    await beat(small, "a/1")
    learnt = await beat(large, "b/1")
    assert (learnt.retention.max_entries, learnt.retention.ttl_seconds) == (7, 600)
    assert (await small.stats()).retention == learnt.retention
    await beat(large, "b/1", lease=0.1)
    await asyncio.sleep(0.2)  # b is gone
    assert (await beat(small, "a/1")).retention.max_entries == 2


async def test_a_longer_retention_does_not_count_what_expires_by_the_shorter(backend):
    small, large = backend.store(ttl_seconds=60), backend.store(ttl_seconds=600)
    await beat(small, "a/1")
    await small.write([record("old", age_seconds=59), record("new")])
    await beat(large, "b/1")
    await asyncio.sleep(1.1)
    assert await keys_of(large) == ["new"]
    assert (await large.stats()).active == 1


async def test_every_key_is_known_and_expires_but_for_the_few_that_may_stay(backend):
    store = backend.store(max_entries=20)
    await beat(store, "a/1", urls=["http://w:1"])
    await store.bind_nodes("a/1", [("http://w:1", "worker-0", False)])
    for i in range(40):
        await store.write(
            [
                record(request_id=f"r{i}", engine=f"e{i}", session="s", status="rejected"),
                record(f"open{i}", status="processing", node="none"),
            ]
        )
    await store.sweep()
    for name, ttl in (await backend.keys()).items():
        assert any(name == p or (p.endswith(":") and name.startswith(p)) for p in PATTERNS), name
        assert (ttl == -1) == (name in WITHOUT_EXPIRY), name


async def test_indexes_live_as_long_as_what_was_written_last_needs(backend):
    store = backend.store(ttl_seconds=100)
    await store.write([record("k1", node="worker-1", status="processing")])
    indexes = {name for name in await backend.keys() if not name.startswith(("r:", "minute:"))}
    for name in indexes - WITHOUT_EXPIRY:  # as if nearly all of that time had passed
        await backend.client.expire(backend.key(name), 5)
    await backend.client.hdel(backend.key("settings"), "renewed")
    await store.write([record("k2", node="worker-2", status="failed")])
    await store.write([record("k3", node="worker-3", status="cancelled")])
    lives = await backend.keys()
    for name in ("all", "nodes-seen", "node:worker-1", "node:worker-2", "node:worker-3",
                 "status:processing", "status:failed", "status:cancelled", "owners"):  # fmt: skip
        assert lives[name] > 100, name


async def test_what_expired_unseen_leaves_the_indexes_with_later_writes(backend):
    store = backend.store(max_entries=2)
    await store.write([record(f"old{n}", age_seconds=60 - n, session="s") for n in range(2)])
    for n in range(2):  # as if nobody had written for so long
        await backend.client.delete(backend.key(f"r:old{n}"))
    await store.write([record(age_seconds=9), record()])
    await backend.client.hdel(backend.key("settings"), "renewed")
    await store.write([record(session="s")])
    for index in ("all", "node:worker-0", "status:completed"):
        assert await backend.client.zcard(backend.key(index)) == 2, index
    assert await backend.client.zcard(backend.key("session:s")) == 1


async def test_nothing_is_left_of_records_that_were_pushed_out(backend):
    store = backend.store(max_entries=3)
    for i in range(30):
        await store.write([record(f"k{i}", request_id=f"r{i}", engine=f"e{i}", age_seconds=90 - i)])
    names = await backend.keys()
    assert sum(name.startswith(("r:", "id:", "engine:")) for name in names) == 9
    assert await backend.client.zcard(backend.key("status:completed")) == 3


# --- lists -------------------------------------------------------------------------------------


async def test_pages_follow_each_other_without_gap_or_repeat_while_new_ones_arrive(backend):
    store = backend.store()
    arrival = now_us() - 60_000_000
    # Several share an arrival: the key decides among them.
    await store.write([record(f"k{i:02}", at_us=arrival + i // 4) for i in range(30)])
    seen: list[str] = []
    cursor = None
    for _ in range(20):
        page = await store.page(TraceQuery(limit=7, cursor=cursor))
        seen += [msgspec.json.decode(row)["key"] for row in page.rows]
        await store.write([record()])
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == [f"k{i:02}" for i in reversed(range(30))]


async def test_a_last_page_that_is_just_full_has_no_next(backend):
    store = backend.store()
    await store.write([record(), record()])
    assert (await store.page(TraceQuery(limit=2))).next_cursor is None
    assert (await store.page(TraceQuery(limit=1))).next_cursor is not None


async def test_a_filtered_page_that_is_just_full_leads_on_only_where_a_match_follows(backend):
    store = backend.store()
    await store.write([record(f"k{n:03}", model="mn"[n % 2], age_seconds=n) for n in range(60)])
    query = TraceQuery(model="n", limit=15)
    page = await store.page(query)
    assert page.next_cursor is not None
    rest = await store.page(msgspec.structs.replace(query, cursor=page.next_cursor))
    assert (len(page.rows), len(rest.rows), rest.next_cursor) == (15, 15, None)


async def test_filters_combine_and_a_budget_ends_a_page_with_a_way_on(backend):
    store = backend.store()
    nodes = ["worker-0", "worker-1"]
    await store.write(
        [
            record(f"k{i:02}", node=nodes[i % 2], age_seconds=60 - i,
                   status="failed" if i % 3 == 0 else "completed")
            for i in range(60)
        ]
    )  # fmt: skip
    wanted = [f"k{i:02}" for i in reversed(range(60)) if i % 6 == 0]
    assert await keys_of(store, node_id="worker-0", status="failed") == wanted
    found: list[str] = []
    cursor, pages = None, 0
    while True:
        query = TraceQuery(node_id="worker-0", status="failed", cursor=cursor)
        page = await store.page(query, scan_budget=6)
        found += [msgspec.json.decode(row)["key"] for row in page.rows]
        pages += 1
        cursor = page.next_cursor
        if cursor is None:
            break
        assert page.budget_spent
    assert found == wanted
    assert pages > 2


async def test_oldest_first_is_the_same_list_backwards_page_by_page(backend):
    store = backend.store()
    arrival = now_us() - 60_000_000
    await store.write([record(f"k{i:02}", at_us=arrival + i // 4) for i in range(30)])
    seen: list[str] = []
    cursor = None
    while True:
        page = await store.page(TraceQuery(order="asc", limit=7, cursor=cursor))
        seen += [msgspec.json.decode(row)["key"] for row in page.rows]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == [f"k{i:02}" for i in range(30)]


async def test_a_time_range_begins_with_its_start_and_ends_before_its_end(backend):
    store = backend.store()
    at = now_us() - 60_000_000
    await store.write([record(f"k{i}", at_us=at + i, node=f"worker-{i % 2}") for i in range(6)])
    assert await keys_of(store, since_us=at + 1, until_us=at + 4) == ["k3", "k2", "k1"]
    assert await keys_of(store, since_us=at + 4) == ["k5", "k4"]
    assert await keys_of(store, until_us=at + 2, order="asc") == ["k0", "k1"]
    assert await keys_of(store, until_us=at + 4, node_id="worker-1") == ["k3", "k1"]
    assert await keys_of(store, since_us=at + 4, until_us=at + 4) == []


async def test_a_cursor_outside_the_range_does_not_widen_it(backend):
    store = backend.store()
    at = now_us() - 60_000_000
    await store.write([record(f"k{i}", at_us=at + i) for i in range(6)])
    newer, older = (at + 5, "k5"), (at, "k0")
    assert await keys_of(store, until_us=at + 3, cursor=newer) == ["k2", "k1", "k0"]
    assert await keys_of(store, since_us=at + 3, cursor=older, order="asc") == ["k3", "k4", "k5"]


async def test_filters_that_no_index_answers_are_applied_to_every_page(backend):
    store = backend.store()
    await store.write(
        [record(f"k{i:02}", model=f"m{i % 3}", age_seconds=60 - i, session="s") for i in range(30)]
    )
    wanted = [f"k{i:02}" for i in reversed(range(30)) if i % 3 == 1]
    assert await keys_of(store, model="m1") == wanted
    assert await keys_of(store, model="m1", session_id="s") == wanted
    first = await store.page(TraceQuery(model="m1", limit=4))
    assert len(first.rows) == 4
    assert await keys_of(store, model="m1", cursor=first.next_cursor) == wanted[4:]
    full = await store.page(TraceQuery(model="m1", limit=10))
    assert (len(full.rows), full.next_cursor) == (10, None)


async def test_a_filter_by_reason_reads_the_detail_and_does_not_show_it(backend):
    store = backend.store()
    why = Decision("p", "tie", "exact", 1, [], 0.0, 0.0)
    chosen = live("k1")
    chosen.decision = why
    await store.write([Record(chosen, "a/1"), record("k2")])
    (row,) = (await store.page(TraceQuery(reason="tie"))).rows
    shown = msgspec.json.decode(row)
    assert shown["key"] == "k1"
    assert "decision" not in shown
    (row,) = (await store.page(TraceQuery(reason="tie", fields=("decision",)))).rows
    assert msgspec.json.decode(row)["decision"]["reason"] == "tie"


async def test_large_records_come_in_several_calls_and_in_one_page(backend):
    store = backend.store()
    big = ["x" * 10_000] * 30
    for i in range(12):
        one = live(f"k{i:02}", age_seconds=60 - i)
        one.prefix_hashes = big
        await store.write([Record(one, "a/1")])
    assert await keys_of(store, detail=True) == [f"k{i:02}" for i in reversed(range(12))]


async def test_a_long_row_is_listed_whole(backend):
    store = backend.store()
    await store.write([record("k1", model="m" * 5000), record("k2")])
    page = await store.page(TraceQuery(order="asc"))
    assert {len(msgspec.json.decode(row)["model"]) for row in page.rows} == {1, 5000}


async def test_lists_leave_the_detail_out_unless_asked(backend):
    store = backend.store()
    await store.write([record("k")])
    (row,) = (await store.page(TraceQuery())).rows
    (full,) = (await store.page(TraceQuery(detail=True))).rows
    assert "attempts" not in msgspec.json.decode(row)
    assert len(msgspec.json.decode(full)["attempts"]) == 1


async def test_a_list_skips_records_that_the_server_evicted(backend):
    store = backend.store()
    await store.write([record("k1", age_seconds=2), record("k2", age_seconds=1), record("k3")])
    await backend.client.delete(backend.key("r:k2"))
    assert await keys_of(store, limit=2) == ["k3", "k1"]


# --- numbers -----------------------------------------------------------------------------------


async def test_stats_agree_with_the_list_whatever_happened(backend):
    store = backend.store(max_entries=40)
    statuses = ["completed", "failed", "cancelled", "rejected", "processing", "routed"]
    for i in range(90):
        await store.write(
            [record(node=f"worker-{i % 3}", status=statuses[i % 6], age_seconds=200 - i)]
        )
    page = await store.page(TraceQuery(limit=1000))
    rows = [msgspec.json.decode(row) for row in page.rows]
    stats = await store.stats()
    assert stats.active == len(rows)
    assert stats.total == 90
    for counts, field in ((stats.per_node, "node_id"), (stats.per_status, "status")):
        assert counts == {
            value: sum(row[field] == value for row in rows) for value in {r[field] for r in rows}
        }
        assert 0 not in counts.values()


async def test_finished_requests_are_counted_once_by_route_policy_and_model(backend):
    store = backend.store()
    await store.write([record("a", status="processing", revision=1, route="/generate")])
    await store.write([record("a", status="completed", revision=2, route="/generate")])
    await store.write([record("a", status="completed", revision=2, route="/generate")])  # again
    await store.write([record("b", status="queued", route="/v1/embeddings", age_seconds=7000)])
    await store.write([record("c", route="/v1/completions", model=None, age_seconds=7200)])
    stats = await store.stats()
    assert stats.per_route == {"/generate": 1, "/v1/completions": 1}
    assert stats.per_policy == {"cache_aware": 2}
    assert stats.per_model == {"m": 1}


async def test_a_client_that_invents_models_cannot_grow_the_counters(backend):
    store = backend.store()
    at = now_us() // 60_000_000 * 60_000_000
    for batch in range(3):
        await store.write([record(model=f"m{batch}-{i}", at_us=at + i) for i in range(50)])
    per_model = (await store.stats()).per_model
    assert sum(per_model.values()) == 150
    assert len(per_model) == 65
    assert per_model["other"] == 86


async def test_the_oldest_and_newest_held_are_told_by_arrival(backend):
    store = backend.store()
    empty = await store.stats()
    assert (empty.oldest_us, empty.newest_us, empty.active) == (None, None, 0)
    await store.write([record(at_us=now_us() - 5), at := record()])
    stats = await store.stats()
    assert stats.newest_us == at.arrived_us
    assert stats.oldest_us is not None
    assert stats.oldest_us < stats.newest_us


# --- deletion ----------------------------------------------------------------------------------


async def test_deleting_one_leaves_the_others_and_is_seen_everywhere(backend):
    store = backend.store()
    await store.write([record("k1", request_id="x", session="s"), record("k2", session="s")])
    assert await store.delete("x") == 1
    assert await store.delete("x") == 0
    assert await whole(store, "k1") is None
    assert await keys_of(store, session_id="s") == ["k2"]
    assert (await store.stats()).active == 1


async def test_deleting_an_id_deletes_every_request_that_used_it(backend):
    store = backend.store()
    await store.write([record("k1", request_id="x", age_seconds=3), record("k2", request_id="x")])
    assert await store.delete("x") == 2
    assert await keys_of(store) == []


async def test_deleting_a_session_deletes_all_of_it_and_nothing_else(backend):
    store = backend.store()
    for _ in range(6):
        await store.write([record(session="s", request_id="x") for _ in range(50)])
    await store.write([record("k1", session="t"), record("k2")])
    assert await store.delete_session("s") == 300
    assert await store.delete_session("s") == 0
    assert await keys_of(store, session_id="s") == []
    assert await keys_of(store, order="asc") == ["k1", "k2"]
    stats = await store.stats()
    assert (stats.active, sum(stats.per_node.values())) == (2, 2)
    names = await backend.keys()
    assert not [name for name in names if name.startswith(("id:", "session:s"))]


async def test_deleting_many_under_one_id_takes_several_calls(backend):
    store = backend.store()
    for _ in range(3):
        await store.write([record(request_id="x") for _ in range(100)])
    assert await store.delete("x") == 300
    assert await keys_of(store) == []


async def test_deleting_all_starts_again_from_zero(backend):
    store = backend.store()
    for _ in range(6):
        await store.write([record(status="completed") for _ in range(100)])
    assert await store.delete_all() == 600
    stats = await store.stats()
    assert (stats.total, stats.active, stats.per_node, stats.per_route) == (0, 0, {}, {})
    assert not [name for name in await backend.keys() if name.startswith(("r:", "node:"))]
    await store.write([record("after")])
    assert (await store.stats()).total == 1
    assert await keys_of(store) == ["after"]


async def test_fleets_on_one_server_know_nothing_of_each_other(backend):
    ours = backend.store()
    await ours.write([record("k")])
    backend.fleet += "x"
    theirs = backend.store()
    assert await keys_of(theirs) == []
    await theirs.delete_all()
    assert await keys_of(ours) == ["k"]


# --- lost requests -----------------------------------------------------------------------------


async def test_what_a_dead_router_left_unfinished_becomes_lost_once(backend):
    store = backend.store()
    await beat(store, "alive/1")
    await beat(store, "dead/1", lease=0.1)
    await store.write([record("mine", owner="alive/1", status="processing")])
    await store.write([record("done", owner="dead/1")])
    await store.write([record(f"cut{i}", owner="dead/1", status="routed") for i in range(100)])
    await store.write([record("cut", owner="dead/1", status="processing", node="none")])
    await asyncio.sleep(0.2)
    assert await store.sweep() == (100, True)
    assert await store.sweep() == (1, False)
    assert await store.sweep() == (0, False)
    found = await whole(store, "cut")
    assert found["status"] == "lost"
    assert found["error"]["type"] == "router_lost"
    assert found["attempts"]
    stats = await store.stats()
    assert stats.per_status == {"processing": 1, "completed": 1, "lost": 101}
    assert len(await keys_of(store, status="lost", limit=1000)) == 101


async def test_a_router_that_was_only_paused_takes_its_record_back(backend):
    store = backend.store()
    await store.write([record("k", owner="p/1", status="processing", revision=3)])
    assert await store.sweep() == (1, False)
    assert await store.write([record("k", owner="p/1", status="routed", revision=2)]) == 0
    assert await store.write([record("k", owner="x/1", status="failed", revision=9)]) == 0
    assert await store.write([record("k", owner="p/1", status="processing", revision=3)]) == 1
    assert (await store.stats()).per_status == {"processing": 1}
    assert await store.sweep() == (1, False)  # silent again
    assert await store.write([record("k", owner="p/1", revision=4)]) == 1
    stats = await store.stats()
    assert (stats.per_status, stats.total, stats.per_route) == (
        {"completed": 1},
        1,
        {"/generate": 1},
    )


async def test_a_word_in_a_header_cannot_be_taken_for_the_status_of_a_lost_request(backend):
    store = backend.store()
    tricky = 'x","status":"processing","y'
    await store.write([record("k", status="processing", session=tricky, model='"error":{')])
    await store.sweep()
    found = await whole(store, "k")
    assert (found["status"], found["session_id"]) == ("lost", tricky)
    assert found["error"]["type"] == "router_lost"


# --- replicas and format -----------------------------------------------------------------------


async def test_a_heartbeat_tells_the_time_the_living_and_whether_the_lease_held(backend):
    store = backend.store()
    before = now_us()
    first = await beat(store, "a/1")
    assert not first.known
    assert abs(first.now_us - before) < 60_000_000
    assert (await beat(store, "a/1", lease=0.1)).known
    await asyncio.sleep(0.2)
    late = await beat(store, "a/1")
    assert not late.known
    assert late.server == first.server
    await beat(store, "b/1")
    assert (await beat(store, "a/1")).owners == ["b/1", "a/1"]
    await store.leave("b/1")
    assert (await beat(store, "a/1")).owners == ["a/1"]


async def test_emptied_data_looks_like_another_server(backend):
    store = backend.store()
    first = await beat(store, "a/1")
    for name in await backend.keys():
        await backend.client.delete(backend.key(name))
    assert (await beat(store, "a/1")).server != first.server


async def test_formats_one_apart_share_a_store_and_others_are_refused(backend):
    store = backend.store()
    assert (await beat(store, "old/1", schema=1)).schema == 1
    assert (await beat(store, "new/1", schema=2)).schema == 1  # what the oldest speaks
    with pytest.raises(SchemaMismatch, match="format 1, this router speaks 3"):
        await beat(store, "newest/1", schema=3)
    await beat(store, "old/1", schema=1, lease=0.1)
    await asyncio.sleep(0.2)
    assert (await beat(store, "new/1", schema=2)).schema == 2
    assert (await beat(store, "newest/1", schema=3)).schema == 2


async def test_a_record_with_more_facts_from_a_newer_version_is_kept_and_moves(backend):
    store = backend.store()
    newer = Record(live("k", status="processing"), "n/1")
    newer.stored = newer.stored.replace(b"\n", b"\tmore\tfacts\n", 1)
    await store.write([newer])
    assert await keys_of(store, node_id="worker-0", status="processing") == ["k"]
    assert await store.sweep() == (1, False)
    assert (await whole(store, "k"))["status"] == "lost"
    stored = await backend.client.get(backend.key("r:k"))
    assert stored.split(b"\n")[0].endswith(b"\tmore\tfacts")
    assert await store.delete("k") == 1
    assert (await store.stats()).per_node == {}


# --- names -------------------------------------------------------------------------------------


def proposals(*urls: str, **chosen: str) -> list[tuple[str, str, bool]]:
    return [(u, chosen.get(u, f"worker-{i}"), u in chosen) for i, u in enumerate(urls)]


async def test_names_are_given_in_order_and_stay_with_the_url_at_every_replica(backend):
    store = backend.store()
    await beat(store, "a/1")
    await beat(store, "b/1")
    assert await store.bind_nodes("a/1", proposals("u0", "u1")) == ["worker-0", "worker-1"]
    assert await store.bind_nodes("b/1", proposals("u1", "u0", "u2")) == [
        "worker-1", "worker-0", "worker-2",
    ]  # fmt: skip
    assert (await beat(store, "a/1", urls=["u0", "u9"])).names == {"u0": "worker-0", "u9": None}


async def test_a_taken_proposal_becomes_the_next_free_number(backend):
    store = backend.store()
    await beat(store, "a/1")
    await store.bind_nodes("a/1", proposals("u0", "u1"))
    await beat(store, "b/1")
    assert await store.bind_nodes("b/1", proposals("u1", "u2")) == ["worker-1", "worker-2"]


async def test_a_chosen_name_renames_and_pushes_a_given_one_aside(backend):
    store = backend.store()
    await beat(store, "a/1")
    await store.bind_nodes("a/1", proposals("u0", "u1"))
    assert await store.bind_nodes("a/1", proposals("u0", "u1", u0="gpu-2")) == ["gpu-2", "worker-1"]
    assert await store.bind_nodes("a/1", proposals("u0", "u1", u0="worker-1")) == [
        "worker-1", "worker-2",
    ]  # fmt: skip


async def test_a_name_chosen_for_another_worker_in_use_is_refused_and_both_are_named(backend):
    store = backend.store()
    await beat(store, "a/1")
    await store.bind_nodes("a/1", proposals("u0", u0="gpu-2"))
    await beat(store, "b/1")
    with pytest.raises(NodeNameTaken, match="'gpu-2' is already given to worker u0"):
        await store.bind_nodes("b/1", proposals("u1", u1="gpu-2"))


async def test_a_name_is_free_when_no_router_lists_it_and_no_record_names_it(backend):
    store = backend.store()
    await beat(store, "a/1")
    await store.bind_nodes("a/1", proposals("u0", "u1"))
    await store.write([record("k", node="worker-0@3")])  # a rank holds the name too
    await store.leave("a/1")
    await beat(store, "b/1")
    assert await store.bind_nodes("b/1", proposals("v0", "v1")) == ["worker-1", "worker-2"]
    await store.leave("b/1")
    await store.delete("k")
    await beat(store, "c/1")
    assert await store.bind_nodes("c/1", proposals("w0")) == ["worker-0"]


# --- the script cache --------------------------------------------------------------------------


async def test_a_lost_script_cache_is_not_noticed(backend):
    store = backend.store()
    await store.write([record("k1")])
    await backend.client.script_flush()
    await store.write([record("k2")])
    assert len(await keys_of(store)) == 2
