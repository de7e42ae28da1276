"""The settings of discovery: a part of `Config`."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from router.flag_types import NotEmpty
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
