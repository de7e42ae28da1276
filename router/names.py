"""Who names workers: the tracker, where traces are kept, else this router by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class Names(Protocol):
    """Who names workers, the same at every replica. The tracker, where traces are kept."""

    async def bind_nodes(
        self, urls: Sequence[str], names: Mapping[str, str] | None = None
    ) -> list[str]: ...

    def forget_nodes(self, urls: Sequence[str]) -> None: ...


class LocalNames:
    """Names for a router that keeps no traces: worker-0, worker-1, ... unless chosen."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    async def bind_nodes(
        self, urls: Sequence[str], names: Mapping[str, str] | None = None
    ) -> list[str]:
        self._names |= names or {}
        for place, url in enumerate(urls, len([u for u in self._names if u not in urls])):
            if url not in self._names:
                taken = set(self._names.values())
                while (name := f"worker-{place}") in taken:
                    place += 1
                self._names[url] = name
        return [self._names[url] for url in urls]

    def forget_nodes(self, urls: Sequence[str]) -> None:
        for url in urls:
            self._names.pop(url, None)
