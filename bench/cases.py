"""What is measured: one entry a case."""

from __future__ import annotations

import msgspec

REQUEST_VARIANTS = 256


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One load. `interval_us` is the time between the events of a stream; 0: no pause."""

    name: str
    body_bytes: int
    connections: int
    stream: bool = False
    events: int = 0
    interval_us: int = 0
    answer_bytes: int = 1024
    warmup_seconds: float = 1.5

    @property
    def prompt_tokens(self) -> int:
        """What the workers say of each prompt; about what its length is worth."""
        return self.body_bytes // 5

    @property
    def stagger_seconds(self) -> float:
        """Streams begin evenly over the length of one."""
        return self.events * self.interval_us / 1e6


CASES = (
    Case(name="json-1k", body_bytes=1024, connections=64),
    Case(name="json-16k", body_bytes=16 * 1024, connections=64),
    Case(name="sse", body_bytes=1024, connections=16, stream=True, events=2000),
    Case(
        name="sse-10k",
        body_bytes=1024,
        connections=100,
        stream=True,
        events=100,
        interval_us=10_000,
        warmup_seconds=2.5,
    ),
    Case(
        name="sse-30k",
        body_bytes=1024,
        connections=300,
        stream=True,
        events=100,
        interval_us=10_000,
        warmup_seconds=2.5,
    ),
)


def requests(case: Case) -> tuple[bytes, int]:
    """The requests of `case` one after the other, and the length of each.

    They differ from the first word on, so that no router gains from a prompt seen before.
    """
    whole = b""
    for number in range(REQUEST_VARIANTS):
        body = _body(case, number)
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        whole += head.encode() + body
    return whole, len(whole) // REQUEST_VARIANTS


def _body(case: Case, number: int) -> bytes:
    def encode(content: str) -> bytes:
        message = {"role": "user", "content": content}
        fields = {"model": "mock", "messages": [message], "max_tokens": 100}
        return msgspec.json.encode(fields | {"stream": case.stream})

    room = case.body_bytes - len(encode(""))
    words = f"{number:04} asks what the router does with a prompt of this length. "
    return encode((words * (room // len(words) + 1))[:room])
