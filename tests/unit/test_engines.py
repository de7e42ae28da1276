"""What engines say of themselves, in the words of real ones: SGLang 0.5.23, vLLM 0.32, llama.cpp."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.engines import (
    ENGINES,
    EngineLoad,
    Identity,
    Unreadable,
    build,
    engine_named,
    model_info,
    served_models,
    total,
)

SGLANG_LOADS = b"""{"timestamp":"2026-11-24T20:47:40.169038+00:00","version":"0.5.23","accelerator":null,
"num_accelerators":1,"loads":[{"timestamp":1795553260.16,"dp_rank":0,"num_running_reqs":2,
"num_waiting_reqs":1,"num_waiting_uncached_tokens":7,"num_used_tokens":30,"num_total_tokens":40,
"max_total_num_tokens":4096,"max_running_requests":8,"token_usage":0.0},
{"dp_rank":1,"num_running_reqs":0,"num_waiting_reqs":0,"num_total_tokens":5,
"max_total_num_tokens":4096}]}"""
OLD_SGLANG_LOAD = b'[{"dp_rank":0,"num_reqs":3,"num_waiting_reqs":1,"num_tokens":41}]'
OLDEST_SGLANG_LOAD = b'{"load":3}'
VLLM_METRICS = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="tiny"} 2.0
vllm:num_requests_running{engine="1",model_name="tiny"} 1.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="tiny"} 4.0
vllm:num_requests_waiting{engine="1",model_name="tiny"} 0.0
# HELP vllm:num_requests_waiting_by_reason Waiting requests, by reason.
# TYPE vllm:num_requests_waiting_by_reason gauge
vllm:num_requests_waiting_by_reason{engine="0",model_name="tiny",reason="capacity"} 4.0
"""
LLAMA_METRICS = b"""# HELP llamacpp:requests_processing Number of requests processing.
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 1
# HELP llamacpp:requests_deferred Number of requests deferred.
# TYPE llamacpp:requests_deferred gauge
llamacpp:requests_deferred 3
"""
LLAMA_SLOTS = b"""[{"id":0,"n_ctx":2048,"speculative":false,"is_processing":true},
{"id":1,"n_ctx":2048,"speculative":false,"is_processing":false}]"""
TENSORRT_METRICS = b"""[{"gpuMemUsage":1,"iter":7,"numActiveRequests":5,"numQueuedRequests":0},
{"gpuMemUsage":1,"iter":8,"iterLatencyMS":7.1,"numActiveRequests":4,"numQueuedRequests":2}]"""


@pytest.mark.parametrize(
    ("body", "server", "identity"),
    [
        (b'{"object":"list","data":[{"id":"m","owned_by":"sglang"}]}', "uvicorn", "sglang"),
        (b'{"object":"list","data":[{"id":"m","owned_by":"vllm"}]}', "uvicorn", "vllm"),
        (b'{"data":[{"id":"m","owned_by":"tensorrt_llm"}]}', "uvicorn", "tensorrt-llm"),
        (b'{"models":[],"data":[{"id":"m","owned_by":"llamacpp"}]}', "", "llama.cpp"),
        (b'{"data":[{"id":"m","owned_by":"me"}]}', "llama.cpp", "llama.cpp"),
        (b'{"data":[{"id":"m"}]}', "uvicorn", None),
    ],
)
def test_an_engine_is_known_by_its_list_of_models(body, server, identity) -> None:
    assert served_models(body, server) == Identity(("m",), identity)


def test_old_sglang_is_known_by_its_model_info() -> None:
    assert model_info(b'{"model_path":"/models/m"}', "") == Identity(("/models/m",), "sglang")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"model_path":"m","version":"0.5.23"}', "0.5.23"),
        (b'{"version":"0.32.0"}', "0.32.0"),
        (b'{"total_slots":2,"build_info":"b6920-a1b2c3"}', "b6920-a1b2c3"),
        (b'{"version":7}', None),
        (b"<html>", None),
        (b'{"version":"line\\nbreak"}', None),
    ],
)
def test_the_version_is_what_the_engine_says(body: bytes, told: str | None) -> None:
    assert build(body).version == told


@pytest.mark.parametrize(
    ("engine", "path", "body", "whole"),
    [
        (
            "sglang",
            "/v1/loads",
            SGLANG_LOADS,
            EngineLoad(running=2, waiting=1, used_tokens=45, token_capacity=8192),
        ),
        ("sglang", "/get_load", OLD_SGLANG_LOAD, EngineLoad(running=2, waiting=1, used_tokens=41)),
        ("sglang", "/get_load", OLDEST_SGLANG_LOAD, EngineLoad()),
        (None, "/get_load", OLD_SGLANG_LOAD, EngineLoad(running=2, waiting=1, used_tokens=41)),
        ("vllm", "/metrics", VLLM_METRICS, EngineLoad(running=3, waiting=4)),
        ("llama.cpp", "/metrics", LLAMA_METRICS, EngineLoad(running=1, waiting=3)),
        ("llama.cpp", "/slots", LLAMA_SLOTS, EngineLoad(running=1)),
        ("tensorrt-llm", "/metrics", TENSORRT_METRICS, EngineLoad(running=4, waiting=2)),
        ("tensorrt-llm", "/metrics", b"[]", EngineLoad(running=0, waiting=0)),
    ],
)
def test_each_engine_tells_its_load_in_its_own_way(engine, path, body, whole) -> None:
    read = {source.path: source.read for source in engine_named(engine).loads}
    assert total(read[path](body)) == whole


def test_each_rank_keeps_its_own_load() -> None:
    first, second = engine_named("sglang").loads[1].read(SGLANG_LOADS)
    assert (first.dp_rank, first.used_tokens) == (0, 40)
    assert (second.dp_rank, second.used_tokens) == (1, 5)


def test_an_engine_nobody_knows_is_asked_as_sglang_is_but_for_the_abort() -> None:
    strange = engine_named("ollama")
    assert strange.loads == engine_named("sglang").loads
    assert not strange.aborts


SOURCES = [(e.name, source) for e in ENGINES.values() for source in e.loads]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(st.sampled_from(SOURCES), st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_answer_breaks_a_reader(source, body: bytes) -> None:
    with suppress(Unreadable):
        assert isinstance(total(source[1].read(body)), EngineLoad)
