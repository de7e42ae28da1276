"""Workers listed in a file, which is read again when it changes.

JSON: a list of workers, or an object with one under `workers`. A worker is its URL, or an object with
`url` and what `POST /workers` takes. Replace the file as a whole (write another, rename it), as
Kubernetes does with a mounted ConfigMap: what cannot be read or understood changes nothing.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

import msgspec

from router.core.membership import identity
from router.discovery.source import Found, Report
from router.member import Details, details_of

POLL_SECONDS: Final = 1.0
MOST_BYTES: Final = 4 << 20

Version = tuple[int, int, int]  # of a file: it is another one when any of them is


class Listed(Details, kw_only=True, forbid_unknown_fields=True):
    """One worker of the file."""

    url: str


class Listing(msgspec.Struct, forbid_unknown_fields=True):
    workers: list[Listed | str]


class FileSource:
    """Reads the file at `path`."""

    def __init__(self, path: str) -> None:
        self.name = f"file:{path}"
        self._path = Path(path)

    async def run(self, report: Report) -> None:
        seen: Version | None = None
        workers: list[Found] = []
        problem: str | None = None
        while True:
            try:
                version, text = await asyncio.to_thread(self._read_if_other, seen)
                if text is not None:
                    seen = version
                    workers, problem = read_workers(text, self.name), None
            except OSError as error:
                seen, problem = None, f"cannot be read: {error.strerror or error}"
            except ValueError as error:
                problem = str(error)
            if problem is None:
                report.found(workers)
            else:
                report.failed(problem)
            await asyncio.sleep(POLL_SECONDS)

    def _read_if_other(self, seen: Version | None) -> tuple[Version, bytes | None]:
        """The file's version, and its text unless that version was `seen`. Raises OSError."""
        with self._path.open("rb") as file:
            status = os.fstat(file.fileno())
            version = (status.st_mtime_ns, status.st_size, status.st_ino)
            return version, None if version == seen else file.read(MOST_BYTES + 1)


def read_workers(text: bytes, origin: str) -> list[Found]:
    """Raises ValueError, which says what is wrong where."""
    if len(text) > MOST_BYTES:
        raise ValueError(f"is larger than {MOST_BYTES} bytes")
    try:
        given = msgspec.json.decode(text, type=Listing | list[Listed | str])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(f"is not a list of workers: {error}") from None
    found: dict[str, Found] = {}
    for one in given.workers if isinstance(given, Listing) else given:
        url = one if isinstance(one, str) else one.url
        key = identity(url)
        if key in found:
            raise ValueError(f"worker {url} is listed twice")
        found[key] = Found(
            url, origin, details=Details() if isinstance(one, str) else details_of(one)
        )
    return list(found.values())
