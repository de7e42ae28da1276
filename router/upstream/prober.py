"""Active health checks, and what a worker says it serves.

Each worker has a task of its own, so that one that hangs delays nobody. A healthy worker is asked
every interval; any other one every second, so that a worker which finishes loading is taken at
once, and so is one that has not said yet what it serves. A worker that loses its health in traffic
is asked at once. Where a connection is refused nobody listens: that worker's process has ended, and
its cache with it. Not on the path of requests: the client here is aiohttp's, with a connection for
each check, because a check must find out whether one can be made.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import ssl
from collections.abc import Callable, Sequence
from random import Random
from typing import Final, NamedTuple

import aiohttp
import msgspec

from router.core.engines import QUESTIONS, Build, Identity, build, engine_named
from router.core.worker import Change, Worker
from router.tasks import Tasks

log = logging.getLogger("router.health")

EAGER_SECONDS: Final = 1.0
# Between the checks that confirm a recovery. SGLang takes a second for each, and the promise is
# that a worker is used within two seconds of its first good check.
CONFIRM_SECONDS: Final = 0.3
JITTER: Final = 0.1  # share of the interval: replicas must not all ask at the same moment
MAX_BODY_BYTES: Final = 1 << 20  # SGLang's server info is 40 KB
# A server that knows no such path is alive as far as anyone can tell; Ollama and many small servers
# have no /health. Should it fail at its real work, its breaker opens.
NO_SUCH_PATH: Final = frozenset((404, 405, 501))


class ProberSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`--health-check-*`. `learn_again`: ask with every check what a worker serves."""

    interval_seconds: float
    timeout_seconds: float
    endpoint: str
    learn_again: bool = False


class Watched:
    """A worker under observation."""

    __slots__ = ("_wake", "asked", "gone", "learned", "stop", "worker")

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.stop: Callable[[], object] | None = None
        self.asked = asyncio.Event()  # once it has been asked everything for the first time
        self.learned = False  # what it serves, since it was last unhealthy
        self.gone = False  # nobody listened there
        self._wake = asyncio.Event()
        worker.listeners.append(self.changed)

    def changed(self, worker: Worker, change: Change) -> None:
        """A listener of the worker."""
        if change.what == "health" and change.after != "healthy":
            self.learned = False
            self._wake.set()

    async def rest(self, seconds: float) -> None:
        """Wait so long, or until the worker's health is lost."""
        try:
            await asyncio.wait_for(self._wake.wait(), seconds)
        except TimeoutError:
            pass
        self._wake.clear()


