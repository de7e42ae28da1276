"""Stands for the API of Kubernetes as far as pods are listed and watched.

It keeps every event with its version and serves watches from there, as the real one does; and it does
wrong what real ones do: events that never come, connections cut, versions no longer kept, an answer
that takes for ever, another token.

    python -m tests.kubernetes_api PORT    # POST /_do/put, /_do/delete, ... with JSON arguments
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from aiohttp import web

Object = dict[str, Any]


def pod(
    name: str,
    ip: str,
    *,
    uid: str = "",
    ready: bool = True,
    phase: str = "Running",
    leaving: bool = False,
    created: str = "2026-01-01T00:00:00Z",
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    namespace: str = "llm",
) -> Object:
    """A pod as the API shows it, with fields that nobody asked for."""
    meta: Object = {
        "name": name,
        "namespace": namespace,
        "uid": uid or f"uid-{name}",
        "creationTimestamp": created,
        "labels": {"app": "vllm"} if labels is None else labels,
        "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}],
    }
    if annotations:
        meta["annotations"] = annotations
    if leaving:
        meta["deletionTimestamp"] = "2026-01-02T00:00:00Z"
    status: Object = {"phase": phase, "qosClass": "BestEffort"}
    if ip:
        status |= {"podIP": ip, "podIPs": [{"ip": ip}]}
    if phase == "Running":
        status["conditions"] = [
            {"type": "PodScheduled", "status": "True"},
            {"type": "Ready", "status": "True" if ready else "False"},
        ]
    return {"kind": "Pod", "metadata": meta, "spec": {"containers": []}, "status": status}


class KubernetesApi:
    """`put` and `delete` change pods; the rest makes trouble. `url` after `start`."""

    def __init__(self) -> None:
        self.pods: dict[str, Object] = {}
        self.token: str | None = None
        self.refusal: tuple[int, str] | None = None  # every call is answered like this
        self.requests: list[dict[str, str]] = []
        self.page: int | None = None  # pods in an answer, whatever was asked for
        self.silent = False  # answers do not come
        self.watch_seconds: float | None = None  # instead of those asked for
        self.url = ""
        self._log: list[tuple[int, str, Object]] = []
        self._version = 100
        self._oldest = 0
        self._changed = asyncio.Event()
        self._cuts = 0
        self._streams: set[web.StreamResponse] = set()
        self._runner: web.AppRunner | None = None

    # -- what happens ----------------------------------------------------------------------

    def put(self, one: Object, *, told: bool = True) -> None:
        """Add or change a pod; without `told` no watch ever says so."""
        name = one["metadata"]["name"]
        self._happen("MODIFIED" if name in self.pods else "ADDED", one, told)
        self.pods[name] = one

    def delete(self, name: str, *, told: bool = True) -> None:
        self._happen("DELETED", self.pods.pop(name), told)

    def bookmark(self) -> None:
        """Tell watches the version, and nothing else."""
        self._version += 1
        empty = {"kind": "Pod", "metadata": {}}
        self._happen("BOOKMARK", empty, True)

    def send(self, kind: str, body: Object) -> None:
        """An event as it is, to all that watch."""
        self._log.append((self._version, kind, body))
        self._wake()

    def forget_history(self) -> None:
        """Events of before are kept no longer: a watch from there is 410."""
        self._oldest = self._version + 1
        self._version += 1

    def cut(self) -> None:
        """Break the connection of every watch."""
        self._cuts += 1
        self._wake()

    @property
    def watches(self) -> int:
        return len(self._streams)

    def _happen(self, kind: str, one: Object, told: bool) -> None:
        self._version += 1
        one["metadata"]["resourceVersion"] = str(self._version)
        if told:
            self._log.append((self._version, kind, json.loads(json.dumps(one))))
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # -- what is served --------------------------------------------------------------------

    async def start(self, port: int = 0) -> None:
        app = web.Application()
        app.router.add_get("/api/v1/pods", self._pods)
        app.router.add_get("/api/v1/namespaces/{namespace}/pods", self._pods)
        app.router.add_post("/_do/{what}", self._do)
        self._runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def close(self) -> None:
        self.cut()
        assert self._runner is not None
        await self._runner.cleanup()

    async def _pods(self, request: web.Request) -> web.StreamResponse:
        query = dict(request.query)
        self.requests.append(query)
        given = request.headers.get("Authorization")
        if self.silent:
            await asyncio.sleep(3600)
        if self.token is not None and given != f"Bearer {self.token}":
            return self._no(401, "Unauthorized")
        if self.refusal is not None:
            return self._no(*self.refusal)
        if "watch" in query:
            return await self._watch(request, query)
        namespace = request.match_info.get("namespace")
        pods = sorted(
            (one for one in self.pods.values() if self._wanted(one, query, namespace)),
            key=lambda one: one["metadata"]["name"],
        )
        start = int(query.get("continue", "0"))
        end = start + (self.page or int(query.get("limit", "500")))
        meta = {"resourceVersion": str(self._version)}
        if end < len(pods):
            meta["continue"] = str(end)
        # Go shows an empty list as null.
        return web.json_response(
            {"kind": "PodList", "metadata": meta, "items": pods[start:end] or None}
        )

    async def _watch(self, request: web.Request, query: dict[str, str]) -> web.StreamResponse:
        since = int(query["resourceVersion"])
        stream = web.StreamResponse(headers={"Content-Type": "application/json"})
        await stream.prepare(request)
        if since < self._oldest:
            gone = {"kind": "Status", "code": 410, "message": "too old resource version"}
            await stream.write(_line("ERROR", gone))
            return stream
        self._streams.add(stream)
        place = 0
        seconds = self.watch_seconds or float(query["timeoutSeconds"])
        namespace = request.match_info.get("namespace")
        cuts = self._cuts
        try:
            async with asyncio.timeout(seconds):
                while cuts == self._cuts:
                    changed = self._changed
                    for version, kind, one in self._log[place:]:
                        place += 1
                        if version > since and self._wanted(one, query, namespace):
                            await stream.write(_line(kind, one))
                    await changed.wait()
        except (TimeoutError, ConnectionError):
            pass
        finally:
            self._streams.discard(stream)
        if cuts != self._cuts and request.transport is not None:
            request.transport.close()
        return stream

    def _wanted(self, one: Object, query: dict[str, str], namespace: str | None) -> bool:
        meta = one.get("metadata") or {}
        if "name" not in meta:
            return True
        wanted = dict(pair.split("=") for pair in query["labelSelector"].split(","))
        return wanted.items() <= meta["labels"].items() and namespace in (None, meta["namespace"])

    def _no(self, status: int, message: str) -> web.Response:
        body = {"kind": "Status", "status": "Failure", "code": status, "message": message}
        return web.json_response(body, status=status)

    async def _do(self, request: web.Request) -> web.Response:
        given = await request.json()
        what = request.match_info["what"]
        if what == "put":
            self.put(pod(**given))
        else:
            getattr(self, what)(**given)
        return web.json_response({"version": self._version})


def _line(kind: str, one: Object) -> bytes:
    return json.dumps({"type": kind, "object": one}).encode() + b"\n"


async def main(port: int) -> None:
    api = KubernetesApi()
    await api.start(port)
    print(json.dumps({"listening": api.url}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
