"""Lines to the store: whose reply is whose, whatever is lost, late or never asked for. On both loops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import hiredis
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, NoScriptError, ReadOnlyError, ResponseError

from tests.waiting import PATIENCE_SECONDS, until
from tracking.connect import close, connect
from tracking.lines import Lines, Reply, Start

Answer = Callable[[int, bytes], Awaitable[bytes]]
"""What is sent for a text, on the connection of that number. ConnectionError: it is closed."""


async def echo(_number: int, text: bytes) -> bytes:
    return b"+%s\r\n" % text


class Scripted:
    """A server that knows ECHO, and answers as a test says. A reply is sent in two parts."""

    def __init__(self) -> None:
        self.answer: Answer = echo
        self.heard: list[bytes] = []
        self.connections = 0
        self.writers: list[asyncio.StreamWriter] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.url = ""
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.append(task)
        number, commands = self.connections, hiredis.Reader()
        try:
            while data := await reader.read(1 << 16):
                commands.feed(data)
                while command := commands.gets():
                    reply = await self._reply(number, *command)
                    writer.write(reply[:2])
                    await asyncio.sleep(0)
                    writer.write(reply[2:])
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def _reply(self, number: int, name: bytes, text: bytes, *_others: bytes) -> bytes:
        if name != b"ECHO":
            return b"+OK\r\n"
        self.heard.append(text)
        return await self.answer(number, text)


@pytest.fixture
async def server() -> AsyncIterator[Scripted]:
    scripted = Scripted()
    await scripted.start()
    yield scripted
    await scripted.close()


@pytest.fixture
async def client(server: Scripted) -> AsyncIterator[Redis]:
    one = connect(server.url)
    assert isinstance(one, Redis)
    yield one
    await close(one)


async def ask(lines: Lines, text: str, seconds: float = PATIENCE_SECONDS) -> Reply:
    deadline = asyncio.get_running_loop().time() + seconds
    return await lines.ask(deadline, Start("ECHO"), [text])


async def test_one_line_serves_calls_in_turn_and_many_serve_calls_at_once(server, client):
    lines = Lines(client, 4)
    assert [await ask(lines, str(n)) for n in range(5)] == [b"%d" % n for n in range(5)]
    assert server.connections == 1
    replies = await asyncio.gather(*(ask(lines, str(n)) for n in range(40)))
    assert replies == [b"%d" % n for n in range(40)]
    assert server.connections == 4


async def test_replies_of_every_kind_arrive_in_however_many_pieces(server, client):
    lines = Lines(client, 1)
    sent = b"*5\r\n$3\r\na\r\n\r\n:7\r\n$-1\r\n*0\r\n$100000\r\n%s\r\n" % (b"x" * 100_000)

    async def answer(number: int, text: bytes) -> bytes:
        for byte in sent[:30]:
            server.writers[number - 1].write(bytes([byte]))
            await asyncio.sleep(0.001)
        return sent[30:]

    server.answer = answer
    assert await ask(lines, "x") == [b"a\r\n", 7, None, [], b"x" * 100_000]


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (b"-ERR wrong\r\n", ResponseError),
        (b"-NOSCRIPT No matching script.\r\n", NoScriptError),
    ],
)
async def test_an_error_of_the_server_is_redis_pys_and_the_line_stays(server, client, reply, error):
    lines = Lines(client, 1)

    async def answer(number: int, text: bytes) -> bytes:
        return reply if text == b"wrong" else await echo(number, text)

    server.answer = answer
    with pytest.raises(error):
        await ask(lines, "wrong")
    assert await ask(lines, "right") == b"right"
    assert server.connections == 1


@pytest.mark.parametrize("how", ["cancelled", "over its time"])
async def test_a_late_reply_is_nobody_elses(server, client, how):
    lines = Lines(client, 1)
    late = asyncio.Event()

    async def answer(number: int, text: bytes) -> bytes:
        if text == b"first":
            await late.wait()
        return await echo(number, text)

    server.answer = answer
    if how == "cancelled":
        first = asyncio.create_task(ask(lines, "first"))
        await until(lambda: server.heard)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
    else:
        assert await ask(lines, "before") == b"before"  # whose own limit is later
        with pytest.raises(TimeoutError):
            await ask(lines, "first", 0.05)
    second = asyncio.create_task(ask(lines, "second"))
    late.set()
    assert await second == b"second"
    assert server.connections == 2


async def test_each_call_has_its_own_time(server, client):
    lines = Lines(client, 1)
    assert await ask(lines, "short", 0.1) == b"short"

    async def answer(number: int, text: bytes) -> bytes:
        await asyncio.sleep(0.3)
        return await echo(number, text)

    server.answer = answer
    assert await ask(lines, "long") == b"long"  # while the time of the call before runs out
    with pytest.raises(TimeoutError):
        await ask(lines, "short", 0.1)


async def test_waiting_for_a_turn_is_part_of_a_calls_time(server, client):
    lines = Lines(client, 1)
    going = asyncio.Event()

    async def answer(number: int, text: bytes) -> bytes:
        await going.wait()
        return await echo(number, text)

    server.answer = answer
    first = asyncio.create_task(ask(lines, "first"))
    await until(lambda: server.heard)
    with pytest.raises(TimeoutError):
        await ask(lines, "second", 0.05)
    third = asyncio.create_task(ask(lines, "third"))
    going.set()
    assert (await first, await third) == (b"first", b"third")


async def test_a_line_that_dies_within_a_call_is_worth_one_more_try(server, client):
    lines = Lines(client, 1)
    assert await ask(lines, "before") == b"before"

    async def answer(number: int, text: bytes) -> bytes:
        if number < 2:
            raise ConnectionError
        return await echo(number, text)

    server.answer = answer
    assert await ask(lines, "x") == b"x"
    assert server.heard == [b"before", b"x", b"x"]


async def test_where_every_line_dies_the_second_is_the_last(server, client):
    lines = Lines(client, 1)

    async def answer(number: int, text: bytes) -> bytes:
        raise ConnectionError

    assert await ask(lines, "before") == b"before"
    server.answer = answer
    for calls in (2, 1):  # no line is left to be in doubt of
        server.heard.clear()
        with pytest.raises(RedisConnectionError):
            await ask(lines, "x")
        assert len(server.heard) == calls


async def test_a_line_that_died_between_calls_is_not_written_to(server, client):
    lines = Lines(client, 1)
    assert await ask(lines, "before") == b"before"
    server.writers[0].close()
    await server.writers[0].wait_closed()
    assert await ask(lines, "after") == b"after"
    assert server.heard == [b"before", b"after"]


@pytest.mark.parametrize("reply", [b"-READONLY no\r\n", b"-LOADING wait\r\n"])
async def test_a_server_that_is_no_master_now_is_looked_for_again(server, client, reply):
    lines = Lines(client, 1)
    assert await ask(lines, "before") == b"before"

    async def answer(number: int, text: bytes) -> bytes:
        return reply if number == 1 else await echo(number, text)

    server.answer = answer
    assert await ask(lines, "x") == b"x"
    assert server.connections == 2


async def test_a_replica_is_asked_once_on_each_line(server, client):
    lines = Lines(client, 1)

    async def answer(number: int, text: bytes) -> bytes:
        return b"-READONLY no\r\n"

    server.answer = answer
    for _ in range(3):
        with pytest.raises(ReadOnlyError):
            await ask(lines, "x")
    assert len(server.heard) == server.connections == 3


async def test_what_is_no_reply_ends_the_line_and_not_the_next_call(server, client):
    lines = Lines(client, 1)

    async def answer(number: int, text: bytes) -> bytes:
        return b"HTTP/1.1 400\r\n" if number == 1 else await echo(number, text)

    server.answer = answer
    with pytest.raises(InvalidResponse):
        await ask(lines, "x")
    assert await ask(lines, "y") == b"y"


async def test_a_reply_that_nobody_asked_for_ends_the_line(server, client):
    lines = Lines(client, 1)
    assert await ask(lines, "before") == b"before"
    server.writers[0].write(b"+stray\r\n")
    assert await server.writers[0].wait_closed() is None
    assert await ask(lines, "after") == b"after"
    assert server.connections == 2


async def test_closing_closes_every_line_also_one_in_use(server, client):
    lines = Lines(client, 2)
    await asyncio.gather(ask(lines, "a"), ask(lines, "b"))

    async def answer(number: int, text: bytes) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError

    server.answer = answer
    waiting = asyncio.create_task(ask(lines, "c", 0.5))
    await until(lambda: b"c" in server.heard)
    await client.aclose()
    with pytest.raises(TimeoutError):  # on a line of its own, which is worth one more try
        await waiting


@pytest.mark.redis
async def test_what_redis_pushes_on_newer_protocols_is_no_reply(own_server):
    client: Redis = Redis.from_url(own_server.url, protocol=3)
    lines = Lines(client, 1)
    deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    assert await lines.ask(deadline, Start("CLIENT"), ["TRACKING", "ON", "BCAST"]) == b"OK"
    for number in range(3):  # each is told to this very line
        assert await lines.ask(deadline, Start("SET"), ["k", number]) == b"OK"
        await client.set("other", number)
    assert await lines.ask(deadline, Start("GET"), ["k"]) == b"2"
    await client.aclose()


@pytest.mark.redis
async def test_a_server_that_is_killed_started_again_or_cuts_its_clients_is_found_again(own_server):
    client = connect(own_server.url)
    assert isinstance(client, Redis)
    lines = Lines(client, 1)
    admin: Redis = Redis.from_url(own_server.url)
    assert await ask(lines, "one") == b"one"
    await admin.client_kill_filter(skipme=True)
    assert await ask(lines, "two") == b"two"
    own_server.kill()
    with pytest.raises(RedisConnectionError):
        await ask(lines, "three")
    await asyncio.to_thread(own_server.start)
    assert await ask(lines, "four") == b"four"
    deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    blocked = asyncio.create_task(lines.ask(deadline, Start("BLPOP"), ["nothing", 0]))
    while not (await admin.info("clients"))["blocked_clients"]:
        await asyncio.sleep(0.01)
    own_server.kill()
    with pytest.raises(RedisConnectionError):
        await blocked
    await admin.aclose()
    await close(client)
