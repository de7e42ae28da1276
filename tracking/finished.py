"""What is kept of a finished request until it is summed up: a line in the log of finished requests.

`tracking.record` makes it, `write` appends it with the terminal status, `tracking.sums` reads it. All
that a request is counted by is one text, since that is read, and found again, faster than seven.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

import msgspec

from tracking.keys import index_text

MINUTE_US: Final = 60_000_000

# By its places: a name for each would take longer than to read it. None: not known.
Finished: TypeAlias = tuple[
    str,  # what it is counted by, a `Group` as text
    float | None,  # seconds in the queue
    float | None,  # seconds to the first token, of streams only
    float | None,  # seconds in all
    int | None,  # tokens: input
    int | None,  # output
    int | None,  # cached
    float | None,  # cache hit rate, 0 to 1
    int | None,  # tokens predicted to be cached
    int | None,  # tokens of regret
]
read_lines: Final = msgspec.json.Decoder(Finished).decode_lines
write_lines: Final = msgspec.json.Encoder().encode_lines  # each with its end


class Group(NamedTuple):
    """What a request is counted by. Empty: not known."""

    minute: int
    """Of its arrival, since the epoch."""
    node: str
    model: str
    policy: str
    route: str
    status: str
    quality: str


def group_text(
    minute: int,
    node: str,
    model: str | None,
    policy: str,
    route: str | None,
    status: str,
    quality: str,
) -> str:
    """A `Group` as text; names are cut and cleaned as they are in keys."""
    names = [index_text(name).decode("utf-8", "ignore") for name in (node, model, policy, route)]
    return "\t".join((str(minute), *names, status, quality))


def group_of(text: str) -> Group:
    minute, *names = text.split("\t")
    return Group(int(minute), *names)


def at_node(finished: Finished, node: str) -> Finished:
    """The same request, at a node of another name."""
    group = group_of(finished[0])._replace(node=node)
    return (group_text(*group), *finished[1:])
