"""Data-parallel ranks: targets of their own, with one engine behind them.

Each rank has its own scheduler and prefix cache, so load, breaker and prefixes are its own. The process
is one: health, draining, key and what is served are the engine's.
"""

from __future__ import annotations

from router.core.breaker import Breaker
from router.core.worker import Change, Worker


class Rank(Worker):
    """One rank of `engine`, a worker that takes no requests itself; named `NAME@RANK`."""

    __slots__ = ("process",)

    def __init__(
        self, engine: Worker, rank: int, breaker: Breaker, max_in_flight: int | None = None
    ) -> None:
        super().__init__(
            engine.url,
            f"{engine.node_id}@{rank}",
            api_key=engine.api_key,
            health=engine.health,
            breaker=breaker,
            max_in_flight=max_in_flight,
            role=engine.role,
            bootstrap_port=engine.bootstrap_port,
            rank=rank,
        )
        self.process = engine
        self.follow()
        engine.own_health()
        engine.listeners.append(self._engine_changed)
        self.drain(engine.draining)

    def follow(self) -> None:
        """The engine's name, its key, or what it says of itself may be another one now."""
        engine = self.process
        self.node_id = f"{engine.node_id}@{self.rank}"
        self.origin = engine.origin
        self.model_id, self.model_ids = engine.model_id, engine.model_ids
        self.adapters = engine.adapters
        self.engine, self.engine_version = engine.engine, engine.engine_version
        if engine.api_key != self.api_key:
            self.use_key(engine.api_key)

    def part(self) -> None:
        """The engine has this rank no more."""
        self.process.listeners.remove(self._engine_changed)
        self.drain()

    def _engine_changed(self, engine: Worker, change: Change) -> None:
        if change.what == "health":
            self._health_changed(change.before, change.after, change.reason)
        elif change.what == "draining":
            self.drain(engine.draining)
