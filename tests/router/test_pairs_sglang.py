"""Prefill and decode on separate SGLang workers: both are asked at once and meet in a room."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import msgspec
import pytest

from router.core.prefix_news import PrefixNews
from router.policytype import PolicyType
from tests.pairs import pairs
from tests.running import call
from tests.sim.call import WorkerConfig
from tests.sim.engine import EngineConfig
from tests.waiting import until
from tracking.trace import TraceError

ASKED = {"text": "once upon a time", "sampling_params": {"max_new_tokens": 3}}
STREAMED = {**ASKED, "stream": True}
CONSISTENT = PolicyType.ConsistentHashing
BOTH = pytest.mark.parametrize("body", [ASKED, STREAMED], ids=["json", "stream"])


def events(text: str) -> Iterator[dict[str, object]]:
    for line in text.split("\n\n"):
        if line.startswith("data: {"):
            yield msgspec.json.decode(line.removeprefix("data: "))


def told(error: TraceError | None) -> tuple[str, bool]:
    """The type of an attempt's error, and whether it was only stopped."""
    assert error is not None
    return error.type, error.message.startswith("stopped: ")


# -- what goes out and what comes back -------------------------------------------------------------


@BOTH
async def test_the_decode_worker_answers_and_the_trace_shows_both_legs(body):
    async with pairs() as fleet:
        answer = await fleet.post("/generate", body)
        assert answer.status == 200
        assert answer.headers["x-smg-routed-worker-id"] == fleet.decodes[0].url
        alone = await fleet.post("/generate", body, request_id="b")
        assert "meta_info" in answer.text
        assert alone.status == 200
        trace = fleet.trace()
        assert (trace.status, trace.node_id, trace.prefill_node_id) == (
            "completed",
            "worker-1",
            "worker-0",
        )
        assert trace.prefill_worker_url == fleet.prefills[0].url
        assert trace.output_tokens == 3
        prefill, decode = fleet.attempts()
        assert [
            (one.leg, one.node_id, one.http_status, one.error) for one in (prefill, decode)
        ] == [
            ("prefill", "worker-0", 200, None),
            ("decode", "worker-1", 200, None),
        ]
        assert prefill.duration_seconds is not None
        assert decode.duration_seconds is not None
        detail = fleet.records.live["a"].detail()
        assert detail.prefill_decision is not None
        assert detail.decision is not None
        assert detail.prefill_decision.candidates[0].node_id == "worker-0"
        assert detail.decision.candidates[0].node_id == "worker-1"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
@pytest.mark.parametrize("stream", [False, True])
async def test_each_route_that_generates_is_split(path, stream):
    said = {"messages": [{"role": "user", "content": "hi"}], "prompt": "hi", "input": "hi"}
    async with pairs() as fleet:
        answer = await fleet.post(path, {**said, "max_tokens": 2, "stream": stream})
        assert answer.status == 200
        assert fleet.trace().status == "completed"
        assert [one.leg for one in fleet.attempts()] == ["prefill", "decode"]
        assert (
            fleet.prefills[0].body()["bootstrap_room"] == fleet.decodes[0].body()["bootstrap_room"]
        )


async def test_both_get_what_the_client_sent_and_where_to_meet():
    async with pairs() as fleet:
        sent = b' {"text":"caf\\u00e9", "x_unknown": {"a":[1, 2.50]} }\n'
        assert (await fleet.post("/generate", sent)).status == 200
        received = [half.received[0] for half in (fleet.prefills[0], fleet.decodes[0])]
        one, other = received
        assert one.body == other.body
        assert one.body is not None
        assert one.body.startswith(
            ' {"text":"caf\\u00e9", "x_unknown": {"a":[1, 2.50]},"bootstrap_'
        )
        assert dict(one.headers)["X-Request-Id"] == dict(other.headers)["X-Request-Id"] == "a"
        body = fleet.prefills[0].body()
        assert (body["bootstrap_host"], body["bootstrap_port"]) == (
            "127.0.0.1",
            fleet.prefills[0].port,
        )
        assert 0 <= int(str(body["bootstrap_room"])) < 1 << 63


