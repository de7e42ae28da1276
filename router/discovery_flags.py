"""The settings of discovery: a part of `Config`."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from router.flag_types import NotEmpty, Positive, parse_worker_url
from router.flags import Flag

DISCOVERY: Final = "Discovery of workers"


class DiscoveryFlags(msgspec.Struct, frozen=True, kw_only=True):
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
