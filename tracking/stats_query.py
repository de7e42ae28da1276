"""What the stats may be asked. Parsing and checking, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from tracking.query import QueryError, parse_age
from tracking.sums import KINDS, Kind

MOST_DAYS: Final = 31
# Name, then help and what is allowed.
PARAMETERS: Final = {
    "window": (
        "adds `window`: requests of the last so long that are over",
        f"an age such as 15m, 2h or 7d, at most {MOST_DAYS}d",
    ),
    "by": (
        "adds the same for each name; without `window` over the whole retention",
        "one or more of node, model, policy, route, separated by commas",
    ),
}


class StatsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked beyond the plain counts. A window of None with `by`: the retention."""

    window_seconds: int | None = None
    by: tuple[Kind, ...] = ()

    @property
    def plain(self) -> bool:
        return self.window_seconds is None and not self.by


PLAIN: Final = StatsQuery()


def parse_stats(params: Sequence[tuple[str, str]]) -> StatsQuery:
    """The query of a URL's parameters (decoded). Raises QueryError."""
    window: int | None = None
    by: tuple[Kind, ...] = ()
    for place, (name, text) in enumerate(params):
        if name not in PARAMETERS:
            raise QueryError(name, f"unknown parameter {name!r}; known are {', '.join(PARAMETERS)}")
        if any(name == earlier for earlier, _ in params[:place]):
            raise QueryError(name, f"parameter {name!r} is given more than once")
        try:
            if name == "window":
                window = _window(text)
            else:
                by = _kinds(text)
        except ValueError:
            raise QueryError(name, f"parameter {name!r} must be {PARAMETERS[name][1]}") from None
    return StatsQuery(window_seconds=window, by=by)


def _window(text: str) -> int:
    seconds = parse_age(text) // 1_000_000
    if not 1 <= seconds <= MOST_DAYS * 86_400:
        raise ValueError(text)
    return seconds


def _kinds(text: str) -> tuple[Kind, ...]:
    asked = text.split(",")
    if not set(asked) <= set(KINDS):
        raise ValueError(text)
    return tuple(kind for kind in KINDS if kind in asked)
