"""The engine on the event loop: who waits for what, and when it is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from tests.sim.engine import Engine, Job, Prompt


class Pacer:
    """Runs an `Engine` in real time. Jobs are handed in and their tokens awaited."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._changed: dict[Job, asyncio.Event] = {}

    def now(self) -> float:
        return self._loop.time()

    def submit(self, rid: str, prompt: Prompt, max_tokens: int | None, index: int) -> Job:
        """Queue a job. Raises QueueFull."""
        job = self.engine.submit(rid, prompt, max_tokens, self.now(), index=index)
        self._changed[job] = asyncio.Event()
        self._advance()
        return job

    def drop(self, job: Job) -> None:
        """The request of `job` is over, however it ended."""
        self.engine.drop(job, self.now())
        self._changed.pop(job, None)
        self._advance()

    def abort(self, rid_prefix: str) -> list[Job]:
        """End jobs whose id begins so; their tokens end."""
        ended = self.engine.abort(rid_prefix, self.now())
        for job in ended:
            self._changed[job].set()
        self._advance()
        return ended

    def _advance(self) -> None:
        for job in self.engine.advance(self.now()):
            self._changed[job].set()
        if self._timer:
            self._timer.cancel()
        due = self.engine.next_prefill_end()
        self._timer = None if due is None else self._loop.call_at(due, self._advance)

    async def news(self, job: Job, *, abort_after: int | None = None) -> AsyncGenerator[None, None]:
        """Yields with each token of `job` and with its end; the last time `job.finish` is set.

        `abort_after` makes the engine abort the job by itself after so many tokens.
        """
        if job.finish is None:
            await self._changed[job].wait()  # prefilled, or aborted
            self._changed[job].clear()
        told = False
        while not told:
            if job.finish is None:
                await self._step(job, abort_after)
            told = job.finish is not None
            yield

    async def finished(self, job: Job, *, abort_after: int | None = None) -> None:
        """Until `job` has said all."""
        async for _ in self.news(job, abort_after=abort_after):
            pass

    async def _step(self, job: Job, abort_after: int | None) -> None:
        if job.emitted == abort_after:
            job.finish = "abort"
            self.engine.drop(job, self.now())
            return
        if job.words:
            await self._wait(job, self.engine.due_at(job) - self.now())
            if job.finish is not None:
                return
            self.engine.emit(job)
        if job.emitted == len(job.words):
            self.engine.complete(job, "stop" if job.unlimited else "length")

    async def _wait(self, job: Job, seconds: float) -> None:
        if seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await self._changed[job].wait()
            except TimeoutError:
                pass
