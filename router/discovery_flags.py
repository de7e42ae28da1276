"""The settings of discovery: a part of `Config`."""

from __future__ import annotations

import re
from typing import Annotated, Final

from msgspec import Meta

from router.flag_types import NotEmpty, Positive, parse_worker_url
from router.flags import ConfigError, Flag
from router.limit_flags import LimitFlags

DISCOVERY: Final = "Discovery of workers"
SELECTOR: Final = re.compile(r"[A-Za-z0-9./_-]+=[A-Za-z0-9._-]*")
SERVICE_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"

WorkerPort = Annotated[int, Meta(ge=1, le=65535)]


def parse_selector(text: str) -> str:
    """A label that pods must have."""
    if SELECTOR.fullmatch(text) is None:
        raise ConfigError(f"expected labels as KEY=VALUE, got {text!r}")
    return text


class DiscoveryFlags(LimitFlags, frozen=True, kw_only=True):
    """Where workers are looked for, beside those that are named; see docs/discovery.md."""

    discovery_file: Annotated[
        NotEmpty | None,
        Flag(
            DISCOVERY,
            "JSON file that lists workers; followed as it changes, and what cannot be read changes "
            "nothing.",
            metavar="PATH",
        ),
    ] = None
    discovery_dns: Annotated[
        tuple[str, ...],
        Flag(
            DISCOVERY,
            "Names that stand for workers, as http://NAME:PORT: each address is one, as with a "
            "headless Service of Kubernetes.",
            metavar="URL",
            parse=parse_worker_url,
        ),
    ] = ()
    discovery_dns_interval_secs: Annotated[
        Positive, Flag(DISCOVERY, "Between two times that a name is resolved.")
    ] = 10
    service_discovery: Annotated[
        bool, Flag(DISCOVERY, "Pods of Kubernetes are workers, those of the selectors.")
    ] = False
    selector: Annotated[
        tuple[str, ...],
        Flag(
            DISCOVERY,
            "Labels of the pods that are workers, each KEY=VALUE; a pod needs all.",
            metavar="KEY=VALUE",
            parse=parse_selector,
        ),
    ] = ()
    prefill_selector: Annotated[
        tuple[str, ...],
        Flag(DISCOVERY, "The same of prefill workers.", metavar="KEY=VALUE", parse=parse_selector),
    ] = ()
    decode_selector: Annotated[
        tuple[str, ...],
        Flag(DISCOVERY, "The same of decode workers.", metavar="KEY=VALUE", parse=parse_selector),
    ] = ()
    service_discovery_port: Annotated[WorkerPort, Flag(DISCOVERY, "Port that they serve on.")] = 80
    service_discovery_namespace: Annotated[
        NotEmpty | None, Flag(DISCOVERY, "Namespace of the pods; all when not given.")
    ] = None
    bootstrap_port_annotation: Annotated[
        NotEmpty,
        Flag(DISCOVERY, "Annotation of prefill pods that names their bootstrap port."),
    ] = "sglang.ai/bootstrap-port"
    kubernetes_api_url: Annotated[
        NotEmpty | None,
        Flag(
            DISCOVERY,
            "Where the API of Kubernetes is, from outside of it: http://127.0.0.1:8001 with kubectl "
            "proxy. Inside, every pod is told.",
        ),
    ] = None
    kubernetes_credentials: Annotated[
        NotEmpty,
        Flag(
            DISCOVERY,
            "Directory with the token and the certificate (ca.crt) for it.",
            metavar="DIR",
        ),
    ] = SERVICE_ACCOUNT
