"""The engines behind a router, told apart, and what each can be asked.

An engine is known by what `/v1/models` says of itself. From its name follow the paths that tell its
version and its load, the one that empties its prefix cache, and whether it ends a request by id.
`docs/engines.md` is this table in words, with what each engine gives a trace. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import isfinite
from typing import Annotated, Final, NamedTuple, TypeVar

import msgspec
from msgspec import Meta
from prometheus_client.parser import text_string_to_metric_families

T = TypeVar("T")


class EngineLoad(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What an engine has to do, by its own account; what it does not tell is left out.

    Requests that run and that wait, tokens in its cache, and how many fit. `dp_rank` where each
    rank tells its own.
    """

    dp_rank: int | None = None
    running: int | None = None
    waiting: int | None = None
    used_tokens: int | None = None
    token_capacity: int | None = None


class Unreadable(ValueError):
    """An answer that is not what the path promises. The message says what is wrong with it."""


class LoadSource(NamedTuple):
    """A path to GET, and how to read what it answers. `read` raises Unreadable."""

    path: str
    read: Callable[[bytes], list[EngineLoad]]


class Engine(NamedTuple):
    """A kind of engine.

    `version_paths` and `loads` are tried in order: versions differ, and some paths are there only
    with a flag. `flush_path` takes a POST. `cache_report_flag` makes it say how many tokens of a
    prompt were cached. `aborts`: it ends a request when told its id.
    """

    name: str | None
    version_paths: tuple[str, ...]
    loads: tuple[LoadSource, ...]
    flush_path: str | None
    cache_report_flag: str | None = None
    aborts: bool = False


class Identity(NamedTuple):
    """What a worker serves. `names` are those that clients may ask for, the first is the main one.

    `engine` is the name of the engine, None where it cannot be told. `adapters` are those of the names
    that stand for a LoRA adapter.
    """

    names: tuple[str, ...]
    engine: str | None
    adapters: tuple[str, ...] = ()


# -- who is it? ------------------------------------------------------------------------------------


class _Model(msgspec.Struct):
    id: str
    owned_by: str | None = None
    parent: str | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


class _ModelInfo(msgspec.Struct):
    served_model_name: str | None = None
    model_path: str | None = None


class Build(NamedTuple):
    """What an engine tells of itself where it tells its version; `dp_size`: data-parallel ranks."""

    version: str | None = None
    dp_size: int | None = None


class _Version(msgspec.Struct):
    version: str | None = None
    build_info: str | None = None
    dp_size: Annotated[int, Meta(ge=1, le=1024)] | None = None


OWNERS: Final = {
    "sglang": "sglang",
    "vllm": "vllm",
    "llamacpp": "llama.cpp",
    "tensorrt_llm": "tensorrt-llm",
}


def served_models(body: bytes, server: str) -> Identity | None:
    """From `GET /v1/models`, and its `Server` header; None for what is no list of models."""
    try:
        models = msgspec.json.decode(body, type=_Models).data
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    names = tuple(model.id for model in models if model.id)
    if not names:
        return None
    engine = OWNERS.get(models[0].owned_by or "")
    engine = engine or ("llama.cpp" if "llama.cpp" in server else None)
    return Identity(names, engine, tuple(model.id for model in models if model.id and model.parent))


def model_info(body: bytes, server: str) -> Identity | None:
    """From SGLang's `GET /model_info`: the name served, else the path it was loaded from."""
    try:
        info = msgspec.json.decode(body, type=_ModelInfo)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    name = info.served_model_name or info.model_path
    return None if not name else Identity((name,), "sglang")


# Asked in this order until one is answered. All engines have the first; SGLang answers it with its
# served model name, so the others matter only to old versions and to servers that imitate a part.
QUESTIONS: Final = (
    ("/v1/models", served_models),
    ("/model_info", model_info),
    ("/get_model_info", model_info),
)


def build(body: bytes) -> Build:
    """From any of the `version_paths`."""
    try:
        said = msgspec.json.decode(body, type=_Version)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Build()
    told = said.version or said.build_info
    return Build(told[:64] if told and told.isprintable() else None, said.dp_size)


# -- how much has it to do? ------------------------------------------------------------------------


class _OldRank(msgspec.Struct):
    """SGLang's `GET /get_load`, until 0.5.10 or so: one object, or one for each rank."""

    num_tokens: int | None = None
    num_reqs: int | None = None
    num_waiting_reqs: int | None = None
    dp_rank: int | None = None


class _Rank(msgspec.Struct):
    dp_rank: int | None = None
    num_running_reqs: int | None = None
    num_waiting_reqs: int | None = None
    num_total_tokens: int | None = None
    num_used_tokens: int | None = None
    max_total_num_tokens: int | None = None


class _Ranks(msgspec.Struct):
    """SGLang's `GET /v1/loads`."""

    loads: list[_Rank]


class _Iteration(msgspec.Struct, rename="camel"):
    """One of TensorRT-LLM's `GET /metrics`."""

    num_active_requests: int | None = None
    num_queued_requests: int | None = None


