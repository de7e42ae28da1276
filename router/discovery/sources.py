"""The sources that the settings ask for."""

from __future__ import annotations

from router.discovery.dns import DnsSource
from router.discovery.file import FileSource
from router.discovery.source import Source
from router.discovery_flags import DiscoveryFlags


def sources_of(settings: DiscoveryFlags) -> list[Source]:
    """In the order in which they are believed where two list the same worker."""
    sources: list[Source] = []
    if settings.discovery_file is not None:
        sources.append(FileSource(settings.discovery_file))
    interval = settings.discovery_dns_interval_secs
    sources += [DnsSource(url, interval) for url in settings.discovery_dns]
    return sources
