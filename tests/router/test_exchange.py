"""One attempt, with a client and a worker made of bytes: order, pauses, limits and ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from router.api.relay import ClientFacts, ClientStream, Exchange, Limits, Owner
from router.core.answer_head import AnswerHead, Framing
from router.core.usage import ResponseScanner
from router.errors import (
    FirstByteTimeout,
    IdleTimeout,
    RouterStopped,
    StaleConnection,
    TotalTimeout,
    WorkerCut,
)
from router.metrics.histogram import Histogram
from router.upstream.connection import UpstreamConnection
from tests.outboxes import at_once

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
OUR_HEAD = b"<head>"


class Client(ClientStream):
    """What the client was sent, and whether it keeps up."""

    def __init__(self) -> None:
        self.sent = b""
        self.behind = False
        self.attached: Exchange | None = None
        self.on_write: Callable[[], None] = lambda: None

    def writing_paused(self) -> bool:
        return self.behind

    def write(self, data: bytes) -> None:
        self.sent += data
        self.on_write()

    def writelines(self, parts: list[bytes]) -> None:
        self.sent += b"".join(parts)

    def attach(self, exchange: Exchange | None) -> None:
        self.attached = exchange


class Wire(asyncio.Transport):
    """The worker's end of a connection."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.reading = True
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_reading(self) -> bool:
        return self.reading

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True

    def get_write_buffer_size(self) -> int:
        return 0


class Bench(Owner):
    """An exchange, a clock, and the two ends."""

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        http11: bool = True,
        on_head: Callable[[AnswerHead, Framing], bytes | None] = lambda _head, _framing: OUR_HEAD,
    ) -> None:
        self.now = 100.0
        self.told = 0
        self.on_head = on_head
        self.client = Client()
        self.wire = Wire()
        self.gaps = Histogram((0.1, 0.5))
        self.connection = UpstreamConnection("http://worker:1", at_once())
        self.connection.connection_made(self.wire)
        self.exchange = Exchange(
            self.client,
            ClientFacts(http11=http11, keep_alive=True, head_request=False, accepts_trailers=False),
            limits or Limits(first_byte_seconds=5, idle_seconds=2, total_seconds=60),
            ResponseScanner("/generate", True),
            self,
            self.gaps,
            self.now,
            lambda: self.now,
        )

    def head_received(self, head: AnswerHead, framing: Framing, now: float) -> bytes | None:
        return self.on_head(head, framing)

    def body_began(self) -> None:
        pass

    def known_as(self, engine_request_id: str) -> None:
        pass

    def exchange_over(self) -> None:
        self.told += 1

    def begin(self) -> None:
        self.exchange.begin(self.connection, b"POST / HTTP/1.1\r\n\r\n", b"body", self.now)

    def worker_says(self, data: bytes) -> None:
        self.connection.data_received(data)

    def at(self, seconds: float) -> None:
        """Let the time limits be looked at, so long after the arrival."""
        self.now = 100.0 + seconds
        self.exchange.check_limits(self.now)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


EVENT = b'data: {"text":"a","meta_info":{"completion_tokens":1}}\n\n'


async def test_what_one_read_brought_goes_to_the_client_before_the_next_is_read():
    bench = Bench()
    bench.begin()
    assert bench.wire.written == b"POST / HTTP/1.1\r\n\r\nbody"
    bench.worker_says(HEAD + chunk(EVENT))
    assert bench.client.sent == OUR_HEAD + chunk(EVENT)
    bench.worker_says(chunk(EVENT) + b"0\r\n\r\n")
    assert bench.client.sent == OUR_HEAD + chunk(EVENT) * 2 + b"0\r\n\r\n"
    assert bench.exchange.over
    assert bench.exchange.error is None
    assert bench.told == 1
    assert bench.client.attached is None
    assert bench.connection.reusable()


async def test_the_first_token_is_the_first_event_not_a_comment_before_it():
    bench = Bench()
    bench.begin()
    bench.worker_says(HEAD + chunk(b": ping\n\n"))
    bench.now += 15
    bench.worker_says(chunk(EVENT))
    assert bench.exchange.first_token_at() == 115.0


