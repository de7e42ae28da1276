"""The client for scripts and notebooks: plain blocking calls.

It stands on http.client: importing it starts no loop and no thread, and it works where a loop runs
already, as in a notebook. A connection for each question makes it safe to share between threads.
"""

from __future__ import annotations

import http.client
import os
import ssl
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

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

TIMEOUT_SECONDS: Final = 10.0
# A tail says something every 15 s.
SILENCE_SECONDS: Final = 45.0
PIECE_BYTES: Final = 1 << 16
TROUBLE: Final = (OSError, http.client.HTTPException)


def warn_of_dropped(notice: Notice) -> None:
    """What a tail does with notices unless told otherwise."""
    if notice.what == "dropped":
        count = "some" if notice.count is None else notice.count
        warnings.warn(f"{count} events of the tail are missing", stacklevel=3)


class SyncTraceClient:
    """See the package. Methods raise ClientError: Refused (and NotFound), Unreachable.

    `urls` are those of one fleet's routers or of a balancer before them. `api_key` is what the router
    was given as --api-key, or --admin-api-key for deletion. `ca_file` (PEM) is for routers whose
    certificate no public authority has signed.
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
        self._tls = ssl.create_default_context(cafile=ca_file)
        self._timeout_seconds = timeout_seconds

    def get(self, request_id: str) -> FullTrace:
        """A trace by request id, record key or engine id. Raises NotFound."""
        return read(self._ask(one("GET", request_id)), FullTrace)

    def batch(self, request_ids: Sequence[str]) -> list[FullTrace]:
        """The traces of any number of ids, in the order asked; ids that nobody knows are absent."""
        found: list[FullTrace] = []
        for start in range(0, len(request_ids), MAX_BATCH):
            answer = self._ask(batch(request_ids[start : start + MAX_BATCH]))
            found += read(answer, list[FullTrace])
        return found

    def list(self, **parameters: Value | None) -> Iterator[FullTrace]:
        """Traces, newest first, from all pages. Parameters are those of GET /v1/traces (see
        docs/traces.md) but `fields`, for which there is `rows`; `limit` bounds all pages together.
        """
        if parameters.get("fields"):
            raise ValueError("list() makes whole traces: use rows(fields=...)")
        return map(full, self.rows(**parameters))

    def rows(self, **parameters: Value | None) -> Iterator[Row]:
        """`list` as plain dictionaries, as a DataFrame takes them."""
        left = parameters.pop("limit", None)
        if left is not None and not isinstance(left, int):
            raise ValueError("limit must be an integer")
        size = MAX_BATCH if left is None else min(left, MAX_BATCH)
        for page in self.pages(**parameters, limit=size):
            rows = page.rows if left is None else page.rows[:left]
            yield from rows
            if left is not None:
                left -= len(rows)
                if left <= 0:
                    return

    def pages(self, **parameters: Value | None) -> Iterator[TracePage]:
        """The same page by page, `limit` traces each."""
        ask: Ask | None = query("GET", "", parameters)
        while ask is not None:
            page = read_page(self._ask(ask))
            yield page
            ask = page.next

    def stats(
        self,
        window: str | None = None,
        by: str | Sequence[str] | None = None,
        series: bool | None = None,
    ) -> Stats:
        """Counts of what is held; with `window` ("15m") or `by` (node, model, policy, route) also
        rates and percentiles, with `series` those of each minute, or hour, as well."""
        asked = {"window": window, "by": by, "series": series}
        return read(self._ask(query("GET", "/stats", asked)), Stats)

    def delete(self, request_id: str) -> int:
        """Delete what is held under an id; how many. Needs the admin key. Raises NotFound."""
        return read(self._ask(one("DELETE", request_id)), Deleted).deleted

    def delete_session(self, session_id: str) -> int:
        """Delete what is held of a session; how many. Needs the admin key."""
        if not session_id:
            raise ValueError("expected the id of a session")
        asked = query("DELETE", "", {"session_id": session_id})
        return read(self._ask(asked), Deleted).deleted

    def clear(self) -> int:
        """Delete all traces of the fleet; how many. Needs the admin key."""
        return read(self._ask(query("DELETE", "", {})), Deleted).deleted

    def tail(
        self,
        *,
        on_notice: Callable[[Notice], object] = warn_of_dropped,
        last_event_id: str = "",
        **filters: Value | None,
    ) -> Iterator[FullTrace]:
        """Traces as their status changes, for ever, over as many connections as it takes.

        Raises ClientError when the first connection cannot be made, or a later one is refused.
        """
        tailing = Tailing(filters, last_event_id)
        begun = False
        while True:
            try:
                for piece in self._stream(tailing.ask(), SILENCE_SECONDS):
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
            time.sleep(tailing.pause_seconds())

    def export(self, format: str = "ndjson", **filters: Value | None) -> Iterator[bytes]:
        """Every match, in pieces as they come. Raises ClientError when it is cut off."""
        asked = query("GET", "/export", {"format": format, **filters})
        try:
            yield from self._stream(asked, SILENCE_SECONDS)
        except TROUBLE as error:
            raise ClientError(f"the export was cut off: {error}") from error

    def export_to(
        self, path: str | os.PathLike[str], format: str = "ndjson", **filters: Value | None
    ) -> int:
        """Every match into a file, which appears when it is whole; its size in bytes."""
        target = Path(path)
        part = target.with_name(target.name + ".part")
        try:
            with part.open("wb") as file:
                size = sum(file.write(piece) for piece in self.export(format, **filters))
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        return size

    # -- sending -------------------------------------------------------------------------------

    def _ask(self, ask: Ask) -> Answer:
        """The answer of the first router that can give one."""
        turn = self._replicas.turn()
        for url in turn:
            try:
                with closing(self._connect(url, self._timeout_seconds)) as connection:
                    response = self._send(connection, url, ask)
                    answer = _answer(response, response.read())
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

    def _stream(self, ask: Ask, silence_seconds: float) -> Iterator[bytes]:
        """The body of the first router that begins one, piece by piece. What breaks it is raised."""
        turn = self._replicas.turn()
        for url in turn:
            with closing(self._connect(url, self._timeout_seconds)) as connection:
                try:
                    response = self._send(connection, url, ask)
                    if response.status >= 400:
                        answer = _answer(response, response.read())
                        if answer.status not in TRY_ANOTHER:
                            raise error_of(answer)
                        turn.refused(url, answer)
                        continue
                except TROUBLE as error:
                    turn.failed(url, error)
                    continue
                if connection.sock is not None:
                    connection.sock.settimeout(silence_seconds)
                while piece := response.read1(PIECE_BYTES):
                    yield piece
                return
        raise turn.give_up()

    def _connect(self, url: str, timeout_seconds: float) -> http.client.HTTPConnection:
        parts = urlsplit(url)
        assert parts.hostname is not None
        if parts.scheme == "https":
            return http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=timeout_seconds, context=self._tls
            )
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_seconds)

    def _send(
        self, connection: http.client.HTTPConnection, url: str, ask: Ask
    ) -> http.client.HTTPResponse:
        headers = self._headers | ask.headers
        if ask.body is not None:
            headers["Content-Type"] = "application/json"
        connection.request(ask.method, urlsplit(url).path + ask.target, ask.body, headers)
        return connection.getresponse()


def _answer(response: http.client.HTTPResponse, body: bytes) -> Answer:
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers, body)


def passes(error: ClientError) -> bool:
    """Whether it may be over in a while: then a tail goes on trying."""
    return getattr(error, "status", 503) in TRY_ANOTHER
