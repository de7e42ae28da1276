"""The counts of all processes of one router, whichever of them is scraped.

Each process offers its families on a unix socket in a directory that the supervisor made. A scrape
asks all of them and gives every sample the label `process`. One that does not answer is left out: its
counts are missing for as long as it is, as if it were another replica.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec
from prometheus_client.core import Metric

log = logging.getLogger("router.metrics")

ANSWER_SECONDS: Final = 1.0
SUFFIX: Final = ".metrics"


class Sample(msgspec.Struct, array_like=True):
    name: str
    labels: dict[str, str]
    value: float


class Told(msgspec.Struct, array_like=True):
    """One family of one process."""

    name: str
    help: str
    kind: str
    samples: list[Sample]


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(list[Told]).decode


class Siblings:
    """`collect` gives this process's own families; `number` is its name among its siblings."""

    def __init__(
        self, directory: str, number: int, collect: Callable[[], Iterable[Metric]]
    ) -> None:
        self._directory = Path(directory)
        self._number = number
        self._collect = collect
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Offer what is counted here. Raises OSError."""
        path = self._path(self._number)
        path.unlink(missing_ok=True)  # of one that was killed
        self._server = await asyncio.start_unix_server(self._tell, path)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._path(self._number).unlink(missing_ok=True)

    async def families(self) -> list[Metric]:
        """Those of all processes, each sample with its `process`."""
        paths = sorted(self._directory.glob(f"*{SUFFIX}"))
        others = [path for path in paths if path != self._path(self._number)]
        told = await asyncio.gather(*map(self._ask, others))
        by_process = {path.stem: families for path, families in zip(others, told, strict=True)}
        by_process[str(self._number)] = self._own()
        return merged(by_process)

    def _own(self) -> list[Told]:
        return [
            Told(
                family.name,
                family.documentation,
                family.type,
                [Sample(s.name, dict(s.labels), float(s.value)) for s in family.samples],
            )
            for family in self._collect()
        ]

    async def _tell(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_encode(self._own()))
        writer.close()

    async def _ask(self, path: Path) -> list[Told]:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reader, writer = await asyncio.open_unix_connection(path)
                try:
                    return _decode(await reader.read())
                finally:
                    writer.close()
        except (OSError, TimeoutError, msgspec.DecodeError) as error:
            log.warning("process %s does not tell what it counted: %r", path.stem, error)
            return []

    def _path(self, number: int) -> Path:
        return self._directory / f"{number}{SUFFIX}"


def merged(by_process: dict[str, Sequence[Told]] | dict[str, list[Told]]) -> list[Metric]:
    """One family for each name; the order is that of the first process."""
    families: dict[str, Metric] = {}
    for process, told in sorted(by_process.items()):
        for one in told:
            family = families.get(one.name)
            if family is None:
                family = families[one.name] = Metric(one.name, one.help, one.kind)
            for sample in one.samples:
                family.add_sample(sample.name, sample.labels | {"process": process}, sample.value)
    return list(families.values())
