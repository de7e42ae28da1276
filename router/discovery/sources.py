"""The sources that the settings ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random

from router.core.worker import Role
from router.discovery.dns import DnsSource
from router.discovery.file import FileSource
from router.discovery.kubernetes import ApiServer, KubernetesSource
from router.discovery.pods import Selected
from router.discovery.source import Source
from router.discovery_flags import DiscoveryFlags
from router.flags import ConfigError


def sources_of(
    settings: DiscoveryFlags,
    environ: Mapping[str, str],
    random: Random,
    now: Callable[[], float],
) -> list[Source]:
    """In the order in which they are believed where two list the same worker.

    Raises ConfigError for pods without a selector, or without an API to ask.
    """
    sources: list[Source] = []
    if settings.discovery_file is not None:
        sources.append(FileSource(settings.discovery_file))
    interval = settings.discovery_dns_interval_secs
    sources += [DnsSource(url, interval) for url in settings.discovery_dns]
    if settings.service_discovery:
        sources += _pods(settings, environ, random, now)
    return sources


def _pods(
    settings: DiscoveryFlags,
    environ: Mapping[str, str],
    random: Random,
    now: Callable[[], float],
) -> list[Source]:
    selectors: Sequence[tuple[Role, Sequence[str]]] = (
        ("prefill", settings.prefill_selector),
        ("decode", settings.decode_selector),
        ("regular", settings.selector),
    )
    url = settings.kubernetes_api_url or api_url(environ)
    if not any(labels for _, labels in selectors):
        raise ConfigError("--service-discovery: which pods? Give --selector KEY=VALUE")
    if url is None:
        raise ConfigError(
            "--service-discovery: this is no pod of Kubernetes (KUBERNETES_SERVICE_HOST is not "
            "set); give --kubernetes-api-url"
        )
    server = ApiServer(url, Path(settings.kubernetes_credentials))
    return [
        KubernetesSource(
            server,
            ",".join(labels),
            settings.service_discovery_namespace,
            Selected(role, settings.service_discovery_port, settings.bootstrap_port_annotation),
            random=random,
            now=now,
        )
        for role, labels in selectors
        if labels
    ]


def api_url(environ: Mapping[str, str]) -> str | None:
    """What Kubernetes tells every pod."""
    host = environ.get("KUBERNETES_SERVICE_HOST")
    if not host:
        return None
    port = environ.get("KUBERNETES_SERVICE_PORT_HTTPS") or environ.get("KUBERNETES_SERVICE_PORT")
    return f"https://{f'[{host}]' if ':' in host else host}:{port or 443}"
