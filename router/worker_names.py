"""The names that the configuration gives to its workers."""

from __future__ import annotations

from urllib.parse import urlsplit

from router.config import Config
from router.core.membership import Listed
from router.core.worker import normalise_worker_url
from router.flags import ConfigError


def worker_names(config: Config) -> list[tuple[Listed, str | None]]:
    """Each worker as configured, with the name asked for it, in order.

    None leaves the name to the registry (`worker-0`, `worker-1`, ...). Raises ConfigError for a
    worker given twice, two workers for one name, two workers on one port of `--port-gpu-mapping`
    (each time naming both), more `--node-ids` than workers, and the name `none`.
    """
    workers, ids = config.static_workers, config.node_ids
    if len(ids) > len(workers):
        raise ConfigError(f"--node-ids: {ids[len(workers)]!r} is one name more than workers")
    lists = "--prefill and --decode" if config.pd_disaggregation else "--worker-urls"
    owners: dict[str, str] = {}
    named: list[tuple[Listed, str | None]] = []
    for index, listed in enumerate(workers):
        url = listed.url
        parts = urlsplit(normalise_worker_url(url))
        mapped = config.port_gpu_mapping.get(parts.port or 0)
        name = ids[index] if index < len(ids) else mapped
        if mapped not in (None, name):
            raise ConfigError(
                f"{url} is named {name!r} by --node-ids and {mapped!r} by --port-gpu-mapping"
            )
        if name == "none":
            raise ConfigError(f"{url}: 'none' cannot name a worker")
        claims = [f"{lists}: {parts.scheme}://{parts.netloc.lower()}"]
        if mapped is not None:
            claims.append(f"--port-gpu-mapping: port {parts.port}")
        claims.append(f"the name {name or f'worker-{index}'!r}")
        for claim in claims:
            if claim in owners:
                raise ConfigError(f"{claim} is claimed by two workers, {owners[claim]} and {url}")
            owners[claim] = url
        named.append((listed, name))
    return named
