"""Traces as requests to run again: our export (NDJSON), Mooncake (JSONL), Azure (CSV).

A prompt is a list of ids, one for each 512 tokens, where equal ids stand for equal prefixes; from
these are made the block hashes that policies look at. So what two prompts share is known in steps
of 512 tokens. Lines that lack a time or a length are left out and counted.
"""

from __future__ import annotations

import csv
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import count, groupby
from pathlib import Path
from random import Random
from typing import Final

import msgspec
from xxhash import xxh3_64_intdigest

from router.core.blocks import BOUNDARIES, LANDMARK_BYTES
from router.core.facts import BYTES_PER_TOKEN, RequestFacts

BLOCK_TOKENS: Final = LANDMARK_BYTES // BYTES_PER_TOKEN  # 512, as in Mooncake's traces
UNIQUE: Final = 1 << 62  # ids from here on are of prompts that share nothing


class TraceFileError(ValueError):
    """A file that cannot be replayed. The message says which and why."""


class Job(msgspec.Struct):
    """One request. `arrived` in seconds since the first; `blocks`: ids of 512 tokens each."""

    arrived: float
    facts: RequestFacts
    blocks: list[int]
    input_tokens: int
    output_tokens: int


class Line(msgspec.Struct):
    """A line of either NDJSON format."""

    timestamp: float | str
    # Mooncake
    input_length: int | None = None
    output_length: int | None = None
    hash_ids: list[int] = []
    # our export
    input_tokens: int | None = None
    output_tokens: int | None = None
    prefix_hashes: list[str] = []
    model: str | None = None
    session_id: str | None = None


class Stored(msgspec.Struct):
    """A request as read: seconds of any clock, tokens, ids of its prefixes as far as known."""

    at: float
    input_tokens: int
    output_tokens: int
    ids: list[int]
    model: str | None = None
    session_id: str | None = None


def read_jobs(path: str, *, limit: int | None, speed: float, seed: int) -> tuple[list[Job], int]:
    """The requests of a file in the order of their arrival, and how many lines were left out.

    Arrivals with equal times are spread over the time until the next, with chance from `seed`;
    then all times are divided by `speed`. Raises TraceFileError.
    """
    try:
        found = list(_read(Path(path)))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise TraceFileError(f"{path}: {reason}") from None
    stored = sorted((one for one in found if one is not None), key=lambda one: one.at)[:limit]
    if not stored:
        raise TraceFileError(
            f"{path}: no requests found; expected an export of ours (NDJSON), Mooncake JSONL or "
            "Azure CSV"
        )
    times = spread([one.at for one in stored], Random(seed))
    unique = count(UNIQUE)
    jobs = [
        _job(one, (at - times[0]) / speed, unique) for one, at in zip(stored, times, strict=True)
    ]
    return jobs, found.count(None)


def spread(times: Sequence[float], random: Random) -> list[float]:
    """Rising times without steps: n equal ones get a place each in the n-th parts of their step."""
    groups = [(at, len(list(same))) for at, same in groupby(times)]
    made = []
    step = 0.0
    for number, (at, size) in enumerate(groups):
        if number + 1 < len(groups):
            step = groups[number + 1][0] - at
        made += (
            [at]
            if size == 1
            else [at + step * (place + random.random()) / size for place in range(size)]
        )
    return made


def _read(path: Path) -> Iterator[Stored | None]:
    with path.open(encoding="utf-8") as file:
        first = file.readline()
        file.seek(0)
        if first.lstrip().startswith("{"):
            yield from map(_read_line, filter(str.strip, file))
        else:
            yield from map(_read_row, csv.DictReader(file))


_decode: Final = msgspec.json.Decoder(Line).decode


def _read_line(text: str) -> Stored | None:
    try:
        line = _decode(text)
        if isinstance(line.timestamp, str):
            if line.input_tokens is None:
                return None
            return Stored(
                datetime.fromisoformat(line.timestamp).timestamp(),
                line.input_tokens,
                line.output_tokens or 0,
                [int(prefix, 16) for prefix in line.prefix_hashes],
                line.model,
                line.session_id,
            )
    except (msgspec.DecodeError, ValueError):
        return None
    if line.input_length is None:
        return None
    at = line.timestamp / 1000  # Mooncake's are milliseconds
    return Stored(at, line.input_length, line.output_length or 0, line.hash_ids)


def _read_row(row: dict[str, str]) -> Stored | None:
    try:
        at = datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp()
        return Stored(at, int(row["ContextTokens"]), int(row["GeneratedTokens"]), [])
    except (KeyError, ValueError, TypeError):
        return None


def _job(stored: Stored, arrived: float, unique: Iterator[int]) -> Job:
    needed = -(-stored.input_tokens // BLOCK_TOKENS)
    ids = stored.ids[:needed]
    ids += [next(unique) for _ in range(needed - len(ids))]
    text_bytes = stored.input_tokens * BYTES_PER_TOKEN
    return Job(
        arrived=arrived,
        facts=RequestFacts(
            route="/generate",
            model=stored.model,
            stream=True,
            blocks=list(_hashes(ids, text_bytes)),
            text_bytes=text_bytes,
            input_tokens=stored.input_tokens,
            session_id=stored.session_id,
        ),
        blocks=ids,
        input_tokens=stored.input_tokens,
        output_tokens=stored.output_tokens,
    )


def _hashes(ids: Sequence[int], text_bytes: int) -> Iterable[int]:
    """A hash for each block of the text, equal where the id of the 512 tokens around it is."""
    for block in range(bisect_left(BOUNDARIES, text_bytes)):
        end = min(BOUNDARIES[block + 1], text_bytes)
        yield xxh3_64_intdigest(ids[(end - 1) // LANDMARK_BYTES].to_bytes(8), block)
