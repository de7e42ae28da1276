"""Routers before simulated prefill and decode workers, all in this process.

async with pairs(prefills=2, decodes=1) as fleet:
    await fleet.prefills[0].fault("refuse")
    answer = await fleet.post("/generate", {"text": "hello"}, request_id="a")
    prefill, decode = fleet.attempts("a")
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec

from router.app import App
from router.core.disaggregation import PdProtocol
from router.core.worker import Worker
from router.flag_types import PrefillUrl
from router.policytype import PolicyType
from tests.running import Answer, InProcessWorker, Json, Records, call, running, sim_worker
from tests.sim.call import WorkerConfig
from tests.sim.faults import parse_fault
from tests.sim.pairing import Part
from tests.sim.records import Record
from tests.waiting import until
from tracking.lifecycle import LiveTrace
from tracking.trace import Attempt

PARTS: Mapping[PdProtocol, tuple[Part, Part]] = {
    "sglang": ("prefill", "decode"),
    "vllm": ("vllm-prefill", "vllm-decode"),
}
QUICK: Mapping[str, object] = {
    "retry_initial_backoff_ms": 5,
    "retry_max_retries": 3,
    "disable_health_check": True,
    "cb_failure_threshold": 1,
    "prefill_policy": PolicyType.RoundRobin,  # the first of each is asked first
    "decode_policy": PolicyType.RoundRobin,
}


class Half:
    """A simulated worker as the test and the router see it."""

    def __init__(self, there: InProcessWorker) -> None:
        self.url = there.url
        self.port = there.control_port
        self.sim = there.sim

    async def fault(self, *specs: str) -> None:
        self.sim.board.replace([parse_fault(spec) for spec in specs])
        await self.sim.apply_faults()

    @property
    def received(self) -> list[Record]:
        return [one for one in self.sim.records.list() if one.method == "POST"]

    def body(self, number: int = -1) -> Json:
        return msgspec.json.decode(self.received[number].body or "", type=Json)


class PairFleet:
    """One router and its workers."""

    def __init__(self, app: App, prefills: Sequence[Half], decodes: Sequence[Half]) -> None:
        self.app = app
        self.prefills = prefills
        self.decodes = decodes
        self.records = Records(app)

    async def post(self, path: str, body: object, *, request_id: str = "a") -> Answer:
        return await call(self.app, "POST", path, body, headers={"x-request-id": request_id})

    def trace(self, request_id: str = "a") -> LiveTrace:
        return self.records.live[request_id]

    def attempts(self, request_id: str = "a") -> list[Attempt]:
        return self.records.live[request_id].attempts

    def worker(self, half: Half) -> Worker:
        found = self.app.fleet.by_url(half.url)
        assert found is not None
        return found

    async def at_rest(self) -> None:
        """No engine works on anything, or waits for the other one."""
        await until(lambda: not any(h.sim.active for h in (*self.prefills, *self.decodes)))

    def blamed(self) -> list[Half]:
        """Those whose failure the router has counted: one is enough to open the breaker here."""
        halves = (*self.prefills, *self.decodes)
        return [half for half in halves if self.worker(half).breaker.state != "closed"]


@asynccontextmanager
async def pairs(
    prefills: int = 1,
    decodes: int = 1,
    protocol: PdProtocol = "sglang",
    configs: Mapping[Part, WorkerConfig] | None = None,
    **settings: object,
) -> AsyncIterator[PairFleet]:
    """`configs` are those of the workers of one part; `settings` are the router's."""
    async with AsyncExitStack() as stack:

        async def start(part: Part) -> Half:
            config = (configs or {}).get(part, WorkerConfig())
            config = msgspec.structs.replace(config, part=part)
            return Half(await stack.enter_async_context(sim_worker(config)))

        one, other = PARTS[protocol]
        first = [await start(one) for _ in range(prefills)]
        second = [await start(other) for _ in range(decodes)]
        given = {
            "pd_disaggregation": True,
            "pd_protocol": protocol,
            "prefill": tuple(PrefillUrl(half.url, half.port) for half in first),
            "decode": tuple(half.url for half in second),
            **QUICK,
            **settings,
        }
        app = await stack.enter_async_context(running(**given))
        yield PairFleet(app, first, second)