async def test_every_sequence_of_a_batch_has_a_room_of_its_own():
    async with pairs() as fleet:
        batch = {"text": ["one", "two"], "sampling_params": {"max_new_tokens": 1}}
        answer = await fleet.post("/generate", batch)
        assert len(json.loads(answer.text)) == 2
        body = fleet.decodes[0].body()
        assert body["bootstrap_host"] == ["127.0.0.1"] * 2
        assert body["bootstrap_port"] == [fleet.prefills[0].port] * 2
        rooms = body["bootstrap_room"]
        assert isinstance(rooms, list)
        assert len(set(rooms)) == 2
        chat = {"messages": [{"role": "user", "content": "hi"}], "n": 3, "max_tokens": 1}
        answer = await fleet.post("/v1/chat/completions", chat)
        assert len(answer.json["choices"]) == 3  # type: ignore[arg-type]
        assert len(fleet.decodes[0].body()["bootstrap_room"]) == 3  # type: ignore[arg-type]


async def test_without_a_port_the_engine_is_left_to_know_it():
    async with pairs() as fleet:
        fleet.worker(fleet.prefills[0]).bootstrap_port = None
        await fleet.prefills[0].fault("status:status=400")
        await fleet.post("/generate", ASKED)
        assert fleet.prefills[0].body()["bootstrap_port"] is None


async def test_where_to_fetch_from_is_not_for_clients_to_say():
    async with pairs() as fleet:
        named = {**ASKED, "bootstrap_host": "10.9.9.9", "bootstrap_room": 5}
        assert (await fleet.post("/generate", named)).status == 200
        body = fleet.decodes[0].body()
        assert body["bootstrap_host"] == "127.0.0.1"
        assert body["bootstrap_room"] != 5
        assert (fleet.decodes[0].received[0].body or "").count("bootstrap_host") == 1


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("stream", [False, True])
async def test_the_prefills_logprobs_of_the_input_stand_before_the_decodes(batch, stream):
    prompts = [[1, 2, 3], [4, 5]]
    asked = prompts if batch else prompts[0]
    body = {**ASKED, "text": None, "input_ids": asked, "return_logprob": True, "stream": stream}
    async with pairs() as fleet:
        answer = await fleet.post("/generate", body)
        assert answer.status == 200
        if stream:
            said = list(events(answer.text))
            assert answer.text.endswith("data: [DONE]\n\n")
        else:
            said = json.loads(answer.text) if batch else [answer.json]
        for place, one in enumerate(said):
            place = int(str(one.get("index", 0 if stream else place)))
            tokens = prompts[place]
            assert one["meta_info"]["input_token_logprobs"] == [  # type: ignore[index]
                *([-0.25, token, None] for token in tokens),
                [-0.5, tokens[-1], None],
            ]
        assert {"text", "output_ids", "meta_info"} <= set(said[0])
        assert fleet.trace().output_tokens == (6 if batch else 3)


async def test_a_prefill_worker_that_dawdles_over_its_answer_holds_up_nobody():
    async with pairs() as fleet:
        await fleet.prefills[0].fault("drip:after_bytes=40,seconds=0.02")
        assert (await fleet.post("/generate", ASKED)).status == 200
        assert fleet.trace().status == "completed"
        prefill, _ = fleet.attempts()
        assert prefill.error is None
        assert fleet.worker(fleet.prefills[0]).in_flight == 1
        await until(lambda: fleet.worker(fleet.prefills[0]).in_flight == 0)
        await until(lambda: fleet.prefills[0].received[0].outcome == "finished")


# -- one leg fails before the client has seen anything ------------------------------------------------

FAULTS = {
    "refuse": "connect",
    "cut_before_head": "worker_cut",
    "cut_before_head:reset=1": "worker_cut",
    "garbage_head": "worker_cut",
    "status:status=500": "worker_status",
    "status:status=503": "worker_status",
    "cut": "worker_cut",
    "error_frame:after_events=0": "worker_abort",
}


