"""The settings of who may ask for what, and by which keys: a part of `Config`."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from router.flag_types import KEY_RULE, AdminKey, ApiKey, parse_admin_key
from router.flags import Flag

ACCESS: Final = "Access"


class AccessFlags(msgspec.Struct, frozen=True, kw_only=True):
    """Keys that clients and administrators must send, and the one that workers are sent."""

    api_key: Annotated[
        ApiKey | None,
        Flag(
            ACCESS,
            "Key that clients must send as 'Authorization: Bearer KEY'. Also sent to the workers "
            "of --worker-urls unless they have their own.",
            file_twin=True,
            secret=True,
            allowed=KEY_RULE,
        ),
    ] = None
    admin_api_key: Annotated[
        ApiKey | None,
        Flag(
            ACCESS,
            "Key for workers, cache flush and deletion; --api-key where not given.",
            file_twin=True,
            secret=True,
            allowed=KEY_RULE,
        ),
    ] = None
    worker_api_key: Annotated[
        ApiKey | None,
        Flag(
            ACCESS,
            "Key sent to the workers of --worker-urls; --api-key where not given.",
            file_twin=True,
            secret=True,
            allowed=KEY_RULE,
        ),
    ] = None
    control_plane_api_keys: Annotated[
        tuple[AdminKey, ...],
        Flag(
            ACCESS,
            "Further admin keys, ID:NAME:ROLE:KEY; role admin opens the admin routes, role user "
            "nothing more than --api-key. In the environment one a line.",
            secret=True,
            allowed="ID:NAME:ROLE:KEY with role admin or user",
            separator="\n",
            parse=parse_admin_key,
            metavar="ID:NAME:ROLE:KEY",
        ),
    ] = ()

    @property
    def static_worker_key(self) -> str | None:
        """The key sent to the workers of `worker_urls`."""
        return self.worker_api_key or self.api_key

    @property
    def admin_keys(self) -> tuple[str, ...]:
        """Each opens the admin routes; empty when there is no key at all."""
        own = self.admin_api_key or self.api_key
        keys = [key.key for key in self.control_plane_api_keys if key.role == "admin"]
        return (*([own] if own else ()), *keys)
