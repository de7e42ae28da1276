"""Who may call what. Keys are compared in constant time and never leave this object."""

from __future__ import annotations

from hmac import compare_digest
from typing import Literal

from router.errors import Forbidden, InvalidKey

Level = Literal["open", "key", "admin", "delete"]


class Access:
    """`api_key` guards inference and traces, `admin_key` (or else `api_key`) the administration.

    Deleting traces needs a key to be set at all: an open router must not lose its records to
    anyone who can reach it.
    """

    def __init__(self, api_key: str | None, admin_key: str | None) -> None:
        self._key = None if api_key is None else api_key.encode()
        admin = admin_key if admin_key is not None else api_key
        self._admin = None if admin is None else admin.encode()

    @property
    def guarded(self) -> bool:
        """True when clients must send a key, so that theirs is not the worker's."""
        return self._key is not None

    def check(self, level: Level, authorization: str | None) -> None:
        """Raises InvalidKey (401) or Forbidden (403)."""
        if level == "open":
            return
        if level == "key":
            # Who may administrate may also ask.
            wanted = tuple(k for k in (self._key, self._admin) if k) if self._key else ()
        else:
            wanted = (self._admin,) if self._admin is not None else ()
            if level == "delete" and not wanted:
                raise Forbidden("deleting traces needs --admin-api-key or --api-key to be set")
        if not wanted:
            return
        scheme, _, given = (authorization or "").partition(" ")
        presented = given.strip().encode("utf-8", "surrogateescape")
        matches = [compare_digest(presented, key) for key in wanted]
        if scheme.lower() != "bearer" or not any(matches):
            raise InvalidKey("missing or wrong API key: expected 'Authorization: Bearer KEY'")