async def test_each_event_is_passed_on_and_looked_at_when_it_comes():
    bench = Bench()
    bench.begin()
    bench.worker_says(HEAD)
    for number in range(4):
        bench.now += 0.2
        bench.worker_says(chunk(EVENT))
        assert bench.client.sent == OUR_HEAD + chunk(EVENT) * (number + 1)
    assert bench.exchange.first_token_at() == 100.2
    assert bench.gaps.counts() == [0, 3, 0]
    bench.worker_says(b"0\r\n\r\n")
    assert bench.client.sent == OUR_HEAD + chunk(EVENT) * 4 + b"0\r\n\r\n"
    assert bench.exchange.facts().events == 4


async def test_an_http_10_client_gets_the_body_without_chunks():
    bench = Bench(http11=False)
    bench.begin()
    bench.worker_says(HEAD + chunk(EVENT))
    bench.worker_says(chunk(EVENT))
    bench.worker_says(chunk(EVENT) + b"0\r\n\r\n")
    assert bench.client.sent == OUR_HEAD + EVENT * 3
    assert bench.exchange.until_close()


async def test_a_refused_answer_sends_nothing_and_frees_the_worker():
    bench = Bench(on_head=lambda _head, _framing: None)
    bench.begin()
    bench.worker_says(HEAD + chunk(EVENT))
    assert bench.client.sent == b""
    assert bench.exchange.refused is not None
    assert not bench.exchange.relayed()
    assert bench.wire.aborted


async def test_a_head_that_must_not_be_passed_on_is_a_broken_answer_of_which_nothing_was_sent():
    def refuse(_head: AnswerHead, _framing: Framing) -> bytes:
        raise WorkerCut("conflicting lengths")

    bench = Bench(on_head=refuse)
    bench.begin()
    bench.worker_says(HEAD + chunk(EVENT))
    assert isinstance(bench.exchange.error, WorkerCut)
    assert not bench.exchange.relayed()
    assert bench.client.sent == b""
    assert bench.wire.aborted


async def test_a_client_that_does_not_keep_up_stops_the_reading_and_lets_it_go_on():
    bench = Bench()
    bench.begin()
    bench.worker_says(HEAD + chunk(EVENT))
    bench.exchange.pause()
    assert not bench.wire.reading
    bench.exchange.resume()
    assert bench.wire.reading


async def test_a_client_that_is_behind_from_the_start_stops_the_reading_at_once():
    bench = Bench()
    bench.client.behind = True
    bench.begin()
    assert not bench.wire.reading


async def test_a_paused_exchange_can_be_aborted():
    bench = Bench()
    bench.begin()
    bench.worker_says(HEAD + chunk(EVENT))
    bench.exchange.pause()
    bench.exchange.abort()
    bench.exchange.abort()
    assert bench.told == 1
    assert bench.wire.aborted
    assert bench.client.attached is None


async def test_the_worker_is_freed_when_the_coroutine_that_waits_is_cancelled():
    bench = Bench()
    bench.begin()

    async def wait() -> None:
        try:
            await bench.exchange.ended()
        finally:
            bench.exchange.abort()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.wire.aborted


@pytest.mark.parametrize(
    ("seconds", "error"), [(4.9, None), (5.1, FirstByteTimeout), (61, TotalTimeout)]
)
async def test_a_worker_that_says_nothing_has_until_the_first_byte_limit(seconds: float, error):
    bench = Bench()
    bench.begin()
    bench.at(seconds)
    assert bench.exchange.over is (error is not None)
    assert type(bench.exchange.error) is (error or type(None))
    assert bench.wire.aborted is (error is not None)


async def test_silence_inside_an_answer_ends_it_but_not_while_the_client_is_behind():
    bench = Bench()
    bench.begin()
    bench.worker_says(HEAD + chunk(EVENT))
    bench.exchange.pause()
    bench.at(30)
    assert not bench.exchange.over
    bench.exchange.resume()
    bench.at(31.9)
    assert not bench.exchange.over
    bench.at(32.1)
    assert isinstance(bench.exchange.error, IdleTimeout)
    assert bench.exchange.relayed()