@pytest.mark.parametrize("fault", FAULTS)
@BOTH
async def test_another_prefill_worker_takes_over_and_the_decode_worker_is_not_blamed(body, fault):
    async with pairs(prefills=2) as fleet:
        bad, good = fleet.prefills
        await bad.fault(fault)
        answer = await fleet.post("/generate", body)
        assert answer.status == 200
        trace = fleet.trace()
        assert (trace.status, trace.error) == ("completed", None)
        assert trace.prefill_worker_url == good.url
        failed, stopped, *last = fleet.attempts()
        kind = FAULTS[fault]
        if fault.startswith("error_frame") and body is ASKED:
            kind = "worker_status"  # without a stream it is a 500
        assert told(failed.error) == (kind, False)
        assert (failed.leg, failed.worker_url) == ("prefill", bad.url)
        assert told(stopped.error) == (kind, True)
        assert [one.error for one in last] == [None, None]
        assert fleet.blamed() == ([] if "503" in fault else [bad])
        await fleet.at_rest()


@pytest.mark.parametrize("fault", [f for f in FAULTS if not f.startswith(("cut", "error_frame"))])
@BOTH
async def test_another_decode_worker_takes_over_and_the_prefill_worker_is_not_blamed(body, fault):
    async with pairs(decodes=2) as fleet:
        bad, good = fleet.decodes
        await bad.fault(fault)
        answer = await fleet.post("/generate", body)
        assert answer.status == 200
        assert answer.headers["x-smg-routed-worker-id"] == good.url
        stopped, failed, *last = fleet.attempts()
        assert (failed.leg, failed.worker_url) == ("decode", bad.url)
        assert told(failed.error) == (FAULTS[fault], False)
        assert told(stopped.error) == (FAULTS[fault], True)
        assert [one.error for one in last] == [None, None]
        assert fleet.blamed() == ([] if "503" in fault else [bad])
        await fleet.at_rest()


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("refuse", 500, "worker_connect_failed"),
        ("cut_before_head", 500, "worker_cut"),
        ("status:status=500", 500, "prefill_internal_error"),
        ("status:status=503,retry_after=1", 503, "prefill_unavailable"),
        ("status:status=400", 400, "prefill_bad_request"),
        ("status:status=422", 422, "prefill_error"),
        ("status:status=599", 599, "prefill_error"),
    ],
)
@BOTH
async def test_the_client_hears_of_a_prefill_that_failed(body, fault, status, code):
    async with pairs(cb_failure_threshold=10) as fleet:
        await fleet.prefills[0].fault(fault)
        answer = await fleet.post("/generate", body)
        assert (answer.status, answer.headers["x-smg-error-code"]) == (status, code)
        if fault.startswith("status"):  # in its own words
            assert answer.json == {"error": {"message": "Simulated failure."}}
        assert ("retry-after" in answer.headers) is ("retry_after" in fault)
        trace = fleet.trace()
        assert (trace.status, trace.http_status) == ("failed", status)
        assert len(fleet.attempts()) == (2 if status in (400, 422, 599) else 6)
        await fleet.at_rest()


async def test_what_a_decode_worker_refuses_is_passed_on_as_it_is_and_the_prefill_is_stopped():
    async with pairs() as fleet:
        await fleet.decodes[0].fault("status:status=400")
        answer = await fleet.post("/generate", ASKED)
        assert answer.status == 400
        assert answer.json == {"error": {"message": "Simulated failure."}}
        prefill, decode = fleet.attempts()
        assert told(prefill.error) == ("worker_status", True)
        assert told(decode.error) == ("worker_status", False)
        assert fleet.trace().status == "failed"
        assert fleet.blamed() == []
        await fleet.at_rest()


async def test_a_cache_that_does_not_arrive_is_nobodys_fault_and_another_pair_is_asked():
    async with pairs(prefills=2, decodes=2) as fleet:
        said = "Prefill transfer failed for request rank=0: KVTransferError"
        await fleet.prefills[0].fault(f"status:status=500,message={said}")
        answer = await fleet.post("/generate", ASKED)
        assert answer.status == 200
        assert fleet.trace().prefill_worker_url == fleet.prefills[1].url
        assert fleet.trace().worker_url == fleet.decodes[1].url
        assert told(fleet.attempts()[0].error) == ("worker_abort", False)
        assert fleet.blamed() == []


