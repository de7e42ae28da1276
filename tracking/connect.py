"""How the store is reached: one URL says it all.

    redis://[USER:PASSWORD@]HOST[:PORT][/DB]               one server
    unix://[USER:PASSWORD@]/PATH[?db=N]                    one server on this machine
    redis+sentinel://[USER:PASSWORD@]HOST[:PORT],.../MASTER[/DB]
                                                           the master of that name, as sentinels say
    redis+cluster://[USER:PASSWORD@]HOST[:PORT],...        a cluster, found through any of its nodes

`rediss` in place of `redis` is TLS, for sentinels too. Options behind `?` have redis-py's names:
`OPTIONS` has those that may be given.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

Client: TypeAlias = Redis | RedisCluster
Settings: TypeAlias = dict[
    str, Any
]  # as redis-py's constructors take them, which differ by version

SOCKET_SECONDS: Final = 1.0  # a server that is silent for so long has gone: look for another
SENTINEL_SECONDS: Final = 0.5  # several are asked in turn within one call
MOST_CONNECTIONS: Final = 64  # of one process; the store's own calls need at most a quarter
# What a call raises when its server is gone or answers with an error. RuntimeError is what uvloop says
# where the server closed a connection just before a command is written to it.
FAILURES: Final = (RedisError, OSError, TimeoutError, RuntimeError)
OPTIONS: Final = (
    "db", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname", "ssl_cert_reqs",
    "sentinel_username", "sentinel_password",
)  # fmt: skip
_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_PORTS: Final = {"single": 6379, "cluster": 6379, "sentinel": 26379}


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """A URL, taken apart. `hosts` are servers, cluster nodes or sentinels; empty with `path`."""

    kind: Literal["single", "sentinel", "cluster"]
    hosts: tuple[tuple[str, int], ...]
    path: str | None
    master: str
    db: int
    username: str | None
    password: str | None
    tls: bool
    options: dict[str, str]


def parse(url: str) -> Address:
    """Raises ValueError, which never repeats the URL: it may hold a password."""
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    kind = kind or "single"
    if scheme not in ("redis", "rediss", "unix") or kind not in _PORTS:
        raise ValueError(
            "the store's URL must begin with redis://, rediss://, unix://, redis+sentinel:// or"
            " redis+cluster://"
        )
    if scheme == "unix" and kind != "single":
        raise ValueError(f"the store's URL: unix+{kind} does not exist")
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    username, password, hosts = _authority(parts.netloc, _PORTS[kind], needed=scheme != "unix")
    # What redis-py takes for unix sockets.
    username, password = options.pop("username", username), options.pop("password", password)
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise ValueError(
            f"the store's URL: unknown option {', '.join(unknown)}; known are {', '.join(OPTIONS)}"
        )
    master, db = "", parts.path.strip("/")
    if kind == "sentinel":
        master, _, db = db.partition("/")
        if not master:
            raise ValueError(
                "the store's URL: sentinels need the name of the master,"
                " redis+sentinel://HOST:PORT,HOST:PORT/MASTER"
            )
    if scheme == "unix":
        db = ""
    db = options.pop("db", db) or "0"
    if not db.isdecimal():
        raise ValueError(f"the store's URL: the database must be a number, not {db!r}")
    if kind == "cluster" and db != "0":
        raise ValueError("the store's URL: a cluster has database 0 only")
    return Address(
        kind=kind,  # type: ignore[arg-type]  # one of _PORTS
        hosts=hosts,
        path=unquote(parts.path) if scheme == "unix" else None,
        master=unquote(master),
        db=int(db),
        username=username or None,
        password=password or None,
        tls=scheme == "rediss",
        options=options,
    )


def _authority(
    netloc: str, port: int, *, needed: bool
) -> tuple[str | None, str | None, tuple[tuple[str, int], ...]]:
    login, _, names = netloc.rpartition("@")
    username, _, password = login.partition(":")
    hosts = []
    for name in filter(None, names.split(",")):
        try:
            one = urlsplit(f"//{name}")
            hosts.append((unquote(one.hostname or "localhost"), one.port or port))
        except ValueError:
            raise ValueError(
                "the store's URL: expected HOST:PORT, and /, @, : and % of a password as %2F, %40,"
                " %3A and %25"
            ) from None
    if needed and not hosts:
        hosts = [("localhost", port)]
    return unquote(username), unquote(password), tuple(hosts)


def connect(url: str) -> Client:
    """A client of the store at `url`, that does not decode. Does not connect yet.

    A call on it may take the time of several tries: bound it. Raises ValueError for a URL that
    cannot be used, or that names a file which is not there.
    """
    address = parse(url)
    # RESP3 would be two round trips more before the first call, and says nothing we need.
    common: Settings = {
        "protocol": 2,
        "decode_responses": False,
        "username": address.username,
        "password": address.password,
        "socket_timeout": SOCKET_SECONDS,
        "socket_connect_timeout": SOCKET_SECONDS,
    }
    tls = _tls(address)
    if address.kind == "cluster":
        nodes = [ClusterNode(host, port) for host, port in address.hosts]
        return RedisCluster(
            startup_nodes=nodes,
            ssl=address.tls,
            max_connections=MOST_CONNECTIONS,
            retry=Retry(NoBackoff(), 2),
            **common,
            **tls,
        )
    # A pooled connection may have died with the server of before: that is worth one more try. All
    # else is for the callers, who know what waiting would cost.
    common["retry"] = Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))
    common["db"] = address.db
    if address.kind == "sentinel":
        return _through_sentinels(address, common, tls)
    if address.path is not None:
        common |= {"path": address.path, "connection_class": UnixDomainSocketConnection}
    else:
        common["host"], common["port"] = address.hosts[0]
        if address.tls:
            common |= {"connection_class": SSLConnection, **tls}
    return Redis.from_pool(ConnectionPool(max_connections=MOST_CONNECTIONS, **common))


def _through_sentinels(address: Address, common: Settings, tls: Settings) -> Redis:
    asking = {
        "username": address.options.get("sentinel_username"),
        "password": address.options.get("sentinel_password"),
        "protocol": 2,
        "socket_timeout": SENTINEL_SECONDS,
        "socket_connect_timeout": SENTINEL_SECONDS,
        "retry": Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        "ssl": address.tls,
        **tls,
    }
    sentinel = Sentinel(address.hosts, sentinel_kwargs=asking)  # type: ignore[no-untyped-call]
    master: Redis = sentinel.master_for(
        address.master, max_connections=MOST_CONNECTIONS, ssl=address.tls, **common, **tls
    )
    return master


def _tls(address: Address) -> Settings:
    given: Settings = {
        name: value for name, value in address.options.items() if name.startswith("ssl_")
    }
    if given and not address.tls:
        raise ValueError("the store's URL: ssl_ options need rediss")
    for name in _FILES:
        path = given.get(name)
        if path is not None and not os.path.isfile(str(path)):
            raise ValueError(f"the store's URL: {name}={path} is not a file")
    if "ssl_check_hostname" in given:
        given["ssl_check_hostname"] = str(given["ssl_check_hostname"]).lower() in (
            "1",
            "true",
            "yes",
        )
    if given.get("ssl_cert_reqs") == "none":
        given["ssl_check_hostname"] = False
    return given


async def close(client: Client) -> None:
    """Close `client` and what it used to find its servers."""
    await client.aclose()
    if isinstance(client, Redis):
        manager = getattr(client.connection_pool, "sentinel_manager", None)
        if isinstance(manager, Sentinel):
            await asyncio.gather(*(one.aclose() for one in manager.sentinels))
