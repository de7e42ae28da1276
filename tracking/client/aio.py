"""The client for asyncio, on aiohttp. Method for method the same as SyncTraceClient."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import aiohttp

from tracking.client.asking import (
    MAX_BATCH,
    TRY_ANOTHER,
    Answer,
    Ask,
    ClientError,
    Replicas,
    Value,
    batch,
    error_of,
    one,
    query,
)
from tracking.client.blocking import SILENCE_SECONDS, TIMEOUT_SECONDS, passes, warn_of_dropped
from tracking.client.events import Notice, Tailing
from tracking.client.results import (
    Deleted,
    FullTrace,
    Row,
    Stats,
    TracePage,
    full,
    read,
    read_page,
)

TROUBLE: Final = (aiohttp.ClientError, OSError)  # TimeoutError is one of the latter


class TraceClient:
    """`async with TraceClient("http://localhost:30009") as client: ...`

    Arguments and errors are those of SyncTraceClient. Iterators that are left early should be closed
    (contextlib.aclosing), above all tails.
    """

    def __init__(
        self,
        *urls: str,
        api_key: str | None = None,
        ca_file: str | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self._replicas = Replicas(urls)
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._ca_file = ca_file
        self._timeout_seconds = timeout_seconds
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        tls = ssl.create_default_context(cafile=self._ca_file)
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            connector=aiohttp.TCPConnector(ssl=tls),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, request_id: str) -> FullTrace:
        """A trace by request id, record key or engine id. Raises NotFound."""
        return read(await self._ask(one("GET", request_id)), FullTrace)

    async def batch(self, request_ids: Sequence[str]) -> list[FullTrace]:
        """The traces of any number of ids, in the order asked; ids that nobody knows are absent."""
        found: list[FullTrace] = []
        for start in range(0, len(request_ids), MAX_BATCH):
            answer = await self._ask(batch(request_ids[start : start + MAX_BATCH]))
            found += read(answer, list[FullTrace])
        return found

    async def list(self, **parameters: Value | None) -> AsyncGenerator[FullTrace, None]:
        """See SyncTraceClient.list."""
        if parameters.get("fields"):
            raise ValueError("list() makes whole traces: use rows(fields=...)")
        async for row in self.rows(**parameters):
            yield full(row)

    async def rows(self, **parameters: Value | None) -> AsyncGenerator[Row, None]:
        """See SyncTraceClient.rows."""
        left = parameters.pop("limit", None)
        if left is not None and not isinstance(left, int):
            raise ValueError("limit must be an integer")
        size = MAX_BATCH if left is None else min(left, MAX_BATCH)
        async for page in self.pages(**parameters, limit=size):
            rows = page.rows if left is None else page.rows[:left]
            for row in rows:
                yield row
            if left is not None:
                left -= len(rows)
                if left <= 0:
                    return

    async def pages(self, **parameters: Value | None) -> AsyncGenerator[TracePage, None]:
        """See SyncTraceClient.pages."""
        ask: Ask | None = query("GET", "", parameters)
        while ask is not None:
            page = read_page(await self._ask(ask))
            yield page
            ask = page.next

    async def stats(
        self,
        window: str | None = None,
        by: str | Sequence[str] | None = None,
        series: bool | None = None,
    ) -> Stats:
        """See SyncTraceClient.stats."""
        asked = {"window": window, "by": by, "series": series}
        return read(await self._ask(query("GET", "/stats", asked)), Stats)

    async def delete(self, request_id: str) -> int:
        """Delete what is held under an id; how many. Needs the admin key. Raises NotFound."""
        return read(await self._ask(one("DELETE", request_id)), Deleted).deleted

    async def delete_session(self, session_id: str) -> int:
        """Delete what is held of a session; how many. Needs the admin key."""
        if not session_id:
            raise ValueError("expected the id of a session")
        asked = query("DELETE", "", {"session_id": session_id})
        return read(await self._ask(asked), Deleted).deleted

    async def clear(self) -> int:
        """Delete all traces of the fleet; how many. Needs the admin key."""
        return read(await self._ask(query("DELETE", "", {})), Deleted).deleted

    async def tail(
        self,
        *,
        on_notice: Callable[[Notice], object] = warn_of_dropped,
        last_event_id: str = "",
        **filters: Value | None,
    ) -> AsyncGenerator[FullTrace, None]:
        """See SyncTraceClient.tail."""
        tailing = Tailing(filters, last_event_id)
        begun = False
        while True:
            try:
                async with aclosing(self._stream(tailing.ask())) as pieces:
                    async for piece in pieces:
                        begun = True
                        for told in tailing.feed(piece):
                            if isinstance(told, Notice):
                                on_notice(told)
                            else:
                                yield told
                trouble = "the router ended it"
            except ClientError as error:
                if not begun or not passes(error):
                    raise
                trouble = str(error)
            except TROUBLE as error:
                trouble = str(error) or type(error).__name__
            on_notice(Notice("reconnecting", message=trouble))
            await asyncio.sleep(tailing.pause_seconds())

    async def export(
        self, format: str = "ndjson", **filters: Value | None
    ) -> AsyncGenerator[bytes, None]:
        """See SyncTraceClient.export."""
        asked = query("GET", "/export", {"format": format, **filters})
        try:
            async with aclosing(self._stream(asked)) as pieces:
                async for piece in pieces:
                    yield piece
        except TROUBLE as error:
            raise ClientError(f"the export was cut off: {error}") from error

    async def export_to(
        self, path: str | os.PathLike[str], format: str = "ndjson", **filters: Value | None
    ) -> int:
        """See SyncTraceClient.export_to."""
        target = Path(path)
        part = target.with_name(target.name + ".part")
        size = 0
        try:
            with part.open("wb") as file:
                async for piece in self.export(format, **filters):
                    size += file.write(piece)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        return size

    # -- sending -------------------------------------------------------------------------------

    async def _ask(self, ask: Ask) -> Answer:
        """The answer of the first router that can give one."""
        timeout = aiohttp.ClientTimeout(total=self._timeout_seconds)
        turn = self._replicas.turn()
        for url in turn:
            try:
                async with self._request(url, ask, timeout) as response:
                    answer = await _answer(response)
            except TROUBLE as error:
                turn.failed(url, error)
                continue
            if answer.status in TRY_ANOTHER:
                turn.refused(url, answer)
            elif answer.status >= 400:
                raise error_of(answer)
            else:
                return answer
        raise turn.give_up()

    async def _stream(self, ask: Ask) -> AsyncGenerator[bytes, None]:
        """The body of the first router that begins one, piece by piece. What breaks it is raised."""
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self._timeout_seconds, sock_read=SILENCE_SECONDS
        )
        turn = self._replicas.turn()
        for url in turn:
            try:
                response = await self._request(url, ask, timeout)
            except TROUBLE as error:
                turn.failed(url, error)
                continue
            async with response:
                if response.status < 400:
                    async for piece in response.content.iter_any():
                        yield piece
                    return
                answer = await _answer(response)
            if answer.status not in TRY_ANOTHER:
                raise error_of(answer)
            turn.refused(url, answer)
        raise turn.give_up()

    def _request(
        self, url: str, ask: Ask, timeout: aiohttp.ClientTimeout
    ) -> aiohttp.client._RequestContextManager:
        if self._session is None:
            raise RuntimeError("use it as `async with TraceClient(...) as client`")
        headers = dict(ask.headers)
        if ask.body is not None:
            headers["Content-Type"] = "application/json"
        return self._session.request(
            ask.method,
            url + ask.target,
            data=ask.body,
            headers=headers,
            timeout=timeout,
            allow_redirects=False,
        )


async def _answer(response: aiohttp.ClientResponse) -> Answer:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Answer(response.status, headers, await response.read())