# -- time ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["prefill", "decode"])
@BOTH
async def test_of_two_that_wait_for_each_other_the_one_that_did_not_begin_is_to_blame(part, body):
    async with pairs(first_byte_timeout_secs=1) as fleet:
        bad = (fleet.prefills if part == "prefill" else fleet.decodes)[0]
        await bad.fault("hang")
        answer = await fleet.post("/generate", body)
        assert answer.status == 504
        assert bad.url in answer.text
        trace = fleet.trace()
        assert (trace.status, trace.error and trace.error.type) == ("failed", "first_byte_timeout")
        # Without a stream the other one says nothing either before the work is done.
        assert fleet.blamed() == ([bad] if body is STREAMED else [])
        await fleet.at_rest()


async def test_the_whole_requests_limit_ends_both_legs():
    async with pairs(request_timeout_secs=1) as fleet:
        await fleet.prefills[0].fault("hang")
        answer = await fleet.post("/generate", ASKED)
        assert answer.status == 504
        assert fleet.blamed() == []
        assert [one.error.type for one in fleet.attempts() if one.error] == ["total_timeout"] * 2
        await fleet.at_rest()


# -- the client leaves ---------------------------------------------------------------------------------


@pytest.mark.parametrize("hanging", ["prefill", "decode"])
@BOTH
async def test_a_client_that_leaves_frees_both_workers(hanging, body):
    async with pairs() as fleet:
        await (fleet.prefills if hanging == "prefill" else fleet.decodes)[0].fault("hang")
        asking = asyncio.create_task(fleet.post("/generate", body))
        await until(lambda: fleet.prefills[0].received and fleet.decodes[0].received)
        asking.cancel()
        await fleet.at_rest()
        await until(lambda: fleet.records.status("a") == "cancelled")
        assert [one.error.type for one in fleet.attempts() if one.error] == ["client_gone"] * 2
        assert fleet.blamed() == []


async def test_a_client_that_leaves_in_the_middle_frees_the_decode_worker():
    slow = WorkerConfig(engine=EngineConfig(token_seconds=0.05))
    async with pairs(configs={"decode": slow}) as fleet:
        body = {**STREAMED, "sampling_params": {"max_new_tokens": 1000}}
        asking = asyncio.create_task(fleet.post("/generate", body))
        await until(lambda: fleet.records.status("a") == "processing")
        asking.cancel()
        await fleet.at_rest()
        await until(lambda: fleet.records.status("a") == "cancelled")
        prefill, decode = fleet.attempts()
        assert (prefill.http_status, prefill.error) == (200, None)
        assert decode.error is not None
        assert decode.error.type == "client_gone"


# -- after the first byte ------------------------------------------------------------------------------


async def test_a_decode_worker_that_breaks_in_the_middle_is_blamed_alone():
    async with pairs(decodes=2, sse_error_frames=True) as fleet:
        bad = fleet.decodes[0]
        await bad.fault("cut:after_events=2")
        answer = await fleet.post("/generate", STREAMED)
        assert len(list(events(answer.text))) == 3  # the last one tells of the end
        trace = fleet.trace()
        assert (trace.status, trace.error and trace.error.type) == ("failed", "worker_cut")
        prefill, decode = fleet.attempts()
        assert prefill.error is None
        assert decode.error is not None
        assert fleet.blamed() == [bad]
        await fleet.at_rest()


# -- who is asked, and for what ------------------------------------------------------------------------