async def test_the_total_limit_counts_also_while_the_client_is_behind():
    bench = Bench()
    bench.begin()
    bench.worker_says(HEAD + chunk(EVENT))
    bench.exchange.pause()
    bench.at(60.1)
    assert isinstance(bench.exchange.error, TotalTimeout)


async def test_the_first_byte_limit_does_not_run_before_the_request_is_sent():
    bench = Bench()
    bench.at(50)
    assert not bench.exchange.over


async def test_an_exchange_that_ended_while_connecting_sends_nothing():
    bench = Bench()
    bench.exchange.end(RouterStopped("stopped"))
    bench.begin()
    assert bench.wire.written == b""
    assert isinstance(bench.exchange.error, RouterStopped)
    assert bench.connection.reusable()


async def test_a_stale_connection_is_followed_by_another_one():
    bench = Bench()
    bench.connection.exchanges = 1
    bench.begin()
    bench.connection.connection_lost(None)
    assert isinstance(bench.exchange.error, StaleConnection)
    bench.connection, bench.wire = UpstreamConnection("http://worker:1", at_once()), Wire()
    bench.connection.connection_made(bench.wire)
    bench.begin()
    bench.worker_says(HEAD + chunk(EVENT) + b"0\r\n\r\n")
    assert bench.exchange.error is None
    assert bench.client.sent.endswith(b"0\r\n\r\n")


async def test_a_new_connection_that_is_closed_before_an_answer_is_the_workers_fault():
    bench = Bench()
    bench.begin()
    bench.connection.connection_lost(None)
    assert isinstance(bench.exchange.error, WorkerCut)
    assert not bench.exchange.relayed()


async def test_what_came_before_a_break_reaches_the_client_without_an_end():
    bench = Bench()
    bench.begin()
    bench.worker_says(HEAD + chunk(EVENT))
    bench.connection.connection_lost(None)
    assert isinstance(bench.exchange.error, WorkerCut)
    assert bench.client.sent == OUR_HEAD + chunk(EVENT)
    assert not bench.exchange.break_client(error_frame=False)
    assert not bench.client.sent.endswith(b"0\r\n\r\n")


async def test_with_error_frames_a_break_is_the_last_event():
    bench = Bench()
    bench.begin()
    bench.worker_says(HEAD + chunk(EVENT))
    bench.connection.connection_lost(None)
    assert bench.exchange.break_client(error_frame=True)
    assert b'"code":"worker_cut"' in bench.client.sent
    assert bench.client.sent.endswith(b"\n\n\r\n0\r\n\r\n")


@pytest.mark.parametrize("cut", range(1, 40))
async def test_an_answer_may_come_in_pieces_of_any_size(cut: int):
    whole = HEAD + chunk(EVENT) + chunk(EVENT) + b"0\r\n\r\n"
    bench = Bench()
    bench.begin()
    for start in range(0, len(whole), cut):
        bench.worker_says(whole[start : start + cut])
    assert bench.exchange.over
    sizes, body = bench.client.sent.removeprefix(OUR_HEAD), b""
    while not sizes.startswith(b"0\r\n"):
        size, _, rest = sizes.partition(b"\r\n")
        body, sizes = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    assert body == EVENT * 2


async def test_gaps_between_events_are_told_and_the_first_byte_is_remembered():
    bench = Bench()
    bench.begin()
    bench.now = 101.0
    bench.worker_says(HEAD + chunk(EVENT))
    bench.now = 101.25
    bench.worker_says(chunk(EVENT))
    assert bench.exchange.first_byte_at == 101.0
    assert (bench.gaps.counts(), bench.gaps.total()) == ([0, 1, 0], 0.25)


async def test_an_answer_that_ends_more_than_its_client_takes_leaves_a_connection_that_is_read():
    bench = Bench()
    bench.begin()
    bench.worker_says(HEAD)
    bench.client.on_write = bench.exchange.pause
    bench.worker_says(chunk(EVENT) + b"0\r\n\r\n")
    assert bench.exchange.over
    assert bench.connection.reusable()
    assert bench.wire.reading
