"""The sums of finished requests in the store: brought up to date, and read for a window.

Scripts append the facts of finished requests to a log, which costs them next to nothing; whichever
router comes first sums a part of it up (`tracking.sums`) and stores the result. That is exact: it is
only taken when nobody else has summed up the same part meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Literal, cast

import msgspec

from tracking.sums import ALL, Kind, Place, Sums, grown, sum_up, window
from tracking.turns import Turns

Argument = bytes | str | int
Call = Callable[..., Awaitable[object]]

ELEMENTS: Final = 64  # of the log at a time, each of up to 100 requests
PLACES: Final = 64  # read in one call, if they are small

_decode_sums: Final = msgspec.json.Decoder(Sums).decode
_encode: Final = msgspec.json.Encoder().encode


class Step(msgspec.Struct):
    """Sums over one minute or hour of arrivals, over all and by the names of each kind asked for."""

    total: Sums
    by: dict[Kind, dict[str, Sums]]

    def add(self, kind: Kind | Literal["all"], name: str, sums: Sums) -> None:
        if kind == ALL:
            self.total.merge(sums)
        else:
            self.by[kind].setdefault(name, Sums()).merge(sums)


class Window(msgspec.Struct, frozen=True):
    """The same over a span of arrivals (µs); where asked for, also by its `steps`, in order, each under
    its beginning (µs)."""

    since_us: int
    until_us: int
    total: Sums
    by: dict[Kind, dict[str, Sums]]
    steps: dict[int, Step] | None = None


class Tallies:
    """`call(script, *arguments)` runs a script of the store; it raises StoreUnavailable."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._one_at_a_time = asyncio.Lock()
        self._turns = Turns()

    async def sum_up(self) -> int:
        """Count what has finished since somebody did this last; the store's time (µs)."""
        async with self._one_at_a_time:
            while True:
                now, position, *elements = cast(
                    list[bytes], await self._call("sums", "take", ELEMENTS)
                )
                if elements:
                    await self._put(position, elements)
                if len(elements) < ELEMENTS:
                    return int(now)

    async def _put(self, position: bytes, elements: Sequence[bytes]) -> None:
        more = await sum_up(elements, self._turns.pause)
        stored = await self._read(list(more))
        arguments: list[Argument] = []
        for place, names in more.items():
            for name, sums in grown(stored[place], names).items():
                arguments += (place.level, place.name, name, _encode(sums))
                await self._turns.pause()
        # 0 when somebody else has put the same: then all is well, too.
        await self._call("sums", "put", position, len(elements), *arguments)

    async def window(
        self, seconds: int, kinds: Sequence[Kind], *, stepwise: bool = False
    ) -> Window:
        """The last so many seconds, up to now."""
        now_us = await self.sum_up()
        since_us, places = window(now_us, seconds, kinds)
        whole = Step(Sums(), {kind: {} for kind in kinds})
        steps: dict[int, Step] = {}
        for start in range(0, len(places), PLACES):
            for place, names in (await self._read(places[start : start + PLACES])).items():
                if stepwise and place.since_us <= now_us:
                    steps.setdefault(place.since_us, Step(Sums(), {kind: {} for kind in kinds}))
                for name, sums in names.items():
                    whole.add(place.kind, name, sums)
                    if place.since_us in steps:
                        steps[place.since_us].add(place.kind, name, sums)
                    await self._turns.pause()
        return Window(since_us, now_us, whole.total, whole.by, steps if stepwise else None)

    async def _read(self, places: Sequence[Place]) -> Mapping[Place, dict[str, Sums]]:
        found: dict[Place, dict[str, Sums]] = {}
        while len(found) < len(places):
            rest = places[len(found) :]
            asked = [text for place in rest for text in (place.level, place.name)]
            reply = cast(list[list[bytes]], await self._call("sums", "read", *asked))
            for place, flat in zip(rest, reply, strict=False):
                found[place] = {}
                for name, sums in zip(flat[::2], flat[1::2], strict=True):
                    found[place][name.decode()] = _decode_sums(sums)
                    await self._turns.pause()
        return found
