"""Pods of Kubernetes, and which of them are workers. Does no I/O.

Of a pod only what decides is decoded. A pod is known by its namespace and name, never by its address,
which the next pod may have: a deletion that was missed, and a pod that got the address of one before,
cannot take each other's worker away.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from router.core.worker import Role
from router.discovery.source import Found
from router.member import Details

PORTS: Final = range(1, 65536)


class ObjectMeta(msgspec.Struct, rename="camel"):
    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    annotations: dict[str, str] | None = None


class Condition(msgspec.Struct):
    type: str
    status: str


class PodStatus(msgspec.Struct):
    phase: str | None = None
    pod_ip: str | None = msgspec.field(default=None, name="podIP")
    conditions: list[Condition] | None = None


class Pod(msgspec.Struct):
    metadata: ObjectMeta
    status: PodStatus = msgspec.field(default_factory=PodStatus)

    @property
    def ready(self) -> bool:
        """Does Kubernetes send it requests? A Service would: it runs, is ready, and is not leaving."""
        return (
            self.metadata.deletion_timestamp is None
            and self.status.phase == "Running"
            and bool(self.status.pod_ip)
            and any(c.type == "Ready" and c.status == "True" for c in self.status.conditions or ())
        )


class Selected(msgspec.Struct, frozen=True):
    """What the pods of one selector are. `bootstrap_annotation` names the port of prefill workers."""

    role: Role
    port: int
    bootstrap_annotation: str


class BadAnnotation(ValueError):
    """A pod says what cannot be meant. The message names it."""


class Pods:
    """The pods of one selector, as a list and the events after it tell."""

    def __init__(self) -> None:
        self._pods: dict[tuple[str, str], Pod] = {}

    def replace(self, pods: Iterable[Pod]) -> None:
        """These are all there are."""
        self._pods = {(pod.metadata.namespace, pod.metadata.name): pod for pod in pods}

    def apply(self, what: Literal["ADDED", "MODIFIED", "DELETED"], pod: Pod) -> None:
        """Something happened to one. The deletion of a pod that has a successor is old news."""
        key = (pod.metadata.namespace, pod.metadata.name)
        if what != "DELETED":
            self._pods[key] = pod
        elif key in self._pods and self._pods[key].metadata.uid == pod.metadata.uid:
            del self._pods[key]

    def ready(self) -> list[Pod]:
        """Those that are workers; where two have one address the younger comes first."""
        ready = [pod for pod in self._pods.values() if pod.ready]
        ready.sort(key=lambda pod: (pod.metadata.namespace, pod.metadata.name))
        ready.sort(key=lambda pod: pod.metadata.creation_timestamp or "", reverse=True)
        return ready


def worker_of(pod: Pod, selected: Selected) -> Found:
    """The worker that a ready pod is. Raises BadAnnotation."""
    meta, address = pod.metadata, pod.status.pod_ip or ""
    host = f"[{address}]" if ":" in address else address
    return Found(
        f"http://{host}:{selected.port}",
        f"kubernetes:{meta.namespace}/{meta.name}",
        generation=f"{meta.uid}/{selected.role}",
        details=Details(worker_type=selected.role, bootstrap_port=_bootstrap_port(pod, selected)),
    )


def _bootstrap_port(pod: Pod, selected: Selected) -> int | None:
    text = (pod.metadata.annotations or {}).get(selected.bootstrap_annotation)
    if selected.role != "prefill" or text is None:
        return None
    if text.isascii() and text.isdecimal() and int(text) in PORTS:
        return int(text)
    raise BadAnnotation(
        f"pod {pod.metadata.namespace}/{pod.metadata.name}: {selected.bootstrap_annotation}: "
        f"expected a port, got {text[:40]!r}"
    )