class _Slot(msgspec.Struct):
    """One of llama.cpp's `GET /slots`."""

    is_processing: bool
    n_ctx: int | None = None


def old_loads(body: bytes) -> list[EngineLoad]:
    """`num_reqs` counts those that wait, too."""
    one = body.lstrip().startswith(b"{")
    ranks = [_decoded(body, _OldRank)] if one else _decoded(body, list[_OldRank])
    return [
        EngineLoad(
            dp_rank=rank.dp_rank,
            running=_less(rank.num_reqs, rank.num_waiting_reqs),
            waiting=rank.num_waiting_reqs,
            used_tokens=rank.num_tokens,
        )
        for rank in ranks
    ]


def rank_loads(body: bytes) -> list[EngineLoad]:
    return [
        EngineLoad(
            dp_rank=rank.dp_rank,
            running=rank.num_running_reqs,
            waiting=rank.num_waiting_reqs,
            used_tokens=_first(rank.num_total_tokens, rank.num_used_tokens),
            token_capacity=rank.max_total_num_tokens,
        )
        for rank in _decoded(body, _Ranks).loads
    ]


def gauges(*, running: str, waiting: str) -> Callable[[bytes], list[EngineLoad]]:
    """Reads two metrics of Prometheus' text format; of each the sum over its labels, since with data
    parallelism vLLM's engines have a sample each."""

    def read(body: bytes) -> list[EngineLoad]:
        samples = _gauges(body)
        return [EngineLoad(running=samples.get(running), waiting=samples.get(waiting))]

    return read


def llama_slots(body: bytes) -> list[EngineLoad]:
    slots = _decoded(body, list[_Slot])
    return [EngineLoad(running=sum(slot.is_processing for slot in slots))]


def tensorrt_iterations(body: bytes) -> list[EngineLoad]:
    """The newest counts. None since it was last asked: nothing has run since then."""
    iterations = _decoded(body, list[_Iteration])
    if not iterations:
        return [EngineLoad(running=0, waiting=0)]
    last = iterations[-1]
    return [EngineLoad(running=last.num_active_requests, waiting=last.num_queued_requests)]


def total(ranks: list[EngineLoad]) -> EngineLoad:
    """All ranks of an engine together."""
    return EngineLoad(
        running=_sum(rank.running for rank in ranks),
        waiting=_sum(rank.waiting for rank in ranks),
        used_tokens=_sum(rank.used_tokens for rank in ranks),
        token_capacity=_sum(rank.token_capacity for rank in ranks),
    )


def _decoded(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unreadable(str(error)) from None


def _gauges(body: bytes) -> dict[str, int]:
    """Sums over the labels of each metric of whole numbers, in Prometheus' text format."""
    sums: dict[str, float] = {}
    try:
        for family in text_string_to_metric_families(body.decode()):
            for sample in family.samples:
                sums[sample.name] = sums.get(sample.name, 0) + sample.value
    except ValueError as error:
        raise Unreadable(f"not Prometheus' text format: {error}") from None
    return {name: int(value) for name, value in sums.items() if isfinite(value)}


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)


def _less(whole: int | None, part: int | None) -> int | None:
    return None if whole is None else max(whole - (part or 0), 0)


def _sum(values: Iterable[int | None]) -> int | None:
    """None when nothing is known of any."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


# -- the table -------------------------------------------------------------------------------------

_SGLANG_LOADS: Final = (
    LoadSource("/get_load", old_loads),
    LoadSource("/v1/loads", rank_loads),
)
_VLLM_METRICS: Final = gauges(
    running="vllm:num_requests_running", waiting="vllm:num_requests_waiting"
)
_LLAMA_METRICS: Final = gauges(
    running="llamacpp:requests_processing", waiting="llamacpp:requests_deferred"
)
ENGINES: Final = {
    engine.name: engine
    for engine in (
        Engine(
            "sglang",
            ("/server_info", "/get_server_info"),
            _SGLANG_LOADS,
            "/flush_cache",
            "--enable-cache-report",
            aborts=True,
        ),
        Engine(
            "vllm",
            ("/version",),
            (LoadSource("/metrics", _VLLM_METRICS),),
            "/reset_prefix_cache",  # there only with VLLM_SERVER_DEV_MODE=1
            "--enable-prompt-tokens-details",
        ),
        Engine(
            "llama.cpp",
            ("/props",),
            (LoadSource("/metrics", _LLAMA_METRICS), LoadSource("/slots", llama_slots)),
            None,
        ),
        Engine("tensorrt-llm", ("/version",), (LoadSource("/metrics", tensorrt_iterations),), None),
        # Unknown: what behaves like SGLang in these things is taken for it.
        Engine(None, (), _SGLANG_LOADS, "/flush_cache"),
    )
}


def engine_named(name: str | None) -> Engine:
    return ENGINES.get(name) or ENGINES[None]
