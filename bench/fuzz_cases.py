"""What the fuzzer sends: good requests and answers, and how they are spoiled."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final, Literal

import msgspec

Ending = Literal["silence", "fin", "rst"]
ENDINGS: Final[Sequence[Ending]] = ("silence", "fin", "rst")
MAX_BODY_BYTES: Final = 100_000

PROMPT = "the quick brown fox jumps over the lazy dog " * 8
BODIES: Final[Sequence[tuple[bytes, bytes]]] = tuple(
    (path, msgspec.json.encode(body))
    for path, body in (
        (b"/generate", {"text": PROMPT, "sampling_params": {"max_new_tokens": 8}}),
        (b"/generate", {"text": [PROMPT, "b"], "rid": ["a1", "a2"], "stream": True}),
        (b"/generate", {"input_ids": list(range(300)), "rid": "mine", "stream": False}),
        (b"/generate", {"input_ids": [[1, 2], [3]], "sampling_params": [{"n": 2}, {}]}),
        (
            b"/v1/chat/completions",
            {
                "model": "m",
                "stream": True,
                "n": 2,
                "messages": [
                    {"role": "system", "content": "be kind"},
                    {"role": "user", "content": [{"type": "text", "text": PROMPT}]},
                    {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]},
                ],
                "user": "u1",
            },
        ),
        (b"/v1/completions", {"model": "m", "prompt": [PROMPT, PROMPT], "stream": False}),
        (b"/v1/embeddings", {"model": "m", "input": ["a", "b"]}),
        (b"/v1/responses", {"model": "m", "input": [{"role": "user", "content": "hi"}]}),
        (b"/v1/rerank", {"query": "q", "documents": ["a", "b"]}),
        (b"/v1/unheard/of", {"x": 1}),
    )
)
HEADERS: Final = (
    b"X-Request-Id: test-1",
    b"X-Request-Id: a/b c",
    b"X-Trace-Label: run 7",
    b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    b"x-smg-routing-key: user-9",
    b"Connection: close",
    b"Connection: keep-alive, x-trace-label",
    b"Expect: 100-continue",
    b"TE: trailers",
    b"Content-Encoding: gzip",
    b"Upgrade: websocket",
    b"Authorization: Bearer none",
    b"Cookie: " + b"c" * 300,
)
OTHERS: Final = (
    b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n",
    b"GET /v1/traces?limit=10&status=failed HTTP/1.1\r\nHost: t\r\n\r\n",
    b"GET /v1/unheard/of?x=%2f HTTP/1.1\r\nHost: t\r\n\r\n",
    b"HEAD /v1/unheard/of HTTP/1.1\r\nHost: t\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: t\r\n\r\n",
    b"GET /metrics HTTP/1.0\r\n\r\n",
    b"GET http://t/v1/traces/stats HTTP/1.1\r\nHost: t\r\n\r\n",
)
TOKENS: Final = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b"\r\n\r\n",
    b": ",
    b"0\r\n\r\n",
    b"ffffffffffffffff\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: +5\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Expect: 200-maybe\r\n",
    b"Content-Type: multipart/form-data; boundary=x\r\n",
    b"Content-Type: text/event-stream\r\n",
    b"X-Request-Id: \xff\xfe\r\n",
    b" folded: line\r\n",
    b"HTTP/1.0",
    b"HTTP/2.0",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    b"/../",
    b"//",
    b"%2e%2e",
    b"%00",
    b"?",
    b"#",
    b'"\\ud800"',
    b'"\\u0000"',
    b"NaN",
    b"-1",
    b"1e999",
    b"9" * 400,
    b"null",
    b"true",
    b"{}",
    b"[]",
    b"[" * 3000,
    b'{"a":' * 3000,
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b"data: ",
    b"data: [DONE]\n\n",
    b'"usage":{"prompt_tokens":-5,"completion_tokens":"x"}',
    b'"meta_info":{"id":5,"cached_tokens":1e99,"prompt_tokens":0}',
    b"x" * 70_000,
)


def spoil(data: bytes, random: Random, pool: Sequence[bytes]) -> bytes:
    """`data` with one to four small things done to it."""
    for _ in range(random.choice((1, 1, 1, 2, 3, 4))):
        at = random.randrange(len(data) + 1)
        upto = min(len(data), at + random.choice((1, 1, 2, 4, 16, 200)))
        match random.randrange(8):
            case 0:
                data = data[:at] + bytes([random.randrange(256)]) + data[at + 1 :]
            case 1:
                data = data[:at] + random.randbytes(random.randrange(1, 9)) + data[at:]
            case 2:
                data = data[:at] + data[upto:]
            case 3:
                data = data[:upto] + data[at:upto] * random.choice((1, 2, 50)) + data[upto:]
            case 4:
                data = data[:at]
            case 5:
                other = random.choice(pool)
                data = data[:at] + other[random.randrange(len(other) + 1) :]
            case 6:  # where lines begin: a header more
                line = data.find(b"\n", at) + 1
                data = data[:line] + random.choice(TOKENS) + data[line:]
            case _:
                data = data[:at] + random.choice(TOKENS) + data[at:]
    return data


def pieces(data: bytes, random: Random) -> list[bytes]:
    """`data` as it may come from a socket: whole, mostly; or cut anywhere."""
    cuts = random.choice((0, 0, 1, 1, 2, 5))
    places = sorted(random.randrange(len(data) + 1) for _ in range(cuts))
    edges = zip([0, *places], [*places, len(data)], strict=True)
    return [piece for start, end in edges if (piece := data[start:end])]


def chunked(data: bytes, random: Random) -> bytes:
    size = random.choice((1, 7, 64, 1000)) if len(data) < 500 else 1000
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def good_request(random: Random, body: bytes | None = None) -> bytes:
    """One that any HTTP server would take; `body` stands in for the good one."""
    if body is None and random.random() < 0.1:
        return random.choice(OTHERS)
    path, usual = random.choice(BODIES)
    content = usual if body is None else body
    lines = [b"POST " + path + b" HTTP/1.1", b"Host: t", b"Content-Type: application/json"]
    lines += random.sample(HEADERS, random.choice((0, 0, 1, 2)))
    if random.random() < 0.3:
        head = [*lines, b"Transfer-Encoding: chunked"]
        return b"\r\n".join(head) + b"\r\n\r\n" + chunked(content, random)
    head = [*lines, b"Content-Length: %d" % len(content)]
    return b"\r\n".join(head) + b"\r\n\r\n" + content


def bad_request(random: Random) -> bytes:
    """Spoiled in its bytes, or only in its body with a head that fits, or two in a row."""
    if random.random() < 0.4:
        body = spoil(random.choice(BODIES)[1], random, [b for _, b in BODIES])
        return good_request(random, body)
    first = good_request(random)
    data = spoil(first, random, [good_request(random), first])
    return data + good_request(random) if random.random() < 0.2 else data


def plain_request(random: Random) -> tuple[bytes, bool]:
    """A short good request, and whether it is HTTP/1.1."""
    path, body = random.choice(BODIES[:7])
    version = b"1.1" if random.random() < 0.8 else b"1.0"
    head = b"POST %b HTTP/%b\r\nHost: t\r\nTE: trailers\r\nContent-Length: %d\r\n\r\n"
    return head % (path, version, len(body)) + body, version == b"1.1"


class Answer(msgspec.Struct, frozen=True):
    """A good answer. `ends_itself`: its end is in its bytes, not in the close behind them."""

    data: bytes
    ends_itself: bool


def _event(number: int) -> bytes:
    text = (
        b'data: {"text":"a","meta_info":{"id":"e1","prompt_tokens":9,"completion_tokens":%d}}\n\n'
    )
    return text % number


def good_answer(random: Random) -> Answer:
    sse = b"".join(_event(n) for n in range(random.choice((1, 3, 12)))) + b"data: [DONE]\n\n"
    json = (
        b'{"text":"hi","meta_info":{"id":"e1","prompt_tokens":9,"completion_tokens":2,'
        b'"cached_tokens":4,"finish_reason":{"type":"stop"},"e2e_latency":0.1}}'
    )
    early = random.choice((b"", b"", b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"))
    status = random.choice((b"200 OK",) * 6 + (b"400 Bad", b"503 Busy", b"500 X", b"429 Slow"))
    head = early + b"HTTP/1.1 " + status + b"\r\nserver: w\r\n"
    match random.randrange(5):
        case 0:
            kind = b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(json)
            return Answer(head + kind + json, True)
        case 1:
            kind = b"content-type: application/json\r\nconnection: close\r\n\r\n"
            return Answer(head + kind + json, False)
        case 2:
            return Answer(head + b"content-length: 0\r\n\r\n", True)
        case 3:
            body = chunked(sse, random)[:-2] + b"X-Sum: 1\r\n\r\n"
            kind = b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            return Answer(head + kind + body, True)
        case _:
            kind = b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            return Answer(head + kind + chunked(sse, random), True)
