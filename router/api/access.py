"""Who may call what. Keys are compared in constant time and never leave this object."""

from __future__ import annotations

from collections.abc import Sequence
from hmac import compare_digest
from typing import Literal

from router.errors import Forbidden, InvalidKey

Level = Literal["open", "key", "admin", "delete"]


class Access:
    """`api_key` guards inference and traces, any of `admin_keys` the administration.

    Deleting traces needs a key to be set at all: an open router must not lose its records to
    anyone who can reach it.
    """

    def __init__(self, api_key: str | None, admin_keys: Sequence[str]) -> None:
        self._admin = tuple(key.encode() for key in admin_keys)
        # Who may administrate may also ask.
        self._user = () if api_key is None else (api_key.encode(), *self._admin)

    def asks(self, level: Level) -> bool:
        """Whether a key is asked for."""
        return level != "open" and bool(self._user if level == "key" else self._admin)

    def check(self, level: Level, authorization: str | None) -> None:
        """Raises InvalidKey (401) or Forbidden (403)."""
        if level == "open":
            return
        wanted = self._user if level == "key" else self._admin
        if level == "delete" and not wanted:
            raise Forbidden("deleting traces needs --admin-api-key or --api-key to be set")
        if not wanted:
            return
        scheme, _, given = (authorization or "").partition(" ")
        presented = given.strip().encode("utf-8", "surrogateescape")
        matches = [compare_digest(presented, key) for key in wanted]
        if scheme.lower() != "bearer" or not any(matches):
            raise InvalidKey("missing or wrong API key: expected 'Authorization: Bearer KEY'")
