"""The URL of the store: what it may say, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster

from tracking.connect import close, connect, parse


def test_one_server_with_all_that_a_url_can_say():
    address = parse("rediss://me:p%40ss%2F@h:7000/3?ssl_cert_reqs=none")
    assert (address.kind, address.hosts, address.db, address.tls) == (
        "single", (("h", 7000),), 3, True,
    )  # fmt: skip
    assert (address.username, address.password) == ("me", "p@ss/")
    assert address.options == {"ssl_cert_reqs": "none"}


def test_what_is_left_out_has_redis_own_defaults():
    for url in ("redis://", "redis://localhost", "redis://localhost:6379/", "redis://:@localhost"):
        address = parse(url)
        assert (address.hosts, address.db, address.username) == ((("localhost", 6379),), 0, None)
    assert parse("redis+sentinel://s/m").hosts == (("s", 26379),)
    assert parse("redis+cluster://a,b:1").hosts == (("a", 6379), ("b", 1))
    assert parse("redis://[::1]:7/2").hosts == (("::1", 7),)


def test_a_unix_socket_may_have_a_database_and_a_login():
    address = parse("unix:///run/re%20dis.sock?db=2&username=u&password=p")
    assert (address.path, address.db) == ("/run/re dis.sock", 2)
    assert (address.username, address.password) == ("u", "p")


def test_sentinels_name_their_master_and_the_database():
    address = parse("redis+sentinel://:pw@a:1,b:2/traces/4?sentinel_password=x")
    assert (address.kind, address.hosts) == ("sentinel", (("a", 1), ("b", 2)))
    assert (address.master, address.db, address.password) == ("traces", 4, "pw")
    assert address.options == {"sentinel_password": "x"}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://h", "must begin with"),
        ("redis+socket://h", "must begin with"),
        ("unix+cluster:///s", "does not exist"),
        ("redis+sentinel://a,b", "need the name of the master"),
        ("redis+cluster://a/1", "database 0 only"),
        ("redis://h/one", "must be a number, not 'one'"),
        ("redis://h:port", "expected HOST:PORT"),
        ("redis://h?socket_timeout=5&max_connections=1", "unknown option max_connections, socket_"),
        ("redis://h?ssl_ca_certs=/ca.pem", "need rediss"),
        ("rediss://h?ssl_ca_certs=/not/there.pem", "ssl_ca_certs=/not/there.pem is not a file"),
    ],
)
def test_what_cannot_be_meant_is_refused(url, said):
    with pytest.raises(ValueError, match=said):
        connect(url)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=12))
def test_a_refusal_never_repeats_a_password(secret):
    for url in (f"redis://:xyz{secret}@h/x", f"redis://:xyz{secret}@h?a=b"):
        said = ""
        try:
            parse(url)
        except ValueError as error:
            said = str(error)
        assert "xyz" not in said


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://h", Redis),
        ("unix:///s", Redis),
        ("rediss://h?ssl_check_hostname=false", Redis),
        ("rediss+sentinel://s/m", Redis),
        ("rediss+cluster://c", RedisCluster),
    ],
)
async def test_a_client_is_made_without_connecting(url, kind):
    client = connect(url)
    assert isinstance(client, kind)
    await close(client)