class Prober:
    """Asks workers how they are and tells their `health`. `start`, `add` and `remove`, `close`.

    Workers without health checks are asked only what they serve. `tls` is the context for
    workers that are https. `restarted` is told of a worker that is there again after its process
    had ended, `learned` of one that has said what it serves, when that is not what was known.
    """

    def __init__(
        self,
        settings: ProberSettings,
        random: Random,
        *,
        tls: ssl.SSLContext | None = None,
        restarted: Callable[[Worker], None] = lambda _worker: None,
        learned: Callable[[Worker], None] = lambda _worker: None,
    ) -> None:
        self._settings = settings
        self._random = random
        self._tls = tls
        self._restarted = restarted
        self._learned = learned
        self._tasks = Tasks()
        self._watched: dict[Worker, Watched] = {}
        self._session: aiohttp.ClientSession | None = None

    async def start(self, workers: Sequence[Worker]) -> None:
        """Begin to ask, all at the same time."""
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=self._settings.timeout_seconds),
            connector=aiohttp.TCPConnector(
                limit=0, force_close=True, ssl=True if self._tls is None else self._tls
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        for worker in workers:
            self.add(worker)

    def add(self, worker: Worker) -> None:
        """Ask this one too, from now on. After `start`."""
        watched = self._watched[worker] = Watched(worker)
        watched.stop = self._tasks.spawn(self._watch(watched), f"check {worker.url}")

    def remove(self, worker: Worker) -> None:
        """Ask it no more. Nothing happens when it is not asked."""
        watched = self._watched.pop(worker, None)
        if watched is not None:
            worker.listeners.remove(watched.changed)
            watched.asked.set()
            if watched.stop is not None:
                watched.stop()

    async def first_round(self, deadline_seconds: float) -> None:
        """Wait until every worker has been asked once, at most so long."""
        asked = [watched.asked.wait() for watched in self._watched.values()]
        try:
            await asyncio.wait_for(asyncio.gather(*asked), deadline_seconds)
        except TimeoutError:
            silent = [w.worker.url for w in self._watched.values() if not w.asked.is_set()]
            log.warning(
                "%d workers did not answer within %g s: %s",
                len(silent),
                deadline_seconds,
                ", ".join(silent[:8]),
            )

    async def close(self) -> None:
        """Stop asking."""
        await self._tasks.cancel()
        if self._session is not None:
            await self._session.close()

    async def _watch(self, watched: Watched) -> None:
        worker = watched.worker
        while True:
            good = await self._check(watched) if worker.health.enabled else True
            if good and (self._settings.learn_again or not watched.learned):
                watched.learned = await self._learn(worker)
            watched.asked.set()
            await watched.rest(self._pause(watched, good))

    def _pause(self, watched: Watched, good: bool) -> float:
        seconds = self._settings.interval_seconds
        if not watched.worker.healthy:
            seconds = min(seconds, CONFIRM_SECONDS if good else EAGER_SECONDS)
        elif not watched.learned:
            seconds = min(seconds, EAGER_SECONDS)
        return seconds * (1 + self._random.uniform(-JITTER, JITTER))

    async def _check(self, watched: Watched) -> bool:
        worker = watched.worker
        endpoint = self._settings.endpoint
        try:
            status = (await self._get(worker, endpoint)).status
        except TimeoutError:
            problem = f"no answer to {endpoint} in {self._settings.timeout_seconds:g} s"
        except (aiohttp.ClientError, OSError) as error:
            problem = str(error) or type(error).__name__
            watched.gone = watched.gone or refused(error)
        else:
            if watched.gone:
                watched.gone = False
                self._restarted(worker)
            if 200 <= status < 300 or status in NO_SUCH_PATH:
                worker.health.probe_succeeded(f"{endpoint} answered {status}")
                return True
            problem = f"{endpoint} answered {status}"
        worker.health.probe_failed(problem)
        return False

    async def _learn(self, worker: Worker) -> bool:
        """Put on the worker what it says it is; False when it did not answer."""
        try:
            identity = await self._identity(worker)
            built = Build() if identity is None else await self._build(worker, identity.engine)
        except (aiohttp.ClientError, OSError):  # TimeoutError is one of the latter
            return False
        if identity is None:
            self._learned(worker)
            return True
        known = (worker.model_ids, worker.engine, worker.adapters)
        if (known, (worker.engine_version, worker.dp_size)) != (identity, built):
            worker.model_ids, worker.engine, worker.adapters = identity
            worker.model_id = identity.names[0]
            worker.engine_version, worker.dp_size = built
            self._learned(worker)
            told = " ".join(part for part in (identity.engine, built.version) if part is not None)
            log.info(
                "worker %s (%s) serves %s%s",
                worker.node_id,
                worker.url,
                ", ".join(identity.names[:8]),
                f" ({told})" if told else "",
            )
        return True

    async def _identity(self, worker: Worker) -> Identity | None:
        for path, read in QUESTIONS:
            answer = await self._get(worker, path)
            identity = read(answer.body, answer.server) if answer.status == 200 else None
            if identity is not None:
                return identity
        return None

    async def _build(self, worker: Worker, engine: str | None) -> Build:
        """What is known already where the engine does not say it now: its ranks must not come and go
        with one failed answer."""
        for path in engine_named(engine).version_paths:
            answer = await self._get(worker, path)
            if answer.status == 200:
                return build(answer.body)
        if engine != worker.engine:
            return Build()
        return Build(worker.engine_version, worker.dp_size)

    async def _get(self, worker: Worker, path: str) -> Reply:
        assert self._session is not None
        headers = {"Authorization": f"Bearer {worker.api_key}"} if worker.api_key else {}
        async with self._session.get(
            worker.url.rstrip("/") + path, headers=headers, allow_redirects=False
        ) as response:
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    break
            return Reply(response.status, bytes(body), response.headers.get("Server", ""))


def refused(error: Exception) -> bool:
    """Did nobody listen at the worker's port?"""
    return isinstance(error, OSError) and error.errno == errno.ECONNREFUSED


class Reply(NamedTuple):
    """An answer; its body is cut behind MAX_BODY_BYTES."""

    status: int
    body: bytes
    server: str
