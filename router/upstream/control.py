"""Small calls to workers beside the requests that are forwarded: ask, flush, abort.

One session for all workers. Every call has a time limit and a limit on what is read.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine, Iterable
from typing import Final, NamedTuple, TypeVar

import aiohttp

from router.core.worker import Worker

CALL_SECONDS: Final = 5.0
MAX_BODY_BYTES: Final = 1 << 20
AT_ONCE: Final = 64  # workers asked at the same time by one fan-out

T = TypeVar("T")


class ControlFailed(Exception):
    """The worker did not answer. The message says why, in words for a person."""


class Reply(NamedTuple):
    """A worker's whole answer, whatever its status."""

    status: int
    content_type: str
    body: bytes


class Control:
    """`start`, `call` as often as needed, `close`. `tls` is for workers behind https."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, keepalive_timeout=2, ssl=True if self._tls is None else self._tls
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def call(
        self,
        worker: Worker,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        timeout_seconds: float = CALL_SECONDS,
        max_bytes: int = MAX_BODY_BYTES,
    ) -> Reply:
        """Send `body` (JSON) to a worker, with its key. Raises ControlFailed."""
        assert self._session is not None, "not started"
        headers = {} if body is None else {"Content-Type": "application/json"}
        if worker.api_key is not None:
            headers["Authorization"] = f"Bearer {worker.api_key}"
        try:
            async with self._session.request(
                method,
                worker.url.rstrip("/") + path,
                data=body,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout_seconds),
            ) as response:
                content = bytearray()
                async for piece in response.content.iter_any():
                    content += piece
                    if len(content) > max_bytes:
                        raise ControlFailed(f"{path} answered more than {max_bytes} bytes")
                kind = response.headers.get("Content-Type", "application/octet-stream")
                return Reply(response.status, kind, bytes(content))
        except TimeoutError:
            raise ControlFailed(f"no answer to {path} in {timeout_seconds:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise ControlFailed(str(error) or type(error).__name__) from None

    async def call_good(
        self, worker: Worker, method: str, path: str, *, body: bytes | None = None
    ) -> Reply:
        """`call`, where another status than 2xx is a failure too."""
        reply = await self.call(worker, method, path, body=body)
        if not 200 <= reply.status < 300:
            raise ControlFailed(f"{path} answered {reply.status}")
        return reply


async def of_each(
    workers: Iterable[Worker], ask: Callable[[Worker], Coroutine[object, object, T]]
) -> list[tuple[Worker, T | ControlFailed]]:
    """What `ask` gets from each worker, asked together, in the order given."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(worker: Worker) -> tuple[Worker, T | ControlFailed]:
        async with turn:
            try:
                return worker, await ask(worker)
            except ControlFailed as failure:
                return worker, failure

    return await asyncio.gather(*(one(worker) for worker in workers))
