"""Every key in Redis, who may find what under it, and how long it lives.

All keys of a fleet carry one hash tag, `{fleet}`, so they lie in one slot of a cluster and one script
can touch them together. Scores are arrival times in microseconds, as strings. *lifetime* is the
retention in force plus a slack of 120 s for clocks, for the collection of rubbish, and because
expiries after a write are renewed once a second.

    key                    type    what                                          lives
    r:<key>                string  meta LF row LF detail (`scripts/_common.lua`)  arrival + lifetime
    all                    zset    keys of all records                            lifetime after write
    node:<node>            zset    the same, by worker                            lifetime after write
    status:<status>        zset    the same, by status                            lifetime after write
    session:<session>      zset    the same, by session                           lifetime after write
    id:<request id>        zset    keys under a client's request id               lifetime after write
    engine:<engine id>     zset    keys under an engine's id not made of ours     lifetime after write
    nodes-seen             zset    node names, by newest arrival                  lifetime after write
    minute:<epoch>:<n>     hash    finished requests of a minute: r:<route>,      lifetime + 1 h
    hour:<epoch>:<n>       hash    p:<policy>, m:<model>; #r, #p, #m: how many    lifetime + 1 h
    minute:<epoch>:<n>:<k> hash   sums of the same by name, of kind k: all,       4 h
    hour:<epoch>:<n>:<k>   hash   node, model, policy, route (`sums.py`)        lifetime + 1 h
    ended                  list   lines of finished requests to be summed up    lifetime after write
    open:<owner>           set     keys of a replica's unfinished requests        lifetime after write
    owners                 set     replicas that have had an `open` set           lifetime after write
    feed                   stream  rows as they change, the last 10,000, while    5 min after the
                                   somebody tails; ids <epoch>-<number>           last tail
    settings               hash    cap, ttl, floor, epoch, since, old_ttl, ...    lifetime after beat
    replicas               zset    owners, by last heartbeat                      lifetime after beat
    replica:<owner>        hash    cap, ttl, schema, urls, started, static of a   its lease
                                   live replica; load, load_at, load_changed
    prefixes               stream  which worker holds which prefixes              1 h after write
    prefixes-bytes         string  bytes ever told there: the ids of its entries  1 h after write
    workers                set     identities (URLs) of workers changed by API    for ever
    worker:<identity>      hash    added, deleted (µs), joined, what was said     for ever; a deleted
                                                                                  one 30 days
    workers-version        string  when (µs) a list of workers last changed       for ever
    workers-epoch          string  made anew where the data was lost              for ever
    nodes                  hash    URL -> "a name" or "c name" (chosen)           for ever
    total                  string  requests ever tracked                          for ever
    schema                 string  version of the record format                   for ever
"""

from __future__ import annotations

import re
from typing import Final

SCHEMA: Final = 1
LEASE_SECONDS: Final = 3.0
INDEX_TEXT_BYTES: Final = 200  # longer names are cut in indexes, so that a meta line stays small

PATTERNS: Final = (
    "r:", "all", "node:", "status:", "session:", "id:", "engine:", "nodes-seen", "minute:", "hour:",
    "ended", "open:", "owners", "feed", "settings", "replicas", "replica:", "nodes", "total",
    "schema", "prefixes", "prefixes-bytes", "workers", "worker:", "workers-version",
    "workers-epoch",
)  # fmt: skip
WITHOUT_EXPIRY: Final = frozenset({"nodes", "total", "schema", "workers-version"})

_FLEET = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SEPARATORS = bytes.maketrans(b"\t\n\r", b"   ")


class Keys:
    """The keys of one fleet that are named outside the scripts.

    Raises ValueError for a fleet name that is not 1 to 64 of `A-Z a-z 0-9 . _ -`.
    """

    __slots__ = ("all", "fleet", "prefix", "replicas")

    def __init__(self, fleet: str) -> None:
        if not _FLEET.fullmatch(fleet):
            raise ValueError(f"fleet name {fleet!r}: 1 to 64 letters, digits, dots, _ and - only")
        self.fleet = fleet
        self.prefix = "{%s}:" % fleet
        self.all = self.prefix + "all"
        self.replicas = self.prefix + "replicas"

    def replica(self, owner: str) -> str:
        return f"{self.prefix}replica:{owner}"


def index_text(value: str | None) -> bytes:
    """`value` as part of a key or of a meta line: bounded, without separators, always bytes."""
    if not value:
        return b""
    return value.encode("utf-8", "replace")[:INDEX_TEXT_BYTES].translate(_SEPARATORS)
