"""The simulated worker is code that other tests trust: its shapes, its clock and its faults."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.raw_tcp import RawConnection, RawResponse
from tests.sim.call import WorkerConfig
from tests.sim.engine import Engine, EngineConfig, PrefixCache, Prompt, QueueFull, decode, encode
from tests.sim.faults import Fault, FaultBoard, FaultError, parse_fault
from tests.sim.worker import Worker
from tests.waiting import until

LONG = "a prompt of some length, so that it fills blocks " * 10


class Sim:
    """A worker in this process, and short ways to talk to it."""

    def __init__(self, worker: Worker, port: int, control_port: int) -> None:
        self.worker = worker
        self.port = port
        self.control_port = control_port

    async def connect(self) -> RawConnection:
        return await RawConnection.connect(self.port)

    async def post(self, path: str, body: object, headers: str = "") -> RawResponse:
        async with await self.connect() as connection:
            await connection.post(path, json.dumps(body).encode(), headers)
            return await connection.read_response()

    async def get(self, path: str) -> RawResponse:
        async with await self.connect() as connection:
            await connection.get(path)
            return await connection.read_response()

    async def control(self, method: str, path: str, body: object = None) -> object:
        async with await RawConnection.connect(self.control_port) as connection:
            if method == "POST":
                await connection.post(path, json.dumps(body).encode())
            else:
                await connection.send(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            return json.loads((await connection.read_response()).body)


Start = Callable[..., Awaitable[Sim]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    workers: list[Worker] = []

    async def begin(*faults: str, engine: EngineConfig | None = None, **settings: object) -> Sim:
        config = WorkerConfig(
            engine=engine or EngineConfig(),
            faults=tuple(parse_fault(fault) for fault in faults),
            **settings,  # type: ignore[arg-type]
        )
        workers.append(Worker(config))
        ports = await workers[-1].start("127.0.0.1", 0, 0)
        return Sim(workers[-1], ports["port"], ports["control_port"])

    yield begin
    for worker in workers:
        await worker.close()


def messages(body: bytes) -> list[dict]:
    """The JSON of an SSE body that must end with [DONE]."""
    frames = body.decode().split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    return [json.loads(frame.removeprefix("data: ")) for frame in frames[:-2]]


CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}


# the engine


@pytest.mark.parametrize("text", ["", "a", "abcd", "grüße an alle", LONG])
def test_tokens_turn_back_into_the_text_they_came_from(text):
    assert decode(encode(text)) == text


def test_a_repeated_prompt_is_cached_but_for_the_block_of_its_last_token():
    cache = PrefixCache(block_tokens=4, capacity=100)
    tokens = tuple(range(12))
    assert cache.match(tokens) == 0
    cache.insert(tokens)
    assert cache.match(tokens) == 8
    assert cache.match((*tokens, 99)) == 12
    assert cache.match((5, *tokens)) == 0


def test_the_cache_stays_within_its_bound_and_forgets_the_oldest_ends_first():
    cache = PrefixCache(block_tokens=1, capacity=6)
    cache.insert((1, 2, 3, 4))
    cache.insert((9, 8, 7, 6))
    assert len(cache) == 6
    assert cache.match((1, 2, 3, 4, 0)) == 2
    assert cache.match((9, 8, 7, 6, 0)) == 4


def test_prompts_are_prefilled_one_after_the_other_and_only_what_is_not_cached():
    engine = Engine(EngineConfig(block_tokens=10, prefill_tokens_per_second=10.0))
    prompt = Prompt(tuple(range(21)))
    first = engine.submit("a", prompt, 1, now=0.0)
    second = engine.submit("b", prompt, 1, now=0.0)
    assert engine.advance(2.0) == []
    assert (engine.running, engine.waiting) == (1, 1)
    assert engine.advance(3.0) == [first, second]
    assert (first.first_token_at, second.first_token_at) == (2.1, 2.2)
    assert (first.cached_tokens, second.cached_tokens) == (0, 20)


def test_a_dropped_prefill_makes_room_for_the_next_at_once():
    engine = Engine(EngineConfig(prefill_base_seconds=10.0))
    first = engine.submit("a", Prompt((1,)), 1, now=0.0)
    second = engine.submit("b", Prompt((2,)), 1, now=0.0)
    engine.advance(1.0)
    engine.drop(first, 4.0)
    assert engine.advance(14.0) == [second]
    assert second.first_token_at == 14.0


def test_a_full_queue_refuses():
    engine = Engine(EngineConfig(max_queued_requests=1, prefill_base_seconds=1.0))
    engine.submit("a", Prompt((1,)), 1, now=0.0)
    with pytest.raises(QueueFull):
        engine.submit("b", Prompt((2,)), 1, now=0.0)


def test_the_same_seed_and_prompt_give_the_same_words():
    def words(seed: int, prompt: str) -> list[str]:
        return Engine(EngineConfig(seed=seed)).submit("a", Prompt.of(prompt), 8, 0.0).words

    assert words(1, "x") == words(1, "x")
    assert words(1, "x") != words(2, "x")
    assert words(1, "x") != words(1, "y")


# shapes


async def test_generate_answers_text_ids_and_meta_info(start: Start):
    sim = await start()
    body = {"text": LONG, "sampling_params": {"max_new_tokens": 5}, "rid": "mine"}
    answer = json.loads((await sim.post("/generate", body)).body)
    assert len(answer["output_ids"]) == 5
    assert answer["text"] == decode(answer["output_ids"])
    meta = answer["meta_info"]
    assert meta["id"] == "mine"
    assert meta["finish_reason"] == {"type": "length", "length": 5}
    assert meta["prompt_tokens"] == len(encode(LONG))
    assert (meta["completion_tokens"], meta["cached_tokens"]) == (5, 0)
    assert meta["e2e_latency"] >= meta["queue_time"] >= 0
    again = json.loads((await sim.post("/generate", body)).body)
    assert again["text"] == answer["text"]
    assert again["meta_info"]["cached_tokens"] == (len(encode(LONG)) - 1) // 16 * 16


async def test_a_generate_stream_repeats_all_text_so_far_in_each_message(start: Start):
    sim = await start()
    body = {"text": "hi", "sampling_params": {"max_new_tokens": 4}, "stream": True}
    response = await sim.post("/generate", body)
    assert response.header("content-type") == "text/event-stream; charset=utf-8"
    said = messages(response.body)
    assert [message["meta_info"]["completion_tokens"] for message in said] == [1, 2, 3, 4]
    for shorter, longer in zip(said, said[1:], strict=False):
        assert longer["text"].startswith(shorter["text"])
        assert shorter["meta_info"]["finish_reason"] is None
        assert "e2e_latency" not in shorter["meta_info"]
    assert said[-1]["meta_info"]["finish_reason"]["type"] == "length"
    assert "e2e_latency" in said[-1]["meta_info"]


async def test_a_batch_is_answered_by_a_list_or_by_messages_with_an_index(start: Start):
    sim = await start()
    body = {"text": ["one", "two"], "sampling_params": {"max_new_tokens": 3}}
    answers = json.loads((await sim.post("/generate", body)).body)
    assert [len(answer["output_ids"]) for answer in answers] == [3, 3]
    said = messages((await sim.post("/generate", {**body, "stream": True})).body)
    for index in (0, 1):
        own = [message for message in said if message["index"] == index]
        assert [message["meta_info"]["completion_tokens"] for message in own] == [1, 2, 3]
        assert own[-1]["text"] == answers[index]["text"]


async def test_chat_has_the_rid_as_its_id_and_no_cache_report_unless_asked(start: Start):
    sim = await start()
    answer = json.loads((await sim.post("/v1/chat/completions", CHAT | {"rid": "r7"})).body)
    assert answer["id"] == "r7"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 3
    assert answer["usage"]["prompt_tokens_details"] is None
    sim = await start(cache_report=True)
    long = CHAT | {"messages": [{"role": "user", "content": LONG}]}
    await sim.post("/v1/chat/completions", long)
    answer = json.loads((await sim.post("/v1/chat/completions", long)).body)
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


async def test_the_next_turn_of_a_chat_finds_the_last_answer_in_the_cache(start: Start):
    sim = await start(engine=EngineConfig(block_tokens=1), cache_report=True)
    first = json.loads((await sim.post("/v1/chat/completions", CHAT | {"max_tokens": 40})).body)
    said = first["choices"][0]["message"]
    turn = [*CHAT["messages"], said, {"role": "user", "content": "and?"}]  # type: ignore[misc]
    second = json.loads((await sim.post("/v1/chat/completions", CHAT | {"messages": turn})).body)
    cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached >= first["usage"]["total_tokens"] - 1


async def test_a_chat_stream_ends_with_a_finish_chunk_and_usage_when_asked(start: Start):
    sim = await start()
    plain = await sim.post("/v1/chat/completions", CHAT)
    body = CHAT | {"stream": True, "stream_options": {"include_usage": True}}
    said = messages((await sim.post("/v1/chat/completions", body)).body)
    *chunks, finish, usage = said
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    text = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)
    assert text == json.loads(plain.body)["choices"][0]["message"]["content"]
    assert finish["choices"][0]["finish_reason"] == "length"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 3


async def test_a_chat_with_several_choices_streams_each_of_them_whole(start: Start):
    sim = await start()
    body = CHAT | {"stream": True, "n": 2}
    said = [
        message["choices"][0]
        for message in messages((await sim.post("/v1/chat/completions", body)).body)
    ]
    for index in (0, 1):
        own = [choice for choice in said if choice["index"] == index]
        assert [choice["finish_reason"] for choice in own] == [None] * 4 + ["length"]


async def test_completions_count_a_prompt_once_however_many_copies(start: Start):
    sim = await start()
    body = {"prompt": [LONG, "b"], "n": 2, "max_tokens": 2}
    answer = json.loads((await sim.post("/v1/completions", body)).body)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["prompt_tokens"] == len(encode(LONG)) + 1
    assert answer["usage"]["completion_tokens"] == 8


@pytest.mark.parametrize(
    ("path", "body", "keys"),
    [
        ("/v1/embeddings", {"input": ["a", "b"]}, {"object", "data", "model", "usage"}),
        ("/v1/classify", {"input": "a"}, {"id", "object", "data", "model", "usage", "created"}),
        ("/classify", {"text": "a"}, {"embedding", "meta_info"}),
        ("/v1/score", {"query": "q", "items": ["a"]}, {"scores", "model", "usage", "object"}),
        ("/tokenize", {"prompt": "abcdefgh"}, {"tokens", "count", "max_model_len"}),
        ("/detokenize", {"tokens": [97]}, {"text"}),
        (
            "/v1/responses",
            {"input": "hi"},
            {"id", "object", "created_at", "model", "status", "output", "usage"},
        ),
    ],
)
async def test_the_other_inference_routes_have_their_shape(start: Start, path, body, keys):
    response = await (await start()).post(path, body)
    assert response.status == 200
    assert json.loads(response.body).keys() == keys


async def test_rerank_answers_a_list_sorted_by_score(start: Start):
    body = {"query": "q", "documents": ["a", "b", "c"]}
    results = json.loads((await (await start()).post("/v1/rerank", body)).body)
    scores = [result["score"] for result in results]
    assert sorted(scores, reverse=True) == scores
    assert {result["index"] for result in results} == {0, 1, 2}


@pytest.mark.parametrize(
    "path",
    [
        "/health",
        "/health_generate",
        "/ready",
        "/get_model_info",
        "/model_info",
        "/get_server_info",
        "/server_info",
        "/get_load",
        "/v1/loads",
        "/v1/models",
        "/metrics",
    ],
)
async def test_what_a_router_asks_is_answered(start: Start, path):
    assert (await (await start()).get(path)).status == 200


async def test_get_load_can_be_missing_as_in_newer_versions(start: Start):
    assert (await (await start(get_load=False)).get("/get_load")).status == 404


async def test_errors_have_the_shape_of_their_route(start: Start):
    sim = await start()
    native = await sim.post("/generate", {})
    assert native.status == 400
    assert json.loads(native.body).keys() == {"error"}
    openai = await sim.post("/v1/chat/completions", {"messages": []})
    assert openai.status == 400
    body = json.loads(openai.body)
    assert (body["object"], body["code"]) == ("error", 400)


async def test_a_worker_with_a_key_wants_it(start: Start):
    sim = await start(api_key="k")
    body = {"text": "a"}
    assert (await sim.post("/generate", body)).status == 401
    assert (await sim.post("/generate", body, "Authorization: Bearer k\r\n")).status == 200


async def test_x_request_id_is_neither_used_nor_echoed_unless_switched_on(start: Start):
    header = "X-Request-Id: abc\r\n"
    answer = await (await start()).post("/generate", {"text": "a"}, header)
    assert answer.header("x-request-id") is None
    assert json.loads(answer.body)["meta_info"]["id"] != "abc"
    answer = await (await start(request_id_header=True)).post("/generate", {"text": "a"}, header)
    assert answer.header("x-request-id") == "abc"
    assert json.loads(answer.body)["meta_info"]["id"] == "abc"


# connections


async def test_requests_share_a_connection_also_when_pipelined(start: Start):
    async with await (await start()).connect() as connection:
        await connection.get("/health")
        await connection.post("/generate", b'{"text": "a"}')
        await connection.get("/get_model_info")
        statuses = [(await connection.read_response()).status for _ in range(3)]
    assert statuses == [200, 200, 200]


async def test_an_idle_connection_is_closed_after_the_keep_alive_time(start: Start):
    async with await (await start(keep_alive_seconds=0.05)).connect() as connection:
        await connection.get("/health")
        await connection.read_response()
        assert await connection.read_to_end() == b""


async def test_a_client_that_expects_100_is_told_to_go_on(start: Start):
    async with await (await start()).connect() as connection:
        await connection.send(
            b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 13\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        assert (await connection.read_response()).status == 100
        await connection.send(b'{"text": "a"}')
        assert (await connection.read_response()).status == 200


async def test_a_client_that_leaves_is_recorded_and_frees_the_engine(start: Start):
    sim = await start(engine=EngineConfig(token_seconds=60.0))
    body = {"text": "a", "stream": True, "sampling_params": {"max_new_tokens": 9}}
    connection = await sim.connect()
    await connection.post("/generate", json.dumps(body).encode())
    await connection.read_until(b"\n\n")
    state = await sim.control("GET", "/_sim/state")
    assert isinstance(state, dict)
    assert (state["active"], state["running"]) == (1, 1)
    connection.reset()
    await until(lambda: sim.worker.active == 0)
    assert sim.worker.engine.running == 0
    (record,) = sim.worker.records.list("/generate")
    assert record.outcome == "disconnected"


async def test_abort_request_ends_the_ids_that_begin_so(start: Start):
    sim = await start(engine=EngineConfig(token_seconds=60.0))
    body = {"text": "a", "stream": True, "rid": "abc-1"}
    async with await sim.connect() as connection:
        await connection.post("/generate", json.dumps(body).encode())
        await until(lambda: sim.worker.engine.running == 1)
        await sim.post("/abort_request", {"rid": "other"})
        assert sim.worker.engine.running == 1
        await sim.post("/abort_request", {"rid": "abc"})
        said = messages((await connection.read_response()).body)
    assert said[-1]["meta_info"]["finish_reason"]["type"] == "abort"
    assert sim.worker.records.list("/generate")[0].aborted


async def test_what_was_received_can_be_asked_for(start: Start):
    sim = await start()
    raw = b'{"text": "a",  "x": 1}'
    async with await sim.connect() as connection:
        await connection.post("/generate?q=1", raw, "X-Own: Yes\r\n")
        await connection.read_response()
    await sim.post("/update_weights_from_disk", {})
    records = await sim.control("GET", "/_sim/requests?path=/generate")
    assert isinstance(records, list)
    (record,) = records
    assert ["X-Own", "Yes"] in record["headers"]
    assert record["target"] == "/generate?q=1"
    assert record["body"] == raw.decode()
    assert record["body_sha256"] == hashlib.sha256(raw).hexdigest()
    assert record["outcome"] == "finished"
    state = await sim.control("GET", "/_sim/state")
    assert isinstance(state, dict)
    assert state["control_hits"] == ["/update_weights_from_disk"]


# faults


def test_a_fault_is_a_name_or_a_name_with_settings_or_json():
    assert parse_fault("hang") == Fault(kind="hang")
    assert parse_fault("status:status=503,retry_after=1").retry_after == "1"
    assert parse_fault('{"kind": "cut", "after_events": 3}').after_events == 3
    for wrong in ("no-such", "hang:what=1", "hang:what", {"kind": "hang", "x": 1}, 7):
        with pytest.raises(FaultError):
            parse_fault(wrong)


def test_a_fault_hits_inference_unless_paths_are_named_and_ends_after_its_times():
    board = FaultBoard([Fault(kind="hang", every=2, times=1)])
    assert board.take("/health", inference=False) is None
    hits = [board.take("/generate", inference=True) is not None for _ in range(6)]
    assert hits == [False, True, False, False, False, False]
    board = FaultBoard([Fault(kind="status", status=503, paths=("/health",))])
    assert board.take("/health", inference=False) is not None
    assert board.take("/generate", inference=True) is None


BODY = {"text": "a", "sampling_params": {"max_new_tokens": 4}}
STREAM = BODY | {"stream": True}


async def test_hang_says_nothing_and_holds_the_request(start: Start):
    sim = await start("hang")
    async with await sim.connect() as connection:
        await connection.post("/generate", json.dumps(BODY).encode())
        with pytest.raises(TimeoutError):
            await connection.read_exactly(1, seconds=0.1)
        assert sim.worker.active == 1
    await until(lambda: sim.worker.active == 0)


@pytest.mark.parametrize("body", [BODY, STREAM])
async def test_hang_after_sends_a_part_and_then_nothing(start: Start, body):
    sim = await start("hang_after")
    async with await sim.connect() as connection:
        await connection.post("/generate", json.dumps(body).encode())
        await connection.read_until(b"\r\n\r\n")
        assert await connection.read_exactly(20)
        with pytest.raises(TimeoutError):
            await connection.read_to_end(seconds=0.1)
        assert sim.worker.active == 1


@pytest.mark.parametrize(
    ("fault", "begins"),
    [
        ("cut_before_head", b""),
        ("cut_mid_head", b"HTTP/1.1 200 OK\r\nContent-Ty"),
        ("garbage_head", b"\x16\x03\x01"),
    ],
)
async def test_a_head_can_be_missing_or_broken(start: Start, fault, begins):
    sim = await start(fault)
    async with await sim.connect() as connection:
        await connection.post("/generate", json.dumps(BODY).encode())
        assert (await connection.read_to_end()).startswith(begins)
    assert sim.worker.records.list("/generate")[0].outcome == "cut"


@pytest.mark.parametrize("chunked", ["true", "false"])
@pytest.mark.parametrize("body", [BODY, STREAM])
async def test_a_body_can_be_cut_in_either_framing(start: Start, body, chunked):
    sim = await start(f"cut:chunked={chunked}")
    with pytest.raises(EOFError):
        await sim.post("/generate", body)


async def test_a_stream_is_cut_right_after_the_events_asked_for(start: Start):
    sim = await start("cut:after_events=2", engine=EngineConfig(token_seconds=0.01))
    async with await sim.connect() as connection:
        await connection.post("/generate", json.dumps(STREAM).encode())
        assert (await connection.read_to_end()).count(b"data: ") == 2


async def test_a_cut_can_be_a_reset_and_what_was_written_still_arrives(start: Start):
    sim = await start("cut:reset=true,after_events=1")
    async with await sim.connect() as connection:
        await connection.post("/generate", json.dumps(STREAM).encode())
        assert b"data: " in await connection.read_until(b"\n\n")
        with pytest.raises(ConnectionResetError):
            await connection.read_to_end()


@pytest.mark.parametrize("status", [500, 429, 503])
async def test_a_status_comes_with_retry_after_and_the_shape_of_the_route(start: Start, status):
    sim = await start(f"status:status={status},retry_after=2")
    response = await sim.post("/v1/chat/completions", CHAT)
    assert (response.status, response.header("retry-after")) == (status, "2")
    assert json.loads(response.body)["code"] == status


@pytest.mark.parametrize("body", [BODY, STREAM])
async def test_a_polite_abort_is_a_clean_answer_that_says_abort(start: Start, body):
    response = await (await start("polite_abort:after_events=2")).post("/generate", body)
    assert response.status == 200
    last = messages(response.body)[-1] if body is STREAM else json.loads(response.body)
    assert last["meta_info"]["finish_reason"]["type"] == "abort"
    assert last["meta_info"]["completion_tokens"] == 2


@pytest.mark.parametrize(
    ("path", "body"), [("/generate", STREAM), ("/v1/chat/completions", CHAT | {"stream": True})]
)
async def test_an_error_frame_ends_a_stream_before_done(start: Start, path, body):
    said = messages((await (await start("error_frame")).post(path, body)).body)
    assert said[-1]["error"]["code"] == 500
    assert len(said) > 1


async def test_a_body_can_drip(start: Start):
    sim = await start("drip:seconds=0.001,after_bytes=40")
    assert json.loads((await sim.post("/generate", BODY)).body)["text"]


async def test_interim_answers_come_before_the_head(start: Start):
    sim = await start("interim")
    async with await sim.connect() as connection:
        await connection.post("/generate", json.dumps(BODY).encode())
        assert [(await connection.read_response()).status for _ in range(3)] == [100, 103, 200]


async def test_trailers_come_after_the_last_chunk_and_the_connection_lives(start: Start):
    sim = await start("trailers")
    async with await sim.connect() as connection:
        for _ in range(2):
            await connection.post("/generate", json.dumps(BODY).encode())
            response = await connection.read_response()
            assert response.raw.endswith(b"0\r\nx-sim-trailer: last\r\n\r\n")


async def test_http_1_0_answers_end_with_the_connection(start: Start):
    sim = await start("http10")
    response = await sim.post("/generate", BODY)
    assert response.raw.startswith(b"HTTP/1.0 200")
    assert response.header("content-length") is None
    assert json.loads(response.body)["text"]


@pytest.mark.parametrize(
    ("fault", "said"), [("connection_close", "close"), ("close_silently", None)]
)
async def test_a_connection_can_be_closed_after_an_answer_said_or_not(start: Start, fault, said):
    sim = await start(fault)
    async with await sim.connect() as connection:
        await connection.post("/generate", json.dumps(BODY).encode())
        assert (await connection.read_response()).header("connection") == said
        assert await connection.read_to_end() == b""


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("conflicting_lengths", {"content-length": 3}),
        ("length_and_chunked", {"content-length": 1, "transfer-encoding": 1}),
        ("oversize_headers:bytes=100000", {"x-sim-filler": 1}),
    ],
)
async def test_heads_that_must_not_be_believed(start: Start, fault, said):
    sim = await start(fault)
    async with await sim.connect() as connection:
        await connection.post("/generate", json.dumps(BODY).encode())
        head = (await connection.read_until(b"\r\n\r\n")).lower().decode()
    for name, times in said.items():
        assert head.count(f"\n{name}:") == times


async def test_a_huge_body_is_as_large_as_asked(start: Start):
    sim = await start("huge_body:bytes=3000000")
    assert len((await sim.post("/generate", BODY)).body) == 3_000_000


async def test_a_body_that_is_never_read_fills_the_senders_buffers(start: Start):
    sim = await start("no_read:seconds=60")
    async with await sim.connect() as connection:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await connection.post("/generate", b"x" * 50_000_000)


async def test_an_answer_can_come_before_the_body_was_read(start: Start):
    sim = await start("no_read:status=413")
    async with await sim.connect() as connection:
        await connection.send(b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n")
        assert (await connection.read_response()).status == 413


async def test_refuse_closes_the_listener_until_the_faults_are_replaced(start: Start):
    sim = await start()
    async with await sim.connect() as idle:
        await idle.get("/health")
        await idle.read_response()
        await sim.control("POST", "/_sim/faults", "refuse")
        assert await idle.read_to_end() == b""
    with pytest.raises(ConnectionRefusedError):
        await sim.get("/health")
    await sim.control("POST", "/_sim/faults", [])
    assert (await sim.get("/health")).status == 200


async def test_idle_close_shortens_the_keep_alive(start: Start):
    sim = await start("idle_close:seconds=0.05")
    async with await sim.connect() as connection:
        await connection.get("/health")
        await connection.read_response()
        assert await connection.read_to_end() == b""


async def test_one_request_can_bring_its_own_fault_in_the_body_or_in_a_header(start: Start):
    sim = await start()
    fault = {"kind": "status", "status": 503}
    assert (await sim.post("/generate", BODY | {"sim": fault})).status == 503
    header = "x-sim-fault: status:status=500\r\n"
    assert (await sim.post("/generate", BODY, header)).status == 500
    assert (await sim.post("/generate", BODY | {"sim": "nonsense"})).status == 400
    assert (await sim.post("/generate", BODY)).status == 200
