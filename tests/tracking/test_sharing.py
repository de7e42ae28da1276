"""What replicas tell each other: every server's promise, and the messages themselves."""

from __future__ import annotations

import asyncio
import time

from hypothesis import given
from hypothesis import strategies as st

from tests.tracking.conftest import Backend
from tracking.sharing import (
    Heard,
    Told,
    decode_prefixes,
    decode_requests,
    encode_prefixes,
    encode_requests,
    encode_run,
    share,
)
from tracking.store import TraceStore

U64 = st.integers(0, 2**64 - 1)


class Replica:
    """A replica of a test, which remembers what it has heard as a real one does."""

    def __init__(self, store: TraceStore, owner: str, position: int = 0) -> None:
        self.store = store
        self.owner = owner
        self.since_us = 0
        self.position = position

    async def beat(self, lease: float = 60.0) -> None:
        await self.store.heartbeat(self.owner, lease_seconds=lease, urls=[])

    async def tell(self, requests: bytes | None = None, prefixes: bytes = b"") -> Heard:
        told = Told(requests, prefixes, self.since_us, self.position)
        heard = await share(self.store, self.owner, told)
        self.since_us, self.position = heard.now_us, heard.position
        return heard


async def pair(backend: Backend) -> tuple[Replica, Replica]:
    a, b = Replica(backend.store(), "a/1"), Replica(backend.store(), "b/1")
    await a.beat()
    await b.beat()
    return a, b


async def test_a_replica_hears_the_requests_of_the_others_and_not_its_own(backend: Backend):
    a, b = await pair(backend)
    assert (await a.tell(b"mine")).others == []
    (other,) = (await b.tell(b"theirs")).others
    assert (other.name, other.requests) == ("a/1", b"mine")
    assert 0 <= other.age_us < 60_000_000
    (other,) = (await a.tell()).others
    assert (other.name, other.requests) == ("b/1", b"theirs")


async def test_what_has_not_changed_is_not_repeated_but_is_confirmed(backend: Backend):
    a, b = await pair(backend)
    await a.tell(b"mine")
    before = await b.tell()
    await asyncio.sleep(0.02)
    unconfirmed = await b.tell()
    assert [other.requests for other in unconfirmed.others] == [None]
    assert unconfirmed.others[0].age_us >= 20_000 + before.others[0].age_us
    confirming = time.monotonic()
    await a.tell()
    (other,) = (await b.tell()).others
    assert other.requests is None
    assert other.age_us < 1e6 * (time.monotonic() - confirming)
    await a.tell(b"")
    (other,) = (await b.tell()).others
    assert other.requests == b""


async def test_a_share_goes_with_its_lease_and_cannot_be_told_without_one(backend: Backend):
    a, b = await pair(backend)
    assert (await a.tell(b"mine")).known
    assert [other.requests for other in (await b.tell()).others] == [b"mine"]
    await a.beat(0.1)
    await asyncio.sleep(0.2)
    assert (await b.tell()).others == []
    assert not (await a.tell(b"late")).known
    assert (await b.tell()).others == []
    await a.beat()
    assert (await b.tell()).others == []  # it lives, and has not said anything yet
    assert (await a.tell(b"back")).known
    assert [other.requests for other in (await b.tell()).others] == [b"back"]


async def test_who_leaves_takes_its_share_along(backend: Backend):
    a, b = await pair(backend)
    await a.tell(b"mine")
    await a.store.leave("a/1")
    assert (await b.tell()).others == []


async def test_prefixes_reach_the_others_once_and_in_order(backend: Backend):
    a, b = await pair(backend)
    await a.tell(prefixes=b"one")
    await a.tell(prefixes=b"two")
    assert (await b.tell(prefixes=b"three")).prefixes == [b"one", b"two"]
    assert (await b.tell()).prefixes == []
    assert (await a.tell()).prefixes == [b"three"]
    late = Replica(backend.store(), "c/1")
    assert (await late.tell()).prefixes == [b"one", b"two", b"three"]
    silent = Replica(backend.store(), "d/1", position=-1)
    assert (await silent.tell()).prefixes == []


async def test_prefixes_are_read_in_pieces(backend: Backend):
    a, b = await pair(backend)
    for number in range(70):
        await a.tell(prefixes=b"%d" % number)
    first = await b.tell()
    assert (len(first.prefixes), first.more) == (64, True)
    rest = await b.tell()
    assert (rest.prefixes, rest.more) == ([b"%d" % n for n in range(64, 70)], False)


async def test_the_stream_is_bounded_in_bytes(backend: Backend):
    a, b = await pair(backend)
    piece = b"x" * 32768
    for _ in range(64):  # twice what is kept
        await a.tell(prefixes=piece)
    assert await backend.client.xlen(backend.key("prefixes")) <= 34
    heard = await b.tell()
    assert heard.total == 64 * len(piece)
    assert len(heard.prefixes) >= 31


async def test_a_server_that_lost_its_data_starts_the_stream_anew(backend: Backend):
    a, b = await pair(backend)
    await a.tell(prefixes=b"long forgotten")
    await b.tell()
    await backend.client.delete(backend.key("prefixes"), backend.key("prefixes-bytes"))
    await a.tell(prefixes=b"new")
    assert (await b.tell()).prefixes == [b"new"]
    await backend.client.delete(backend.key("prefixes-bytes"))
    await a.tell(prefixes=b"again")
    assert Replica(backend.store(), "c/1").position == 0
    assert (await Replica(backend.store(), "c/1").tell()).prefixes == [b"again"]


# --- messages -----------------------------------------------------------------------------------


@given(st.dictionaries(U64, st.tuples(st.integers(1, 2**32 - 1), st.integers(0, 2**32 - 1))))
def test_requests_come_through_whole(requests: dict[int, tuple[int, int]]):
    assert decode_requests(encode_requests(requests)) == requests


def test_workers_without_requests_are_not_told_and_figures_are_bounded():
    told = {1: (0, 0), 2: (2**40, 2**40), 3: (1, -5)}
    assert decode_requests(encode_requests(told)) == {2: (2**32 - 1, 2**32 - 1), 3: (1, 0)}


@given(st.lists(st.tuples(U64, st.lists(U64, max_size=20))))
def test_prefixes_come_through_whole(runs: list[tuple[int, list[int]]]):
    message = encode_prefixes([encode_run(*run) for run in runs])
    assert [(digest, [*blocks]) for digest, blocks in decode_prefixes(message)] == runs


@given(st.binary(max_size=200))
def test_no_message_is_too_strange(message: bytes):
    assert isinstance(decode_requests(message), dict)
    assert isinstance(list(decode_prefixes(message)), list)
    assert isinstance(list(decode_prefixes(b"\x01" + message)), list)
