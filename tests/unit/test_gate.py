"""Admission for coroutines: waiting, waking, leaving at any moment."""

from __future__ import annotations

import asyncio
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.api.gate import Gate, Ticket
from router.clock import Clock
from router.core.admission import AdmissionSettings
from router.errors import QueueFull, QueueTimeout


class SetClock(Clock):
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 1000.0
        self.now = lambda: self.time


def gate(clock: Clock | None = None, **values: float | None) -> Gate:
    return Gate(AdmissionSettings(**values), clock or Clock())  # type: ignore[arg-type]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def enter(one: Gate) -> Ticket:
    ticket = one.try_enter(one._clock.now())
    assert ticket is not None
    return ticket


def nothing_left(one: Gate) -> bool:
    return (one.counts.active, one.counts.waiting, one._timer) == (0, 0, None)


async def test_without_limits_everyone_comes_in_at_once() -> None:
    one = gate()
    tickets = [enter(one) for _ in range(1000)]
    for ticket in tickets:
        one.leave(ticket)
    assert await one.enter() is not None
    assert repr(one) == "<Gate open>"


async def test_who_finds_no_room_waits_and_is_woken_in_turn() -> None:
    one = gate(max_concurrent=1)
    first = enter(one)
    assert one.try_enter(one._clock.now()) is None
    waiting = [asyncio.create_task(one.enter()) for _ in range(2)]
    await settle()
    assert one.counts.waiting == 2
    one.leave(first)
    second = await waiting[0]
    assert not waiting[1].done()
    one.leave(second)
    one.leave(await waiting[1])
    assert nothing_left(one)


async def test_a_ticket_is_given_back_only_once() -> None:
    one = gate(max_concurrent=2)
    first, second = enter(one), enter(one)
    one.leave(first)
    one.leave(first)
    assert one.counts.active == 1
    one.leave(second)
    assert nothing_left(one)


async def test_a_full_line_is_429_with_retry_after() -> None:
    one = gate(max_concurrent=1, queue_size=0)
    enter(one)
    with pytest.raises(QueueFull, match="1 running and 0 waiting") as refused:
        await one.enter()
    assert refused.value.status == 429
    assert refused.value.retry_after_seconds == 1


async def test_the_deadline_is_408_with_retry_after() -> None:
    one = gate(max_concurrent=1, queue_timeout_seconds=0.02)
    ticket = enter(one)
    with pytest.raises(QueueTimeout, match=r"within 0\.02 s") as refused:
        await one.enter()
    assert refused.value.status == 408
    assert refused.value.retry_after_seconds == 1
    one.leave(ticket)
    assert nothing_left(one)


async def test_a_rate_wakes_those_who_wait_without_anyone_leaving() -> None:
    one = gate(rate_per_second=100, max_concurrent=-1)
    tickets = [await one.enter() for _ in range(105)]
    assert one.counts.active == 105
    for ticket in tickets:
        one.leave(ticket)
    assert nothing_left(one)


async def test_who_is_cancelled_in_line_frees_the_place_in_line() -> None:
    one = gate(max_concurrent=1, queue_size=1)
    ticket = enter(one)
    waiting = asyncio.create_task(one.enter())
    await settle()
    waiting.cancel()
    await settle()
    assert waiting.cancelled()
    assert one.counts.waiting == 0
    one.leave(ticket)
    assert one.counts.active == 0


async def test_who_is_cancelled_just_as_the_turn_comes_passes_it_on() -> None:
    one = gate(max_concurrent=1)
    ticket = enter(one)
    waiting = [asyncio.create_task(one.enter()) for _ in range(2)]
    await settle()
    one.leave(ticket)
    waiting[0].cancel()
    one.leave(await waiting[1])
    assert waiting[0].cancelled()
    assert nothing_left(one)


async def test_who_was_cancelled_just_before_the_turn_came_does_not_keep_it() -> None:
    one = gate(max_concurrent=1)
    ticket = enter(one)
    waiting = [asyncio.create_task(one.enter()) for _ in range(2)]
    await settle()
    waiting[0].cancel()
    one.leave(ticket)
    one.leave(await waiting[1])
    assert waiting[0].cancelled()
    assert nothing_left(one)


async def test_who_is_cancelled_just_as_the_deadline_comes_leaves_no_trace() -> None:
    clock = SetClock()
    one = gate(clock, max_concurrent=1, queue_timeout_seconds=1)
    ticket = enter(one)
    waiting = asyncio.create_task(one.enter())
    await settle()
    clock.time += 2
    one._ring()
    waiting.cancel()
    await settle()
    assert waiting.cancelled()
    one.leave(ticket)
    assert nothing_left(one)


async def test_workers_that_have_room_again_let_those_in_who_wait() -> None:
    room: list[int | None] = [1]
    one = Gate(AdmissionSettings(), Clock(), room=lambda: room[0])
    tickets = [enter(one)]
    waiting = [asyncio.create_task(one.enter()) for _ in range(4)]
    await settle()
    assert one.counts.waiting == 4
    room[0] = 3
    one.look()
    await settle()
    assert (one.counts.active, one.counts.waiting) == (3, 2)
    room[0] = None
    one.look()
    tickets += await asyncio.gather(*waiting)
    for ticket in tickets:
        one.leave(ticket)
    assert nothing_left(one)


async def test_the_stricter_of_workers_room_and_limit_holds() -> None:
    room: list[int | None] = [5]
    one = Gate(AdmissionSettings(max_concurrent=2), Clock(), room=lambda: room[0])
    tickets = [enter(one), enter(one)]
    assert one.try_enter(one._clock.now()) is None
    room[0] = None
    assert one.try_enter(one._clock.now()) is None
    one.leave(tickets.pop())
    room[0] = 1
    assert one.try_enter(one._clock.now()) is None


STEPS = st.lists(st.sampled_from(["arrive", "leave", "cancel", "yield", "pass_time"]), max_size=60)


@given(steps=STEPS, rate=st.sampled_from([None, 50.0]), seed=st.randoms(use_true_random=False))
def test_cancelled_at_any_point_no_place_is_lost_and_no_wake_up_either(steps, rate, seed) -> None:
    async def story() -> None:
        clock = SetClock()
        one = gate(
            clock, max_concurrent=2, queue_size=5, queue_timeout_seconds=3, rate_per_second=rate
        )
        inside: deque[Ticket] = deque()
        tasks: list[asyncio.Task[None]] = []

        async def request() -> None:
            try:
                inside.append(await one.enter())
            except (QueueFull, QueueTimeout):
                pass

        for step in steps:
            match step:
                case "arrive":
                    tasks.append(asyncio.create_task(request()))
                case "leave" if inside:
                    one.leave(inside.popleft())
                case "cancel" if tasks:
                    seed.choice(tasks).cancel()
                case "pass_time":
                    clock.time += 1
                    one.look()
                case "yield":
                    await settle()
            assert one.counts.active <= 2
        for _ in range(len(tasks) + 1):
            await settle()
            while inside:
                one.leave(inside.popleft())
            clock.time += 0.5
            one.look()  # also looks who may come in by now
        await settle()
        while inside:
            one.leave(inside.popleft())
        assert all(task.done() for task in tasks), "someone was never woken"
        assert nothing_left(one)

    asyncio.run(story())
