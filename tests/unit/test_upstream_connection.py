"""An answer read off one connection: where it begins and ends, and what may follow it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.answer_head import AnswerHead
from router.errors import StaleConnection, UpstreamError, WorkerCut
from router.upstream.connection import AnswerReceiver, UpstreamConnection
from tests.outboxes import at_once


class FakeTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.aborted = False
        self.reading = True
        self.unsent = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def writelines(self, list_of_data: Any) -> None:
        self.written += b"".join(list_of_data)

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return self.unsent


class Heard(AnswerReceiver):
    """An AnswerReceiver that writes down what it hears."""

    def __init__(self, *, refuse: UpstreamConnection | None = None) -> None:
        self.interim: list[int] = []
        self.heads: list[AnswerHead] = []
        self.body = b""
        self.calls = 0
        self.chunks = 0
        self.trailers: list[tuple[bytes, bytes]] | None = None
        self.error: UpstreamError | None = None
        self.refuse = refuse

    def interim_received(self, head: AnswerHead) -> None:
        self.interim.append(head.status)

    def head_received(self, head: AnswerHead) -> None:
        self.heads.append(head)
        if self.refuse is not None:
            self.refuse.abort()

    def received(
        self,
        payload: bytes,
        trailers: list[tuple[bytes, bytes]] | None,
        chunk: bytes | None = None,
    ) -> None:
        assert self.heads and self.trailers is None and self.error is None
        if chunk is not None:
            assert chunk == b"%x\r\n%b\r\n" % (len(payload), payload)
            assert trailers is None
            self.chunks += 1
        self.calls += bool(payload)
        self.body += payload
        self.trailers = trailers

    def answer_broken(self, error: UpstreamError) -> None:
        assert self.trailers is None and self.error is None
        self.error = error


def exchange(*pieces: bytes, bodiless: bool = False) -> tuple[UpstreamConnection, Heard]:
    connection = UpstreamConnection("http://w:1", at_once())
    connection.connection_made(FakeTransport())
    heard = Heard()
    connection.send(b"POST / HTTP/1.1\r\n\r\n", b"{}", heard, bodiless=bodiless)
    for piece in pieces:
        connection.data_received(piece)
    return connection, heard


LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nhel\r\n2;ext=1\r\nlo\r\n0\r\nX-Sum: 7\r\n\r\n"
)
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + LENGTH


@pytest.mark.parametrize("answer", [LENGTH, CHUNKED, INTERIM])
@given(data=st.data())
def test_an_answer_is_the_same_however_its_bytes_are_cut(
    answer: bytes, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(answer) - 1), max_size=6)))
    edges = [0, *cuts, len(answer)]
    connection, heard = exchange(*[answer[a:b] for a, b in zip(edges, edges[1:], strict=False)])
    assert [head.status for head in heard.heads] == [200]
    assert heard.body == b"hello"
    assert heard.trailers == ([(b"X-Sum", b"7")] if answer is CHUNKED else [])
    assert heard.interim == ([100, 103] if answer is INTERIM else [])
    assert connection.reusable()


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
# What could be taken for the frame of a chunk, or for the end of an event.
TREACHEROUS = st.lists(
    st.sampled_from([b"\n\n", b"\r\n", b"\n", b"\r", b"4", b"a\r\n", b"0\r\n", b"data: {}"]),
    min_size=1,
    max_size=6,
).map(b"".join)
CHUNK_FORMS = st.sampled_from([b"%x\r\n%b\r\n"] * 3 + [b"%X\r\n%b\r\n", b"0%x;e=1\r\n%b\r\n"])


@given(
    chunks=st.lists(st.tuples(CHUNK_FORMS, TREACHEROUS), min_size=1, max_size=6),
    data=st.data(),
)
def test_a_chunk_that_a_read_consists_of_is_the_same_as_any(
    chunks: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    pieces = [form % (len(payload), payload) for form, payload in chunks]
    whole = STREAM_HEAD + b"".join(pieces) + b"0\r\n\r\n"
    ends = [len(STREAM_HEAD)]
    for piece in pieces:
        ends.append(ends[-1] + len(piece))
    most_ends = set(ends) - data.draw(st.sets(st.sampled_from(ends), max_size=2))
    cuts = data.draw(st.sets(st.integers(1, len(whole) - 1), max_size=2)) | most_ends
    edges = [0, *sorted(cuts), len(whole)]
    _, heard = exchange(*[whole[a:b] for a, b in zip(edges, edges[1:], strict=False)])
    assert heard.body == b"".join(payload for _, payload in chunks)
    assert heard.trailers == []


def test_a_read_of_one_event_in_one_chunk_is_told_so_from_the_second_on() -> None:
    event = b"data: {}\n\n"
    chunk = b"%x\r\n%b\r\n" % (len(event), event)
    connection, heard = exchange(STREAM_HEAD, chunk)
    assert heard.chunks == 0
    connection.data_received(chunk)
    connection.data_received(chunk)
    assert heard.chunks == 2
    connection.data_received(chunk + chunk[:4])
    connection.data_received(chunk[4:])
    assert heard.chunks == 2
    connection.data_received(chunk)
    assert heard.chunks == 3
    connection.data_received(b"0\r\n\r\n")
    assert heard.body == event * 6
    assert heard.trailers == []
    assert connection.reusable()


def test_many_chunks_in_one_read_reach_the_receiver_as_one_payload() -> None:
    chunks = b"".join(b"6\r\ndata:\n\r\n" for _ in range(1000))
    _, heard = exchange(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunks + b"0\r\n\r\n"
    )
    assert heard.body == b"data:\n" * 1000
    assert heard.calls == 1


def test_a_connection_carries_one_exchange_after_another() -> None:
    connection, first = exchange(LENGTH)
    second = Heard()
    connection.send(b"POST / HTTP/1.1\r\n\r\n", b"", second, bodiless=False)
    connection.data_received(CHUNKED)
    assert first.body == second.body == b"hello"
    assert connection.reusable()


@pytest.mark.parametrize(
    "answer",
    [
        LENGTH.replace(b"X-A: b", b"Connection: close"),
        LENGTH + b"HTTP/1.1 200 OK\r\n",  # bytes behind the answer: whose would they be?
        LENGTH.replace(b"1.1", b"1.0"),
    ],
)
def test_a_whole_answer_may_leave_its_connection_unusable(answer: bytes) -> None:
    connection, heard = exchange(answer)
    assert heard.body == b"hello"
    assert heard.trailers == []
    assert not connection.reusable()


def test_bytes_behind_an_answer_never_become_an_answer() -> None:
    smuggled = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    connection, heard = exchange(LENGTH + smuggled)
    assert heard.body == b"hello"
    assert len(heard.heads) == 1
    assert not connection.reusable()


def test_an_answer_sent_before_the_request_was_read_ends_the_connection() -> None:
    connection, heard = exchange()
    assert isinstance(connection.transport, FakeTransport)
    connection.transport.unsent = 1
    connection.data_received(LENGTH)
    assert heard.body == b"hello"
    assert not connection.reusable()


def test_a_connection_that_has_ended_its_exchange_is_not_paused() -> None:
    connection, _ = exchange(LENGTH)
    assert isinstance(connection.transport, FakeTransport)
    connection.pause()  # the last that was written was more than the client took
    assert connection.transport.reading


def test_the_answer_to_head_ends_with_its_head() -> None:
    connection, heard = exchange(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", bodiless=True)
    assert heard.heads[0].content_length == 5
    assert heard.trailers == []
    assert not connection.reusable()  # the parser still waits for a body


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_answers_without_a_body_end_with_their_head(status: bytes) -> None:
    connection, heard = exchange(b"HTTP/1.1 " + status + b"\r\nETag: x\r\n\r\n")
    assert heard.trailers == []
    assert heard.body == b""
    assert connection.reusable()


def test_a_body_until_close_ends_with_the_connection() -> None:
    connection, heard = exchange(b"HTTP/1.0 200 OK\r\n\r\nhel", b"lo")
    assert heard.trailers is None
    connection.connection_lost(None)
    assert heard.trailers == []
    assert heard.body == b"hello"


def test_a_body_until_close_that_is_reset_is_broken() -> None:
    connection, heard = exchange(b"HTTP/1.0 200 OK\r\n\r\nhel")
    connection.connection_lost(ConnectionResetError())
    assert isinstance(heard.error, WorkerCut)


@pytest.mark.parametrize("seen", [b"", b"HTTP/1.1 2", LENGTH[:-1], CHUNKED[:-1], CHUNKED[:-20]])
def test_a_worker_that_closes_too_early_has_cut_its_answer(seen: bytes) -> None:
    connection, heard = exchange(*([seen] if seen else []))
    connection.connection_lost(None)
    assert type(heard.error) is WorkerCut


def test_a_used_connection_closed_before_any_byte_is_stale() -> None:
    connection, _ = exchange(LENGTH)
    second = Heard()
    connection.send(b"POST / HTTP/1.1\r\n\r\n", b"", second, bodiless=False)
    connection.connection_lost(None)
    assert isinstance(second.error, StaleConnection)


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 300_000,
    ],
)
def test_what_is_not_http_breaks_the_exchange_and_the_connection(garbage: bytes) -> None:
    connection, heard = exchange(garbage)
    assert isinstance(heard.error, WorkerCut)
    assert not connection.reusable()


def test_bytes_on_an_idle_connection_close_it() -> None:
    connection, _ = exchange(LENGTH)
    connection.data_received(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    assert not connection.reusable()


def test_a_receiver_may_refuse_an_answer_at_its_head() -> None:
    connection = UpstreamConnection("http://w:1", at_once())
    connection.connection_made(FakeTransport())
    heard = Heard(refuse=connection)
    connection.send(b"", b"", heard, bodiless=False)
    connection.data_received(LENGTH)
    assert heard.body == b""
    assert heard.trailers is None
    assert not connection.reusable()


@given(st.binary(max_size=200), st.integers(0, len(CHUNKED)))
def test_no_bytes_crash_a_connection(noise: bytes, at: int) -> None:
    connection, heard = exchange(CHUNKED[:at] + noise + CHUNKED[at:])
    connection.connection_lost(None)
    assert (heard.trailers is None) != (heard.error is None)
