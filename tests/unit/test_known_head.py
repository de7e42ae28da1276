"""A head that comes again is taken for what the parser would make of it, and for nothing else."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

import httptools
import pytest

from bench.fuzz_cases import bad_request, good_request, spoil
from router.api.known_head import KnownHead, known_head
from router.api.request import Header, Request, by_name
from router.core.known_length import MOST_BYTES, MOST_DIGITS

ANY = 1 << 20  # bytes: no limit
ASKED = (
    "form json readable routing_key session_id target_worker trace_label traceparent trailers"
).split()
HEAD = b"POST /generate HTTP/1.1\r\nHost: t\r\nContent-Length: %b\r\nAccept: */*\r\n\r\n"


class Client:
    def write(self, data: bytes) -> None:
        raise AssertionError("nobody asked for a word")


class Seen(NamedTuple):
    """What a request is to everybody behind the connection."""

    method: str
    target: bytes
    raw_headers: list[Header]
    headers: dict[str, str]
    http11: bool
    keep_alive: bool
    whole: bool
    body: bytes
    asked: list[object]


def seen(request: Request) -> Seen:
    return Seen(
        request.method,
        request.target,
        list(request.raw_headers),
        dict(request.headers),
        request.http11,
        request.keep_alive,
        request.whole,
        b"".join(request._pieces),
        [getattr(request.asked, name) for name in ASKED],
    )


class Parsed:
    """The requests that llhttp finds in `data`, as the connection has them from it."""

    def __init__(self, data: bytes) -> None:
        self.requests: list[Request] = []
        self.open = False
        self.clean = True
        self._parser = httptools.HttpRequestParser(self)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.clean = False

    def on_message_begin(self) -> None:
        self.open = True
        self._target = b""
        self._headers: list[Header] = []

    def on_url(self, target: bytes) -> None:
        self._target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        request = Request(
            Client(),
            parser.get_method().decode(),
            self._target,
            self._headers,
            by_name(self._headers),
            parser.get_http_version() == "1.1",
            parser.should_keep_alive(),
        )
        self.requests.append(request)

    def on_body(self, piece: bytes) -> None:
        self.requests[-1].feed(piece)

    def on_message_complete(self) -> None:
        self.open = False
        self.requests[-1].end()


def known(data: bytes, limit: int = ANY) -> KnownHead | None:
    parsed = Parsed(data)
    return known_head(parsed.requests[0], data, limit) if parsed.requests else None


def message(body: bytes, digits: bytes | None = None) -> bytes:
    return HEAD % (b"%d" % len(body) if digits is None else digits) + body


@pytest.mark.parametrize("body", [b"{}", b"[]", b"", b'{"text": "a longer one"}', b"\r\n\r\n"])
def test_a_head_that_comes_again_is_what_it_was_but_for_its_length(body: bytes) -> None:
    first = known(message(b"{}"))
    assert first is not None
    request = first.again(Client(), message(body))
    assert request is not None
    assert seen(request) == seen(Parsed(message(body)).requests[0])
    assert request.headers["content-length"] == str(len(body))
    assert first.again(Client(), message(b"{}")) is not None  # it is still as it was seen


@pytest.mark.parametrize(
    "data",
    [
        message(b"{}")[:-1],  # not whole
        message(b"{}") + b" ",
        message(b"{}") * 2,
        message(b"{}", b"+2"),
        message(b"{}", b" 2"),
        message(b"{}", b"2 "),
        message(b"{}", b"-2"),
        message(b"{}", b"0x2"),
        message(b"{}", b""),
        message(b"{}", "²".encode()),
        message(b"{}", b"2, 2"),
        message(b"{}", b"2\r\nContent-Length: 2"),
        message(b"{}", b"2\r\nTransfer-Encoding: chunked"),
        message(b"{}", b"0" * MOST_DIGITS + b"2"),
        message(b"{}", b"2\r\nX: y"),
        message(b"{}").replace(b"Accept", b"accept"),
        message(b"{}").replace(b"Host", b"Most"),
        b"\r\n" + message(b"{}"),
        b"",
    ],
)
def test_what_is_not_like_it_to_the_byte_is_left_to_the_parser(data: bytes) -> None:
    first = known(message(b"{}"))
    assert first is not None and first.again(Client(), data) is None


@pytest.mark.parametrize(
    "data",
    [
        b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n",
        b"POST /a HTTP/1.1\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
        b"POST /a HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        message(b"{}") * 2,
        message(b"{}") + b"\r\n",
        message(b"\r\n") + b"\r\n",  # the body and what is behind it are as good an end of a head
        message(b"{}") + b"POST ",
        message(b"{}")[:-1],
        b"\r\n\r\n" + message(b"{}"),
        message(b"{}", b"2 "),
        message(b"{}").replace(b"*/*", b"x" * MOST_BYTES),
    ],
)
def test_what_is_not_one_whole_request_with_a_length_is_not_kept(data: bytes) -> None:
    assert known(data) is None


def test_a_head_over_the_limit_is_not_kept() -> None:
    size = len(message(b""))
    assert known(message(b""), size) is not None
    assert known(message(b""), size - 1) is None


def test_what_it_asks_and_what_was_written_for_a_worker_is_kept_with_the_head():
    parsed = Parsed(message(b"{}")).requests[0]
    head = known_head(parsed, message(b"{}"), ANY)
    again = None if head is None else head.again(Client(), message(b"[1]"))
    assert again is not None
    assert again.written is parsed.written and again.asked is parsed.asked


def test_connections_share_what_their_clients_say_alike_but_no_secrets() -> None:
    said = message(b"{}").replace(b"Accept", b"Authorization: Bearer a\r\nCookie: b\r\nAccept")
    sent = []
    for _ in range(2):
        head = known(said)
        request = None if head is None else head.again(Client(), said)
        assert request is not None
        sent.append(request.raw_headers)
    one, other = sent
    assert one == other
    alike = [
        name for (name, _), same in zip(one, map(id, other), strict=True) if same in map(id, one)
    ]
    assert alike == [b"Host", b"Content-Length", b"Accept"]


def test_what_is_taken_for_known_the_parser_takes_for_the_same() -> None:
    random = Random(5)
    taken = 0
    for _ in range(20_000):
        first = random.choice((good_request, bad_request))(random)
        head = known(first)
        if head is None:
            continue
        other = random.choice((good_request(random), first))
        body = random.randbytes(random.randrange(12))
        end = first.find(b"\r\n\r\n") + 4
        after = first[first.find(head._like.after) :]
        data = random.choice(
            (
                spoil(first, random, [first, other]),
                first[:end] + body,
                head._like.before + b"%d" % len(body) + head._like.after + body,
                head._like.before + random.choice((b"2", b"02", b"9", b"\xb2", b"")) + after,
                spoil(head._like.before, random, [first]) + first[len(head._like.before) :],
            )
        )
        request = head.again(Client(), data)
        if request is None:
            continue
        taken += 1
        parsed = Parsed(data)
        assert parsed.clean and not parsed.open
        assert [seen(one) for one in parsed.requests] == [seen(request)]
    assert taken > 500