async def test_without_a_worker_of_each_kind_there_is_none():
    async with pairs(prefills=0) as fleet:
        answer = await fleet.post("/generate", ASKED)
        assert answer.status == 503
        assert "No available prefill workers: none is registered" in answer.text
        assert fleet.trace().status == "rejected"
        assert (await call(fleet.app, "GET", "/readiness")).status == 503
    async with pairs(decodes=0) as fleet:
        answer = await fleet.post("/generate", ASKED)
        assert "No available decode workers" in answer.text
        assert fleet.worker(fleet.prefills[0]).in_flight == 0


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/messages", "/rerank", "/v1/unknown"])
async def test_what_cannot_be_split_is_refused_in_words(path):
    async with pairs() as fleet:
        answer = await fleet.post(path, {"input": "x"})
        assert (answer.status, answer.json["error"]["code"]) == (501, "pd_unsupported")  # type: ignore[index]
        assert fleet.trace().status == "rejected"


async def test_what_generates_nothing_is_answered_by_a_prefill_worker():
    async with pairs() as fleet:
        answer = await fleet.post("/tokenize", {"prompt": "hello"})
        assert answer.status == 200
        assert fleet.trace().node_id == "worker-0"
        assert [one.leg for one in fleet.attempts()] == [None]


async def test_a_body_that_cannot_be_split_is_the_clients_mistake():
    async with pairs() as fleet:
        answer = await fleet.post("/generate", b"[1, 2]")
        assert answer.status == 400
        many = {"text": "a", "sampling_params": {"n": 1 << 20}}
        answer = await fleet.post("/generate", many, request_id="b")
        assert answer.status == 400
        assert fleet.trace("b").status == "rejected"


async def test_prompts_that_begin_alike_go_to_the_same_prefill_worker():
    async with pairs(prefills=3, prefill_policy=None) as fleet:
        body = {"text": "word " * 400, "sampling_params": {"max_new_tokens": 1}}
        for number in range(4):
            await fleet.post("/generate", body, request_id=f"r{number}")
        chosen = {fleet.trace(f"r{number}").prefill_node_id for number in range(4)}
        assert len(chosen) == 1
        trace = fleet.trace("r3")
        assert trace.predicted_cached_tokens
        assert trace.cache_source == "engine"
        assert trace.cached_tokens  # the prefill worker's
        detail = fleet.records.live["r3"].detail()
        assert detail.prefill_decision is not None
        assert detail.prefill_decision.policy == "cache_aware"


async def test_a_worker_named_by_the_client_does_its_own_part():
    async with pairs(2, 2, prefill_policy=CONSISTENT, decode_policy=CONSISTENT) as fleet:
        for half, part in ((fleet.decodes[1], "node_id"), (fleet.prefills[1], "prefill_node_id")):
            name = fleet.worker(half).node_id
            headers = {"x-request-id": name, "x-smg-target-worker": name}
            answer = await call(fleet.app, "POST", "/generate", ASKED, headers=headers)
            assert answer.status == 200
            assert getattr(fleet.trace(name), part) == name
        headers = {"x-smg-target-worker": "worker-9"}
        assert (await call(fleet.app, "POST", "/generate", ASKED, headers=headers)).status == 503
        assert fleet.worker(fleet.prefills[0]).in_flight == 0


async def test_workers_of_both_kinds_are_added_and_shown_with_what_they_do():
    async with pairs() as fleet, pairs() as other:
        new = other.prefills[0]
        body = {"url": new.url, "worker_type": "prefill", "bootstrap_port": new.port}
        assert (await fleet.post("/workers", body)).status == 202
        refused = await fleet.post("/workers", {"url": "http://127.0.0.1:9"})
        assert refused.status == 400
        assert "prefill and decode" in refused.text
        await until(lambda: len(fleet.app.fleet.of("prefill")) == 2)
        shown = (await call(fleet.app, "GET", "/workers")).json
        assert shown["stats"] == {"prefill_count": 2, "decode_count": 1, "regular_count": 0}
        added = next(w for w in shown["workers"] if w["url"] == new.url)  # type: ignore[attr-defined]
        assert (added["worker_type"], added["bootstrap_port"]) == ("prefill", new.port)


