"""Workers that are pods of Kubernetes: a list, then what is told of changes, then a list again.

A round lists all pods of the selector and watches from there: a watch ends after half a minute and is
taken up where it ended, so that a connection which died in silence is noticed. After some minutes, and
whenever there is doubt (events that are no longer kept, a connection cut, an answer that makes no
sense), the next round lists again: what was missed is repaired then.

The token is read for each request, because Kubernetes replaces it; the certificate for each round.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from random import Random
from typing import Final

import aiohttp
import msgspec

from router.discovery.pods import BadAnnotation, Pod, Pods, Selected, worker_of
from router.discovery.source import Found, Report

log = logging.getLogger("router.discovery")

LIST_SECONDS: Final = 30.0
PAGE: Final = 500
WATCH_SECONDS: Final = 30
GRACE_SECONDS: Final = 10.0  # how much later than asked for a watch may end
RESYNC_SECONDS: Final = 300.0
PAUSE_SECONDS: Final = 1.0  # after a round that failed; doubles
MOST_PAUSE_SECONDS: Final = 30.0
MOST_EVENT_BYTES: Final = 8 << 20
GONE: Final = 410


class ListMeta(msgspec.Struct, rename={"resource_version": "resourceVersion", "more": "continue"}):
    resource_version: str = ""
    more: str = ""


class PodList(msgspec.Struct):
    metadata: ListMeta
    items: list[Pod] | None = None


class Status(msgspec.Struct):
    """How the API says no."""

    message: str | None = None
    code: int | None = None


class Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class Versioned(msgspec.Struct, rename="camel"):
    resource_version: str


class Bookmark(msgspec.Struct):
    """A pod of which nothing but the version is told."""

    metadata: Versioned


class ApiError(Exception):
    """The API said no, or what cannot be understood."""


class Gone(ApiError):
    """The events asked for are kept no longer."""


class ApiServer(msgspec.Struct, frozen=True):
    """Where the API is. `credentials` is a directory with `token` and `ca.crt`, either may be
    missing."""

    url: str
    credentials: Path

    def token(self) -> str | None:
        try:
            return (self.credentials / "token").read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return None

    def tls(self) -> ssl.SSLContext:
        """Raises OSError."""
        certificate = self.credentials / "ca.crt"
        return ssl.create_default_context(cafile=certificate if certificate.exists() else None)


class KubernetesSource:
    """The pods of one selector (`app=vllm,tier=a`) in one namespace, None for all."""

    def __init__(
        self,
        server: ApiServer,
        selector: str,
        namespace: str | None,
        selected: Selected,
        *,
        random: Random,
        now: Callable[[], float],
    ) -> None:
        self.name = f"kubernetes:{namespace or ''}/{selector}"
        self._server = server
        self._selector = selector
        space = "" if namespace is None else f"/namespaces/{namespace}"
        self._url = f"{server.url.rstrip('/')}/api/v1{space}/pods"
        self._selected = selected
        self._random = random
        self._now = now
        self._pods = Pods()
        self._version = ""
        self._told: set[str] = set()

    async def run(self, report: Report) -> None:
        failures = 0
        while True:
            try:
                await self._round(report)
                failures = 0
            except Gone:
                pause = PAUSE_SECONDS
            except (ApiError, aiohttp.ClientError, OSError, msgspec.MsgspecError) as error:
                report.failed(str(error) or f"does not answer ({type(error).__name__})")
                pause = min(PAUSE_SECONDS * 2**failures, MOST_PAUSE_SECONDS)
                failures += 1
            else:
                continue
            await asyncio.sleep(pause * self._random.uniform(0.5, 1.0))

    async def _round(self, report: Report) -> None:
        """List and watch for some minutes. Raises ApiError, ClientError, OSError, MsgspecError."""
        connector = None
        if self._url.startswith("https:"):
            connector = aiohttp.TCPConnector(ssl=await asyncio.to_thread(self._server.tls))
        async with aiohttp.ClientSession(connector=connector) as session:
            await self._list(session)
            report.found(self._workers())
            end = self._now() + RESYNC_SECONDS
            while self._now() < end:
                began = self._now()
                try:
                    async for event in self._watch(session):
                        self._take(event)
                        report.found(self._workers())
                except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError) as error:
                    raise Gone("the connection was cut") from error  # no failure if a list follows
                report.found(self._workers())
                if self._now() - began < PAUSE_SECONDS:  # a server that does not let us wait
                    await asyncio.sleep(PAUSE_SECONDS)

    async def _list(self, session: aiohttp.ClientSession) -> None:
        pods: list[Pod] = []
        more = ""
        while True:
            query = {"labelSelector": self._selector, "limit": str(PAGE)}
            if more:
                query["continue"] = more
            try:
                async with await self._get(session, query, LIST_SECONDS) as answer:
                    page = msgspec.json.decode(await answer.read(), type=PodList)
            except Gone as error:
                raise ApiError(f"the list broke off: {error}") from error
            pods += page.items or ()
            more = page.metadata.more
            if not more:
                break
        self._pods.replace(pods)
        self._version = page.metadata.resource_version

    async def _watch(self, session: aiohttp.ClientSession) -> AsyncIterator[Event]:
        query = {
            "labelSelector": self._selector,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        async with await self._get(session, query, WATCH_SECONDS + GRACE_SECONDS) as answer:
            rest = b""
            async for chunk in answer.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield msgspec.json.decode(line, type=Event)
                if len(rest) > MOST_EVENT_BYTES:
                    raise ApiError(f"an event is larger than {MOST_EVENT_BYTES} bytes")

    def _take(self, event: Event) -> None:
        match event.type:
            case "ADDED" | "MODIFIED" | "DELETED":
                pod = msgspec.json.decode(event.object, type=Pod)
                self._pods.apply(event.type, pod)
                self._version = pod.metadata.resource_version
            case "BOOKMARK":
                mark = msgspec.json.decode(event.object, type=Bookmark)
                self._version = mark.metadata.resource_version
            case "ERROR":
                raise problem(msgspec.json.decode(event.object, type=Status))

    def _workers(self) -> list[Found]:
        workers = []
        for pod in self._pods.ready():
            try:
                workers.append(worker_of(pod, self._selected))
            except BadAnnotation as error:
                if str(error) not in self._told:
                    self._told.add(str(error))
                    log.error("%s: left out: %s", self.name, error)
        return workers

    async def _get(
        self, session: aiohttp.ClientSession, query: Mapping[str, str], seconds: float
    ) -> aiohttp.ClientResponse:
        """An answer that says yes. Raises ApiError, ClientError, OSError."""
        token = await asyncio.to_thread(self._server.token)
        answer = await session.get(
            self._url,
            params=query,
            headers={} if token is None else {"Authorization": f"Bearer {token}"},
            timeout=aiohttp.ClientTimeout(total=seconds),
            allow_redirects=False,
        )
        if answer.status == 200:
            return answer
        async with answer:
            body = await answer.read()
        try:
            status = msgspec.json.decode(body, type=Status)
        except msgspec.MsgspecError:
            status = Status()
        raise problem(Status(status.message, answer.status))


def problem(status: Status) -> ApiError:
    text = status.message or "said no"
    if status.code == GONE:
        return Gone(text)
    return ApiError(text if status.code is None else f"answers {status.code}: {text}")
