"""The modelled engine: an LRU prefix cache, one prefill at a time, evenly paced decoding.

Pure: told the time (seconds of any monotonic clock), draws words from a seed. A token is four
bytes of UTF-8, so that text and token ids turn into each other without a vocabulary.
"""

from __future__ import annotations

import struct
import zlib
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from random import Random
from typing import Literal

import msgspec

TOKEN_BYTES = 4
WORDS = [  # three letters and a space: every word is one token
    f" {word}"
    for word in (
        "the and sun sea red ice oak elm fox owl bee ant sky day air fog "
        "map key cup hat pen ink box jar oil tin gem hay log mud rye yam"
    ).split()
]

Tokens = tuple[int, ...]
Finish = Literal["length", "stop", "abort"]


def encode(text: str) -> Tokens:
    """The tokens of `text`: little-endian, the last one padded with zero bytes."""
    data = text.encode()
    count = -(-len(data) // TOKEN_BYTES)
    return struct.unpack(f"<{count}I", data.ljust(count * TOKEN_BYTES, b"\0"))


def decode(tokens: Sequence[int]) -> str:
    """The text of `tokens`. Ids above 32 bits wrap."""
    data = struct.pack(f"<{len(tokens)}I", *(token & 0xFFFFFFFF for token in tokens))
    return data.rstrip(b"\0").decode(errors="replace")


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How fast and how large the engine is. Rates of 0 mean: at once."""

    seed: int = 0
    block_tokens: int = 16
    cache_blocks: int = 4096
    prefill_tokens_per_second: float = 0.0
    prefill_base_seconds: float = 0.0
    token_seconds: float = 0.0
    default_max_tokens: int = 16
    max_queued_requests: int | None = None


class QueueFull(Exception):
    """More requests wait for prefill than the engine allows."""


class PrefixCache:
    """Blocks of tokens under chained hashes; the least recently used one goes first."""

    def __init__(self, block_tokens: int, capacity: int) -> None:
        self._block_tokens = block_tokens
        self._capacity = capacity
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def _chain(self, tokens: Tokens) -> list[int]:
        size = self._block_tokens
        hashes: list[int] = []
        parent = 0
        for start in range(0, len(tokens) - size + 1, size):
            parent = hash((parent, tokens[start : start + size]))
            hashes.append(parent)
        return hashes

    def match(self, tokens: Tokens) -> int:
        """How many leading tokens are held. Never all: the last one is always computed."""
        held: list[int] = []
        for block in self._chain(tokens[:-1]):
            if block not in self._blocks:
                break
            held.append(block)
        for block in reversed(held):  # the root is used by most, so it is the newest
            self._blocks.move_to_end(block)
        return len(held) * self._block_tokens

    def insert(self, tokens: Tokens) -> None:
        for block in reversed(self._chain(tokens)):
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self._capacity:
            self._blocks.popitem(last=False)

    def clear(self) -> None:
        self._blocks.clear()


class Prompt(msgspec.Struct, frozen=True):
    """What goes in: tokens, and the text they came from where there was one."""

    tokens: Tokens
    text: str | None = None

    @classmethod
    def of(cls, source: str | Iterable[int]) -> Prompt:
        if isinstance(source, str):
            return cls(encode(source), source)
        return cls(tuple(source))


class Job:
    """One sequence from its arrival to its end."""

    __slots__ = (
        "cached_tokens",
        "dp_rank",
        "emitted",
        "finish",
        "first_token_at",
        "index",
        "prefill_started_at",
        "prompt",
        "rid",
        "submitted_at",
        "unlimited",
        "words",
    )

    def __init__(
        self,
        rid: str,
        prompt: Prompt,
        words: list[str],
        *,
        unlimited: bool,
        index: int,
        submitted_at: float,
    ) -> None:
        self.rid = rid
        self.dp_rank: int | None = None
        self.prompt = prompt
        self.words = words
        self.unlimited = unlimited
        self.index = index
        self.submitted_at = submitted_at
        self.prefill_started_at: float | None = None
        self.first_token_at: float | None = None
        self.cached_tokens = 0
        self.emitted = 0
        self.finish: Finish | None = None

    def text(self, start: int = 0) -> str:
        """The text emitted so far, from output token `start` on."""
        return "".join(self.words[start : self.emitted])

    def output_ids(self, start: int = 0) -> list[int]:
        return [encode(word)[0] for word in self.words[start : self.emitted]]


class Engine:
    """Prefills one job at a time in the order of arrival; decodes any number side by side."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.cache = PrefixCache(config.block_tokens, config.cache_blocks)
        self.prompt_tokens_seen = 0
        self.cached_tokens_seen = 0
        self.tokens_emitted = 0
        self._waiting: deque[Job] = deque()
        self._prefilling: Job | None = None
        self._prefill_ends_at = 0.0
        self._prefill_free_at = 0.0
        self._decoding: set[Job] = set()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._decoding) + (self._prefilling is not None)

    @property
    def waiting_tokens(self) -> int:
        return sum(len(job.prompt.tokens) for job in self._waiting)

    @property
    def used_tokens(self) -> int:
        jobs = [*self._decoding, *([self._prefilling] if self._prefilling else [])]
        return sum(len(job.prompt.tokens) + job.emitted for job in jobs)

    def submit(
        self, rid: str, prompt: Prompt, max_tokens: int | None, now: float, *, index: int = 0
    ) -> Job:
        """Queue a sequence. `max_tokens` None: the engine stops by itself; 0: prefill only.

        Raises QueueFull.
        """
        limit = self.config.max_queued_requests
        if limit is not None and len(self._waiting) >= limit:
            raise QueueFull
        count = self.config.default_max_tokens if max_tokens is None else max_tokens
        fingerprint = zlib.crc32(repr(prompt.tokens).encode())
        words = Random(f"{self.config.seed}:{index}:{fingerprint}").choices(WORDS, k=count)
        job = Job(rid, prompt, words, unlimited=max_tokens is None, index=index, submitted_at=now)
        self._waiting.append(job)
        return job

    def advance(self, now: float) -> list[Job]:
        """Let time pass; the jobs whose prefill has ended, in order."""
        ended: list[Job] = []
        while self._prefilling or self._waiting:
            if self._prefilling is None:
                self._begin(self._waiting.popleft())
            if self._prefill_ends_at > now:
                break
            job = self._prefilling
            assert job is not None
            self._prefilling = None
            self._prefill_free_at = job.first_token_at = self._prefill_ends_at
            self.cache.insert(job.prompt.tokens)
            self._decoding.add(job)
            ended.append(job)
        return ended

    def _begin(self, job: Job) -> None:
        config = self.config
        job.prefill_started_at = max(job.submitted_at, self._prefill_free_at)
        job.cached_tokens = self.cache.match(job.prompt.tokens)
        self.prompt_tokens_seen += len(job.prompt.tokens)
        self.cached_tokens_seen += job.cached_tokens
        seconds = config.prefill_base_seconds
        if config.prefill_tokens_per_second:
            uncached = len(job.prompt.tokens) - job.cached_tokens
            seconds += uncached / config.prefill_tokens_per_second
        self._prefill_ends_at = job.prefill_started_at + seconds
        self._prefilling = job

    def next_prefill_end(self) -> float | None:
        """When `advance` has something new to say; None when nothing is being prefilled."""
        return self._prefill_ends_at if self._prefilling else None

    def due_at(self, job: Job) -> float:
        """When the next token of a prefilled `job` is there."""
        assert job.first_token_at is not None
        return job.first_token_at + job.emitted * self.config.token_seconds

    def emit(self, job: Job) -> None:
        """One more token of `job`."""
        job.emitted += 1
        self.tokens_emitted += 1

    def complete(self, job: Job, finish: Finish) -> None:
        """`job` has said all; what it said can be matched by the next turn."""
        job.finish = finish
        prompt = job.prompt
        if prompt.text is None:
            self.cache.insert(prompt.tokens + tuple(job.output_ids()))
        else:
            self.cache.insert(encode(prompt.text + job.text()))
        self._decoding.discard(job)

    def abort(self, rid_prefix: str, now: float) -> list[Job]:
        """End every job whose id begins so, as SGLang does. Returns them."""
        jobs = [*self._waiting, *self._decoding]
        if self._prefilling:
            jobs.append(self._prefilling)
        ended = [job for job in jobs if job.rid.startswith(rid_prefix)]
        for job in ended:
            job.finish = "abort"
            self.drop(job, now)
        return ended

    def drop(self, job: Job, now: float) -> None:
        """Forget `job` wherever it is; nothing happens if it is gone already."""
        self._decoding.discard(job)
        if job in self._waiting:
            self._waiting.remove(job)
        if job is self._prefilling:
            self._prefilling = None
            self._prefill_free_at = now
