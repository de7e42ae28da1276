"""Workers behind one name, such as a headless Service: each address that it resolves to is one.

A name that stands for both kinds of addresses stands for each worker twice, so those of IPv6 count only
where there are none of IPv4. Names without any address and servers that do not answer look alike to
us: both change nothing.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from router.core.worker import normalise_worker_url
from router.discovery.source import Found, Report

RESOLVE_SECONDS: Final = 10.0

Address = tuple[int, str]  # family, address


async def resolve(host: str) -> list[Address]:
    """All addresses of a name. Raises OSError."""
    loop = asyncio.get_running_loop()
    answers = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [(family, str(where[0])) for family, _, _, _, where in answers]


class DnsSource:
    """Resolves the host of `url` every `interval_seconds`. Raises WorkerUrlError."""

    def __init__(self, url: str, interval_seconds: float) -> None:
        parts = urlsplit(normalise_worker_url(url))
        self._scheme, self._host, self._port = parts.scheme, parts.hostname or "", parts.port
        self._interval_seconds = interval_seconds
        self.name = f"dns:{self._host}:{self._port}"

    async def run(self, report: Report) -> None:
        while True:
            try:
                async with asyncio.timeout(RESOLVE_SECONDS):
                    addresses = await resolve(self._host)
            except TimeoutError:
                report.failed(f"does not resolve within {RESOLVE_SECONDS:g} s")
            except OSError as error:
                report.failed(f"does not resolve: {error.strerror or error}")
            else:
                report.found([self._worker(address) for address in one_kind(addresses)])
            await asyncio.sleep(self._interval_seconds)

    def _worker(self, address: str) -> Found:
        host = f"[{address}]" if ":" in address else address
        return Found(f"{self._scheme}://{host}:{self._port}", self.name)


def one_kind(addresses: Iterable[Address]) -> list[str]:
    """Each once, in order; IPv6 only where there is nothing else."""
    known = set(addresses)
    found = {address for family, address in known if family == socket.AF_INET}
    return sorted(found or {address for _, address in known})
