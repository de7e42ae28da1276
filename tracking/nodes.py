"""The names of this replica's workers: bound to their URLs in the store, the same at every replica.

Without the store, names are provisional: chosen ones, else `worker-<i>`. When it comes back, what is
bound there wins.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from tracking.store import NodeNameTaken, TraceStore
from tracking.view import StoreUnavailable

log = logging.getLogger("tracking.nodes")


class NodeNames:
    """URL → node name, in the order the URLs were listed."""

    def __init__(self, store: TraceStore, owner: str) -> None:
        self._store = store
        self._owner = owner
        self._names: dict[str, str] = {}
        self._chosen: set[str] = set()  # URLs whose name a person chose
        self.provisional = False

    @property
    def urls(self) -> list[str]:
        return list(self._names)

    def names(self) -> dict[str, str]:
        """URL → name, as known now."""
        return dict(self._names)

    async def add(
        self, urls: Sequence[str], chosen: Mapping[str, str], *, reachable: bool
    ) -> list[str]:
        """List more URLs, some with chosen names; the name of each. Raises NodeNameTaken."""
        names = {**self._names}
        for url, name in chosen.items():
            other = next((u for u, n in chosen.items() if n == name and u != url), None)
            if other is not None:
                raise NodeNameTaken(
                    f"node name {name!r} is given to two workers: {url} and {other}"
                )
        names |= {url: chosen[url] for url in urls if url in chosen}
        for url in urls:
            if url not in names:
                # Pencilled in at its place; the store may know another name for it.
                names[url] = _free([*self._names, *urls].index(url), names, chosen)
        proposals = [(url, name, url in chosen) for url, name in names.items()]
        # What was provisional before stays so until `reconcile`, which tells what has changed.
        reachable = reachable and not self.provisional
        if reachable:
            try:
                bound = await self._store.bind_nodes(self._owner, proposals)
                names |= {url: name for url, name in zip(names, bound, strict=True) if url in urls}
            except StoreUnavailable:
                reachable = False
        if not reachable:
            self.provisional = True
            log.warning("no trace store yet: the names of the workers are provisional")
        self._names = names
        self._chosen |= chosen.keys() & names.keys()
        return [names[url] for url in urls]

    def remove(self, urls: Sequence[str]) -> None:
        """List these URLs no more; their names are freed when nothing held names them."""
        for url in urls:
            self._names.pop(url, None)
            self._chosen.discard(url)

    async def reconcile(self, bound: Mapping[str, str | None]) -> dict[str, str]:
        """Take over what is `bound` in the store by URL, bind what is not: the changed ones.

        Raises StoreUnavailable.
        """
        if self._names == {url: bound.get(url) for url in self._names}:
            self.provisional = False
            return {}
        proposals = [
            (url, name, url in self._chosen and bound.get(url) is None)
            for url, name in self._names.items()
        ]
        try:
            names = await self._store.bind_nodes(self._owner, proposals)
        except NodeNameTaken as error:
            log.error("%s; that worker gets another name here", error)
            names = await self._store.bind_nodes(
                self._owner, [(url, proposed, False) for url, proposed, _ in proposals]
            )
        changed: dict[str, str] = {}
        for (url, before, _), name in zip(proposals, names, strict=True):
            if name != before and url in self._names:
                log.warning("worker %s is now called %s, before %s", url, name, before)
                self._names[url] = changed[url] = name
        self.provisional = False
        return changed


def renaming(before: Mapping[str, str], after: Mapping[str, str]) -> Callable[[str], str]:
    """From node names of `before` to those of `after` (both by URL); `name@rank` follows `name`."""
    table = {before[url]: name for url, name in after.items() if url in before}

    def rename(node_id: str) -> str:
        name, at, rank = node_id.partition("@")
        return table.get(name, name) + at + rank

    return rename


def _free(start: int, names: Mapping[str, str], chosen: Mapping[str, str]) -> str:
    taken = {*names.values(), *chosen.values()}
    while (name := f"worker-{start}") in taken:
        start += 1
    return name
