"""One simulated worker: a request from its arrival to its end."""

from __future__ import annotations

import asyncio
import socket
import time
from random import Random

import msgspec

from tests.sim import control, generating, routes, shapes
from tests.sim.call import BadRequest, Call, WorkerConfig
from tests.sim.connection import ClientGone, Connection, Request
from tests.sim.engine import Engine
from tests.sim.faults import FaultBoard, FaultError, parse_fault
from tests.sim.pacing import Pacer
from tests.sim.pairing import Refused, Rooms, check
from tests.sim.records import Records
from tests.sim.send import Answer, json_answer, send


class Worker:
    """Answers requests, on one port for all and optionally on another one for control only."""

    def __init__(self, config: WorkerConfig) -> None:
        self.config = config
        self.random = Random(config.engine.seed)
        self.engine = Engine(config.engine)
        self.pacer = Pacer(self.engine)
        self.board = FaultBoard(list(config.faults))
        self.records = Records()
        self.rooms = Rooms()
        self.active = 0
        self.connections: set[Connection] = set()
        self._connection_count = 0
        self._listeners: list[asyncio.Server] = []
        self._public: asyncio.Server | None = None
        self._address: tuple[str, int] | None = None

    # listening

    async def start(self, host: str, port: int, control_port: int | None = None) -> dict[str, int]:
        """Listen. Returns the ports in use."""
        ports = {}
        if control_port is not None:
            controls = await self._listen(host, control_port)
            self._listeners.append(controls)
            ports["control_port"] = controls.sockets[0].getsockname()[1]
        listener = await self._listen(host, port)
        self._address = (host, listener.sockets[0].getsockname()[1])
        ports["port"] = self._address[1]
        self._public = listener
        await self.apply_faults()
        return ports

    async def _listen(self, host: str, port: int) -> asyncio.Server:
        return await asyncio.get_running_loop().create_server(
            self._accept, host, port, backlog=4096, family=socket.AF_UNSPEC
        )

    def _accept(self) -> Connection:
        self._connection_count += 1
        return Connection(self._connection_count, self.serve, self._idle_seconds, self.connections)

    def _idle_seconds(self) -> float:
        if self.board.refusing:
            return 0.0
        seconds = self.board.idle_close_seconds
        return self.config.keep_alive_seconds if seconds is None else seconds

    async def apply_faults(self) -> None:
        """Listen or refuse, as the faults say."""
        assert self._address
        if self.board.refusing and self._public:
            self._public.close()
            self._public = None
            for connection in list(self.connections):
                if connection.idle:
                    connection.transport.close()
        elif not self.board.refusing and self._public is None:
            self._public = await self._listen(*self._address)

    async def close(self) -> None:
        for listener in [*self._listeners, *([self._public] if self._public else [])]:
            listener.close()
        for connection in list(self.connections):
            connection.transport.abort()

    # serving

    async def serve(self, connection: Connection, request: Request) -> None:
        """Answer one request. Raises ClientGone, and what its cancellation raises."""
        if request.path.startswith("/_sim/"):
            await send(connection, request, await control.answer(self, request), None)
            return
        record = self.records.open(request, time.time())
        call = Call(self, request, record)
        self.active += 1
        try:
            answer = await self._answer(call)
            record.status = answer.status
            record.fault = call.fault.kind if call.fault else None
            given = request.header("x-request-id")
            if self.config.request_id_header and given:
                answer.headers = (*answer.headers, ("x-request-id", given))
            record.outcome = await send(connection, request, answer, call.fault)
        except (asyncio.CancelledError, ClientGone):
            record.outcome = "disconnected"
            raise
        except Exception:
            record.outcome = "crashed"
            raise
        finally:
            self.active -= 1
            record.ended_at = time.time()
            record.aborted = any(job.finish == "abort" for job in call.jobs)
            for job in call.jobs:
                self.pacer.drop(job)

    async def _answer(self, call: Call) -> Answer:
        """What to say; may already have happened in part when this returns (streams)."""
        request = call.request
        inference = request.path in routes.INFERENCE
        try:
            header = request.header("x-sim-fault")
            call.fault = (
                parse_fault(header)
                if header
                else self.board.take(request.path, inference=inference)
            )
            if call.fault and call.fault.kind == "no_read":
                return _failure(call, call.fault.status, "")
            raw = await request.read()
            call.record.take_body(raw)
            if inference:
                call.body = _decode(raw)
                call.record.dp_rank = _dp_rank(call)
                if "sim" in call.body:
                    call.fault = parse_fault(call.body["sim"])
        except (FaultError, BadRequest) as error:
            return _failure(call, 400, str(error))
        if call.fault and call.fault.kind == "status":
            return _failure(call, call.fault.status, call.fault.message)
        key = self.config.api_key
        if key and inference and request.header("authorization") != f"Bearer {key}":
            return json_answer({"error": "Unauthorized"}, 401)
        try:
            if request.path in generating.SPLIT:
                check(call)
            return await routes.answer(call)
        except Refused as error:
            return _failure(call, 400, str(error))
        except BadRequest as error:
            return _failure(call, error.status, error.message)


def _dp_rank(call: Call) -> int | None:
    header = call.request.header("x-data-parallel-rank")
    if header is not None and call.worker.config.rank_header:
        return int(header)
    rank = call.body.get("routed_dp_rank", call.body.get("data_parallel_rank"))
    return rank if isinstance(rank, int) else None


def _decode(raw: bytes) -> shapes.Json:
    try:
        body = msgspec.json.decode(raw)
    except msgspec.DecodeError as error:
        raise BadRequest(f"JSON decode error: {error}") from None
    if not isinstance(body, dict):
        raise BadRequest("Input should be a valid dictionary")
    return body


def _failure(call: Call, status: int, message: str) -> Answer:
    native = not call.request.path.startswith("/v1/")
    answer = json_answer(
        shapes.native_error(message) if native else shapes.openai_error(status, message), status
    )
    if call.fault and call.fault.retry_after:
        answer.headers = (*answer.headers, ("retry-after", call.fault.retry_after))
    return answer