async def test_metrics_tell_workers_by_what_they_do():
    async with pairs(cb_failure_threshold=10) as fleet:
        await fleet.prefills[0].fault("status:status=500,times=1")
        assert (await fleet.post("/generate", ASKED)).status == 200
        page = (await call(fleet.app, "GET", "/metrics")).text
        for part in ("prefill", "decode"):
            assert 'smg_worker_pool_size{connection_mode="http",model="' in page
            assert f'worker_type="{part}"' in page
        errors = [line for line in page.splitlines() if line.startswith("smg_worker_errors_total{")]
        assert [("prefill" in line, line.endswith(" 1.0")) for line in errors] == [(True, True)]
        assert 'backend_type="pd"' in page
        # The leg that was only stopped counts as an attempt without an error.
        stopped = 'trace_router_attempts_total{error_type="",node_id="worker-1",status_code=""} 1.0'
        assert stopped in page


async def test_an_abort_reaches_both_workers_and_nobody_else():
    slow = WorkerConfig(engine=EngineConfig(token_seconds=0.05))
    async with pairs(2, 2, configs={"decode": slow}, enable_request_tracking=True) as fleet:
        body = {**STREAMED, "rid": "r-1", "sampling_params": {"max_new_tokens": 1000}}
        headers = {"x-request-id": "a"}
        asking = asyncio.create_task(call(fleet.app, "POST", "/generate", body, headers=headers))
        await until(lambda: any(half.sim.engine.running for half in fleet.decodes))
        told = await fleet.post("/abort_request", {"rid": "r-1"}, request_id="b")
        assert told.json == {"workers_told": 2}
        assert "abort" in (await asking).text
        aborted = [
            half
            for half in (*fleet.prefills, *fleet.decodes)
            if half.sim.records.list("/abort_request")
        ]
        assert aborted == [fleet.prefills[0], fleet.decodes[0]]


async def test_a_client_that_leaves_has_our_id_aborted_at_both():
    async with pairs(inject_rid=True) as fleet:
        for half in (fleet.prefills[0], fleet.decodes[0]):
            fleet.worker(half).engine = "sglang"
        await fleet.prefills[0].fault("hang")
        asking = asyncio.create_task(fleet.post("/generate", ASKED))
        await until(lambda: fleet.prefills[0].received and fleet.decodes[0].received)
        asking.cancel()
        both = (fleet.prefills[0], fleet.decodes[0])
        await until(lambda: all(half.sim.records.list("/abort_request") for half in both))


async def test_a_router_that_stops_ends_both_legs():
    async with pairs(cut_off=True, shutdown_grace_period_secs=0) as fleet:
        await fleet.prefills[0].fault("hang")
        asking = asyncio.create_task(fleet.post("/generate", ASKED))
        await until(lambda: fleet.prefills[0].received and fleet.decodes[0].received)
        records = fleet.records
    answer = await asking
    assert answer.status == 503
    assert [one.error.type for one in records.live["a"].attempts if one.error] == [
        "router_lost"
    ] * 2


async def test_a_rank_that_does_the_prefill_is_found_by_the_number_of_the_room():
    several = WorkerConfig(dp_size=3)
    async with pairs(configs={"prefill": several}, dp_aware=True) as fleet:
        await until(lambda: len(fleet.app.fleet.of("prefill")) == 3)
        for number in range(3):
            await fleet.post("/generate", ASKED, request_id=f"r{number}")
            body = fleet.prefills[0].body()
            rank = fleet.trace(f"r{number}").prefill_node_id
            assert rank == f"worker-0@{int(str(body['bootstrap_room'])) % 3}"
            assert f"worker-0@{body['data_parallel_rank']}" == rank
            assert "disagg_prefill_dp_rank" not in body
            assert f"worker-0@{fleet.decodes[0].body()['disagg_prefill_dp_rank']}" == rank


async def test_only_policies_that_look_at_prefixes_tell_of_them():
    async with pairs(prefill_policy=None) as fleet:
        fleet.app.caches.news = news = PrefixNews()
        await fleet.post("/generate", {"text": "word " * 400})
        told = {digest for digest, _ in news.take(1000)}
        assert told == {fleet.worker(fleet.prefills[0]).digest}
