"""Writes of one turn of the loop go together at its end, in their order, and none is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from router.outbox import MOST_HELD, Outbox, end_of_turn


class Wire(asyncio.Transport):
    def __init__(self, log: list[tuple[str, bytes]], name: str = "") -> None:
        super().__init__()
        self.log = log
        self.name = name
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.log.append((self.name, bytes(data)))

    def is_closing(self) -> bool:
        return self.closing


class Turn:
    """What an outbox asked for, to be called back by hand."""

    def __init__(self) -> None:
        self.asked: list[Callable[[], None]] = []
        self.log: list[tuple[str, bytes]] = []
        self.outbox = Outbox(self.asked.append)

    def ends(self) -> None:
        asked, self.asked[:] = self.asked[:], []
        for flush in asked:
            flush()


def test_writes_wait_for_the_end_of_the_turn_and_keep_their_order() -> None:
    turn = Turn()
    one, other = Wire(turn.log, "one"), Wire(turn.log, "other")
    turn.outbox.write(one, b"1")
    turn.outbox.write(other, b"2")
    turn.outbox.write(one, b"3")
    assert turn.log == []
    assert len(turn.asked) == 1
    turn.ends()
    assert turn.log == [("one", b"1"), ("other", b"2"), ("one", b"3")]


def test_each_turn_is_asked_for_once() -> None:
    turn = Turn()
    wire = Wire(turn.log)
    for number in range(3):
        turn.outbox.write(wire, b"%d" % number)
        assert len(turn.asked) == 1
        turn.ends()
        assert len(turn.log) == number + 1


def test_a_flush_is_early_and_the_end_of_the_turn_sends_what_came_after_it() -> None:
    turn = Turn()
    wire = Wire(turn.log)
    turn.outbox.write(wire, b"1")
    turn.outbox.flush()
    assert turn.log == [("", b"1")]
    turn.outbox.write(wire, b"2")
    assert turn.log == [("", b"1")]
    turn.ends()
    assert turn.log == [("", b"1"), ("", b"2")]


def test_what_is_held_for_a_transport_that_closes_is_dropped_and_nothing_else() -> None:
    turn = Turn()
    closed, wire = Wire(turn.log, "closed"), Wire(turn.log, "open")
    turn.outbox.write(closed, b"1")
    turn.outbox.write(wire, b"2")
    closed.closing = True
    turn.ends()
    assert turn.log == [("open", b"2")]


def test_a_long_turn_holds_no_more_than_so_many() -> None:
    turn = Turn()
    wire = Wire(turn.log)
    for _ in range(MOST_HELD - 1):
        turn.outbox.write(wire, b"x")
    assert turn.log == []
    turn.outbox.write(wire, b"x")
    assert len(turn.log) == MOST_HELD
    turn.outbox.write(wire, b"y")
    turn.ends()
    assert turn.log[-1] == ("", b"y")


def test_what_is_written_while_others_are_sent_goes_with_the_next() -> None:
    """A transport may call its protocol from within `write`, which may write in turn."""
    turn = Turn()

    class Answering(Wire):
        def write(self, data: bytes | bytearray | memoryview) -> None:
            super().write(data)
            if data == b"1":
                turn.outbox.write(self, b"2")

    turn.outbox.write(Answering(turn.log), b"1")
    turn.ends()
    assert turn.log == [("", b"1")]
    turn.ends()
    assert turn.log == [("", b"1"), ("", b"2")]


def test_steps_come_behind_the_writes_of_their_turn_and_before_what_they_write() -> None:
    turn = Turn()
    wire = Wire(turn.log)

    def step() -> None:
        turn.log.append(("step", b""))
        turn.outbox.write(wire, b"2")

    turn.outbox.afterwards(step)
    turn.outbox.afterwards(step)
    turn.outbox.write(wire, b"1")
    assert len(turn.asked) == 1
    assert turn.log == []
    turn.ends()
    assert turn.log == [("", b"1"), ("step", b""), ("step", b""), ("", b"2"), ("", b"2")]
    assert turn.asked == []


def test_a_step_that_asks_for_another_one_gets_it_in_the_next_turn() -> None:
    turn = Turn()

    def other() -> None:
        turn.log.append(("other", b""))

    turn.outbox.afterwards(lambda: turn.outbox.afterwards(other))
    turn.ends()
    assert turn.log == []
    turn.ends()
    assert turn.log == [("other", b"")]


def test_a_step_that_crashes_is_logged_and_takes_no_other_with_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    turn = Turn()
    wire = Wire(turn.log)

    def crash() -> None:
        raise RuntimeError("a bug")

    turn.outbox.afterwards(crash)
    turn.outbox.afterwards(lambda: turn.outbox.write(wire, b"1"))
    turn.ends()
    assert turn.log == [("", b"1")]
    assert "crashed" in caplog.text


async def test_the_loop_ends_the_turn() -> None:
    log: list[tuple[str, bytes]] = []
    outbox = Outbox(end_of_turn)
    outbox.write(Wire(log), b"1")
    assert log == []
    await asyncio.sleep(0)
    assert log == [("", b"1")]
