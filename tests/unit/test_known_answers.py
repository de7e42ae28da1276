"""An answer whose head comes again is taken for what the parser would make of it, and for nothing else."""

from __future__ import annotations

from random import Random

import pytest

from bench.fuzz_cases import good_answer, pieces, spoil
from router.upstream.connection import UpstreamConnection
from router.upstream.known_answers import LEFT_OUT, KnownAnswers
from tests.outboxes import at_once
from tests.unit.test_upstream_connection import CHUNKED, INTERIM, LENGTH, FakeTransport, Heard

HEAD = (
    b"HTTP/1.1 200 OK\r\ndate: Mon, 30 Nov 2026 04:31:0%d GMT\r\nserver: uvicorn\r\n"
    b"content-length: %b\r\ncontent-type: Application/JSON\r\n\r\n"
)


def answer(body: bytes, digits: bytes | None = None, second: int = 1) -> bytes:
    return HEAD % (second, b"%d" % len(body) if digits is None else digits) + body


def connected(known: KnownAnswers) -> UpstreamConnection:
    connection = UpstreamConnection("http://w:1", at_once(), known)
    connection.connection_made(FakeTransport())
    return connection


def ask(connection: UpstreamConnection, *data: bytes, bodiless: bool = False) -> tuple[object, ...]:
    """All that is heard of an answer, and what the connection is afterwards."""
    heard = Heard()
    connection.send(b"POST / HTTP/1.1\r\n\r\n", b"{}", heard, bodiless=bodiless)
    for piece in data:
        connection.data_received(piece)
    heads = [
        (h.status, h.reason, h.headers, h.content_length, h.content_type, h.content_encoding)
        for h in heard.heads
    ]
    error = heard.error and (type(heard.error), heard.error.message)
    return heads, heard.body, heard.trailers, heard.interim, error, connection.reusable()


def unknowing() -> KnownAnswers:
    known = KnownAnswers()
    known._to_leave_out = 1 << 60
    return known


def knowing(*data: bytes) -> KnownAnswers:
    known = KnownAnswers()
    ask(connected(known), *data)
    return known


@pytest.mark.parametrize("body", [b"{}", b"[]", b"", b'{"text": "a longer one"}', b"\r\n\r\n"])
def test_a_head_that_comes_again_is_what_it_was_but_for_its_length(body: bytes) -> None:
    known = knowing(answer(b"{}"))
    assert known.again(answer(body)) is not None
    for connection in (connected(known), connected(knowing(answer(b"{}")))):
        for _ in range(2):
            assert ask(connection, answer(body)) == ask(connected(unknowing()), answer(body))


@pytest.mark.parametrize(
    "data",
    [
        answer(b"{}")[:-1],  # not whole
        answer(b"{}") + b" ",
        answer(b"{}") * 2,
        answer(b"{}", second=2),
        answer(b"{}", b"+2"),
        answer(b"{}", b" 2"),
        answer(b"{}", b"2 "),
        answer(b"{}", b""),
        answer(b"{}", b"2\r\nContent-Length: 2"),
        answer(b"{}", b"2\r\nTransfer-Encoding: chunked"),
        answer(b"{}").replace(b"200 OK", b"201 OK"),
        b"\r\n" + answer(b"{}"),
        b"",
    ],
)
def test_what_is_not_like_it_to_the_byte_is_left_to_the_parser(data: bytes) -> None:
    assert knowing(answer(b"{}")).again(data) is None


@pytest.mark.parametrize(
    "data",
    [
        CHUNKED,
        INTERIM,
        LENGTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        LENGTH.replace(b"HTTP/1.1", b"HTTP/1.0"),
        LENGTH + b"!",
        LENGTH[:-1],
        b"HTTP/1.1 204 No Content\r\n\r\n",
    ],
)
def test_what_is_not_one_whole_answer_with_a_length_is_not_kept(data: bytes) -> None:
    assert knowing(data).again(data) is None


def test_an_answer_in_two_reads_is_neither_kept_nor_known() -> None:
    data = answer(b"{}")
    assert knowing(data[:-1], data[-1:]).again(data) is None
    assert ask(connected(knowing(data)), data[:9], data[9:]) == ask(connected(unknowing()), data)


def test_behind_the_beginning_of_a_head_nothing_is_known() -> None:
    # After an interim answer the next one has begun, in the same read.
    begun = (b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nx: ", LENGTH)
    assert ask(connected(knowing(LENGTH)), *begun) == ask(connected(unknowing()), *begun)


def test_the_answer_to_head_has_no_body_whatever_its_head_says() -> None:
    known = knowing(answer(b""))
    bodiless = ask(connected(known), answer(b""), bodiless=True)
    assert bodiless == ask(connected(unknowing()), answer(b""), bodiless=True)


def test_a_known_answer_may_be_refused_at_its_head() -> None:
    connection = connected(knowing(LENGTH))
    heard = Heard(refuse=connection)
    connection.send(b"POST / HTTP/1.1\r\n\r\n", b"", heard, bodiless=False)
    connection.data_received(LENGTH)
    assert len(heard.heads) == 1
    assert (heard.body, heard.trailers, heard.error) == (b"", None, None)
    assert connection.closed


def test_a_new_head_is_learned_at_once_where_the_last_one_came_again() -> None:
    known = knowing(answer(b"{}"))
    connection = connected(known)
    ask(connection, answer(b"{}"))
    ask(connection, answer(b"{}", second=2))
    assert known.again(answer(b"{}", second=2)) is not None


def test_heads_that_never_come_again_are_seldom_looked_at() -> None:
    known = KnownAnswers()
    connection = connected(known)
    learned = 0
    for number in range(10 * LEFT_OUT):
        data = LENGTH.replace(b"X-A: b", b"X-A: %d" % number)
        ask(connection, data)
        learned += known._like is not None and known._like.after.startswith(b"\r\nX-A: %d" % number)
    assert 8 <= learned <= 10


def test_what_is_taken_for_known_the_parser_takes_for_the_same() -> None:
    random = Random(5)
    taken = 0
    for _ in range(4_000):
        known = KnownAnswers()
        first = random.choice((answer(b"{}"), good_answer(random).data))
        one, other = connected(known), connected(unknowing())
        for _ in range(4):
            data = random.choice(
                (
                    first,
                    first,
                    answer(random.randbytes(random.randrange(12))),
                    good_answer(random).data,
                    spoil(first, random, [first]),
                    first.replace(b"2\r\n", random.choice((b"02\r\n", b"1\r\n", b"\xb2\r\n"))),
                )
            )
            sent = pieces(data, random)
            taken += bool(sent) and known.again(sent[0]) is not None
            bodiless = random.random() < 0.1
            told = ask(one, *sent, bodiless=bodiless)
            assert told == ask(other, *sent, bodiless=bodiless)
            if not one.reusable():
                one, other = connected(known), connected(unknowing())
    assert taken > 400
