"""`/_sim/...`: change the faults, see what was received. No fault ever hits these paths."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from tests.sim.connection import Request
from tests.sim.faults import FaultError, parse_fault
from tests.sim.send import Answer, json_answer

if TYPE_CHECKING:
    from tests.sim.worker import Worker


async def answer(worker: Worker, request: Request) -> Answer:
    match request.method, request.path:
        case "GET", "/_sim/requests":
            return json_answer(worker.records.list(request.query.get("path")))
        case "DELETE", "/_sim/requests":
            worker.records.clear()
            return json_answer({"ok": True})
        case "GET", "/_sim/state":
            return json_answer(_state(worker))
        case "GET", "/_sim/faults":
            return json_answer(worker.board.faults)
        case "POST", "/_sim/faults":
            return await _replace_faults(worker, await request.read())
    if request.method == "POST" and request.path.startswith("/_sim/rooms/"):
        room = worker.rooms.of(int(request.path.rpartition("/")[2]))
        room.arrived.set()
        await room.done.wait()
        return json_answer({"ok": True})
    return json_answer({"error": f"no {request.method} {request.path}"}, 404)


async def _replace_faults(worker: Worker, raw: bytes) -> Answer:
    """A fault, or a list of them; an empty list for none."""
    try:
        given = msgspec.json.decode(raw)
        faults = [parse_fault(spec) for spec in (given if isinstance(given, list) else [given])]
    except (msgspec.DecodeError, FaultError) as error:
        return json_answer({"error": str(error)}, 400)
    worker.board.replace(faults)
    await worker.apply_faults()
    return json_answer(faults)


def _state(worker: Worker) -> dict[str, object]:
    """`active`: requests not answered yet, on any path; `running` and `waiting`: in the engine."""
    engine = worker.engine
    return {
        "active": worker.active,
        "running": engine.running,
        "waiting": engine.waiting,
        "waiting_tokens": engine.waiting_tokens,
        "cache_blocks": len(engine.cache),
        "prompt_tokens": engine.prompt_tokens_seen,
        "cached_tokens": engine.cached_tokens_seen,
        "output_tokens": engine.tokens_emitted,
        "connections": len(worker.connections) - 1,  # without the one that asks
        "control_hits": [record.path for record in worker.records.list() if record.control],
    }
