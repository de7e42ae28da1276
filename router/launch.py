"""The router, started from Python."""

from __future__ import annotations

import os
from collections.abc import Mapping

from router.config import Config
from router.configure import differing, from_keywords


class Router:
    """A router with the settings given; every flag is a keyword under its underscored name.

    What is not given comes from the environment (`TRACE_ROUTER_<FLAG>`), else the default. Raises
    TypeError for an unknown keyword and ConfigError (a ValueError) for settings that cannot be
    used.

        Router(worker_urls=["http://localhost:30005"], policy=PolicyType.CacheAware).start()
    """

    def __init__(self, **settings: object) -> None:
        self.config: Config = from_keywords(settings, os.environ)

    @classmethod
    def from_args(cls, args: object) -> Router:
        """A router from an argparse namespace, or from sglang-router's RouterArgs.

        Takes what is one of our settings and differs from its default; leaves the rest.
        """
        values: Mapping[str, object] = vars(args)
        given = differing(values)
        keys = given.get("control_plane_api_keys")
        if isinstance(keys, list):
            given["control_plane_api_keys"] = [_admin_key(key) for key in keys]
        return cls(**given)

    def start(self) -> None:
        """Serve until SIGINT or SIGTERM, and return after a clean stop.

        Raises SystemExit with the exit status when the router could not start or stop cleanly.
        """
        from router.cli import serve

        if (status := serve(self.config)) != 0:
            raise SystemExit(status)


def _admin_key(key: object) -> object:
    # RouterArgs holds (id, name, key, role); the flag is id:name:role:key.
    if isinstance(key, tuple) and len(key) == 4:
        identity, name, secret, role = key
        return f"{identity}:{name}:{role}:{secret}"
    return key
