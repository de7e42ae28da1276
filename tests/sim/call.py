"""One request while it is being answered, as the routes see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from tests.sim import shapes
from tests.sim.connection import Request
from tests.sim.engine import EngineConfig, Job, Prompt, QueueFull
from tests.sim.faults import Fault
from tests.sim.pairing import Part
from tests.sim.records import Record

if TYPE_CHECKING:
    from tests.sim.worker import Worker


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How the worker presents itself. Durations are seconds."""

    model: str = "sim-model"
    owned_by: str = "sglang"  # what /v1/models says
    also_serves: tuple[str, ...] = ()  # further names of the model
    adapters: tuple[str, ...] = ()  # LoRA adapters of it
    dp_size: int = 1
    tells_dp_size: bool = True
    rank_header: bool = True  # X-Data-Parallel-Rank is read, and wins over the body
    engine: EngineConfig = EngineConfig()
    faults: tuple[Fault, ...] = ()
    keep_alive_seconds: float = 5.0
    health_seconds: float = 0.0
    cache_report: bool = False
    metrics: bool = True
    incremental_output: bool = False
    get_load: bool = True
    api_key: str | None = None
    request_id_header: bool = False
    part: Part | None = None
    """Which half of an engine it is; None for a whole one."""


class BadRequest(Exception):
    """The engine's answer is an error in the shape of the route."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


class Call:
    """One request while it is being answered."""

    def __init__(self, worker: Worker, request: Request, record: Record) -> None:
        self.worker = worker
        self.request = request
        self.record = record
        self.fault: Fault | None = None
        self.body: shapes.Json = {}
        self.jobs: list[Job] = []

    @property
    def model(self) -> str:
        """The model the client asked for, else the one served."""
        return str(self.body.get("model") or self.worker.config.model)

    def rid(self) -> str:
        """The engine's id of this request: the body's `rid`, else a new one."""
        rid = self.body.get("rid")
        if isinstance(rid, str):
            return rid
        if self.worker.config.request_id_header and (given := self.request.header("x-request-id")):
            return given
        return f"{self.worker.random.getrandbits(128):032x}"

    def submit(self, rid: str, prompt: Prompt, max_tokens: int | None, index: int = 0) -> Job:
        """Hand a sequence to the engine; it is dropped when this call ends."""
        if self.worker.config.part == "prefill":
            max_tokens = 1
        rank = self.record.dp_rank
        if rank is not None and rank >= self.worker.config.dp_size:
            raise BadRequest(f"data_parallel_rank={rank} is out of range")
        try:
            job = self.worker.pacer.submit(rid, prompt, max_tokens, index)
        except QueueFull:
            raise BadRequest("The request queue is full.", 503) from None
        job.dp_rank = rank
        self.jobs.append(job)
        self.record.rids.append(rid)
        return job

    @property
    def abort_after(self) -> int | None:
        """After how many tokens the engine is to abort by itself."""
        if self.fault and self.fault.kind == "polite_abort":
            return self.fault.after_events
        return None
