"""Which headers go to a worker, and which come back to the client."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.core.answer_head import AnswerHead, Framing
from router.core.headers import HeaderRules
from router.core.kept import MOST_BYTES, MOST_KEPT
from router.core.worker import Worker, WorkerUrlError
from router.errors import BadRequest, WorkerCut

RULES = HeaderRules()
WORKER = Worker("http://10.0.0.7:30005", "worker-0")
KEYED = Worker("http://10.0.0.7:30005", "worker-0", api_key="wk-1")


def sent(
    *raw: tuple[bytes, bytes],
    rules: HeaderRules = RULES,
    worker: Worker = WORKER,
    method: str = "POST",
    target: str = "/generate",
    request_id: str = "id-1",
    content_length: int | None = 3,
    written: dict[bool, bytes] | None = None,
) -> list[bytes]:
    """The lines of the head that a worker gets."""
    head = rules.request_head(
        method,
        target,
        raw,
        worker=worker,
        id_line=b"X-Request-Id: " + request_id.encode(),
        content_length=content_length,
        written={} if written is None else written,
    )
    assert head.endswith(b"\r\n\r\n")
    return head[:-4].split(b"\r\n")


def told(
    *raw: tuple[bytes, bytes],
    rules: HeaderRules = RULES,
    status: int = 200,
    reason: bytes = b"OK",
    framing: Framing | None = None,
    own: bytes = b"X-Request-Id: id-1\r\n",
    http11: bool = True,
    keep_alive: bool = True,
) -> list[bytes]:
    """The lines of the head that a client gets."""
    length = next((int(v) for n, v in raw if n.lower() == b"content-length" and v.isdigit()), None)
    head = rules.response_head(
        AnswerHead(status, reason, list(raw), length),
        framing or Framing(chunked=False, until_close=False, has_body=True),
        worker=WORKER,
        own=own,
        http11=http11,
        keep_alive=keep_alive,
    )
    assert head.endswith(b"\r\n\r\n")
    return head[:-4].split(b"\r\n")


IN_CHUNKS = Framing(chunked=True, until_close=False, has_body=True)
UNTIL_CLOSE = Framing(chunked=False, until_close=True, has_body=True)
OURS = [b"X-Request-Id: id-1", b"x-smg-routed-worker-id: http://10.0.0.7:30005"]


# -- towards the worker --------------------------------------------------------------------


def test_a_request_head_has_host_id_and_length() -> None:
    assert sent() == [
        b"POST /generate HTTP/1.1",
        b"Host: 10.0.0.7:30005",
        b"X-Request-Id: id-1",
        b"Content-Length: 3",
    ]


def test_a_request_without_a_body_has_no_length() -> None:
    assert sent(method="GET", target="/v1/x?a=1", content_length=None) == [
        b"GET /v1/x?a=1 HTTP/1.1",
        b"Host: 10.0.0.7:30005",
        b"X-Request-Id: id-1",
    ]


@pytest.mark.parametrize(
    "name",
    [
        *("Content-Type", "content-encoding", "Content-Language", "Accept", "Authorization"),
        *("X-Request-Id-Parent", "X-Correlation-ID", "traceparent", "tracestate", "baggage"),
        "X-SMG-Routing-Key",
    ],
)
def test_these_go_on_as_they_are(name: str) -> None:
    assert b"%b: Some Value" % name.encode() in sent((name.encode(), b"Some Value"))


@pytest.mark.parametrize(
    "name",
    [
        *("Cookie", "User-Agent", "X-Custom", "Accept-Encoding", "Accept-Language", "Host"),
        *("Connection", "Keep-Alive", "TE", "Trailer", "Transfer-Encoding", "Upgrade", "Expect"),
        *("Proxy-Authorization", "Proxy-Connection", "Content-Length", "X-Request-Id", "Forwarded"),
        *("X-Forwarded-For", "X-Api-Key", "X-Trace-Label", "x-request-idx", "contentx", "Via"),
    ],
)
def test_these_do_not(name: str) -> None:
    assert sent((name.encode(), b"7")) == sent()


def test_trace_context_is_neither_validated_nor_rewritten() -> None:
    assert b"traceparent: nonsense" in sent((b"traceparent", b"nonsense"))


def test_the_clients_request_id_is_replaced_by_the_one_in_the_trace() -> None:
    lines = sent((b"X-REQUEST-ID", b"theirs"), request_id="ours")
    assert [line for line in lines if b"equest-Id" in line] == [b"X-Request-Id: ours"]


def test_further_headers_may_be_named_also_by_prefix() -> None:
    rules = HeaderRules(forward=["X-Tenant", "x-lab-*"])
    lines = sent((b"x-tenant", b"a"), (b"X-Lab-Run", b"b"), (b"x-label", b"c"), rules=rules)
    assert lines[3:-1] == [b"x-tenant: a", b"X-Lab-Run: b"]


@pytest.mark.parametrize(
    "name", ["Host", "content-length", "Transfer-Encoding", "connection", "TE", "X-Request-Id"]
)
def test_the_headers_that_the_router_writes_cannot_be_named(name: str) -> None:
    with pytest.raises(ValueError, match="writes the header"):
        HeaderRules(forward=[name])


@pytest.mark.parametrize("name", ["", "*", "a b", "a:", "x\r\ny", "ä"])
def test_what_is_no_header_cannot_be_named(name: str) -> None:
    with pytest.raises(ValueError, match="not the name of a header"):
        HeaderRules(forward=[name])


def test_a_wide_prefix_still_lets_no_framing_through() -> None:
    rules = HeaderRules(forward=["t*", "c*", "h*", "x-*"])
    names = (
        b"TE",
        b"Transfer-Encoding",
        b"Connection",
        b"Host",
        b"Content-Length",
        b"X-Request-Id",
    )
    assert sent(*((name, b"chunked") for name in names), rules=rules) == sent()


def test_headers_that_connection_claims_are_removed() -> None:
    lines = sent(
        (b"traceparent", b"x"),
        (b"Connection", b"keep-alive, Traceparent"),
        (b"connection", b"baggage"),
        (b"Baggage", b"y"),
        (b"Accept", b"z"),
    )
    assert lines[3:] == [b"Accept: z", b"Content-Length: 3"]


def test_connection_cannot_claim_what_is_ours() -> None:
    lines = sent(
        (b"Connection", b"Host, X-Request-Id, Content-Length, Authorization"), worker=KEYED
    )
    assert lines == sent(worker=KEYED)


def test_the_clients_key_goes_to_a_worker_without_one() -> None:
    assert b"Authorization: Bearer abc" in sent((b"Authorization", b"Bearer abc"))


def test_a_workers_own_key_replaces_the_clients() -> None:
    lines = sent((b"Authorization", b"Bearer abc"), worker=KEYED)
    assert [line for line in lines if b"uthorization" in line] == [b"Authorization: Bearer wk-1"]


@pytest.mark.parametrize("worker", [WORKER, KEYED])
def test_the_routers_own_key_goes_to_no_worker(worker: Worker) -> None:
    rules = HeaderRules(guarded=True, forward=["Authorization", "auth*"])
    lines = sent((b"Authorization", b"Bearer secret"), rules=rules, worker=worker)
    assert lines == sent(worker=worker)


def test_two_keys_of_a_client_become_one() -> None:
    lines = sent((b"Authorization", b"Bearer a"), (b"authorization", b"Bearer b"))
    assert [line for line in lines if b"uthorization" in line] == [b"Authorization: Bearer a"]


def test_a_key_that_changes_is_used_from_then_on() -> None:
    worker = Worker("http://10.0.0.7:30005", "worker-0")
    worker.use_key("new")
    assert b"Authorization: Bearer new" in sent(worker=worker)
    worker.use_key(None)
    assert sent(worker=worker) == sent()


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://gpu-7:30005", b"gpu-7:30005"),
        ("http://gpu-7", b"gpu-7"),
        ("https://gpu-7", b"gpu-7"),
        ("https://gpu-7:80", b"gpu-7:80"),
        ("http://[::1]:30005", b"[::1]:30005"),
    ],
)
def test_host_names_the_worker(url: str, host: bytes) -> None:
    assert sent(worker=Worker(url, "w"))[1] == b"Host: " + host


@pytest.mark.parametrize(
    "url", ["http://a:1\r\nX: y", "http://a b:1", "http://ä:1", "http://a:1\0"]
)
def test_a_worker_url_cannot_smuggle_a_header(url: str) -> None:
    with pytest.raises(WorkerUrlError):
        Worker(url, "w")


@pytest.mark.parametrize("key", ["a b", "a\r\nb", "ä", ""])
def test_a_worker_key_cannot_smuggle_a_header(key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        Worker("http://a:1", "w", api_key=key)


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("target", "/a\r\nX: y"),
        ("target", "/a b"),
        ("target", "a"),
        ("target", ""),
        ("target", "/a\0"),
        ("target", "/a\n"),
        ("method", "GET\r\n"),
        ("request_id", "a\rb"),
    ],
)
def test_a_request_line_cannot_smuggle_a_header(what: str, value: str) -> None:
    with pytest.raises(BadRequest):
        sent(**{what: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("evil", [b"\r\n", b"\n", b"\r", b"\0", b"\r\nX: y", b"a\r\n\r\nGET / "])
@pytest.mark.parametrize("where", [0, 1])
def test_a_forwarded_header_cannot_smuggle_another(evil: bytes, where: int) -> None:
    header = [b"Content-Type", b"a"]
    header[where] += evil
    with pytest.raises(BadRequest):
        sent((header[0], header[1]))


def test_bytes_of_a_target_that_are_not_utf_8_arrive_as_sent() -> None:
    target = b"/v1/x?q=\xff\xc3\xa4".decode("utf-8", "surrogateescape")
    assert sent(target=target)[0] == b"POST /v1/x?q=\xff\xc3\xa4 HTTP/1.1"


NAMES = st.sampled_from(
    [b"Content-Type", b"accept", b"Connection", b"x-request-id-a", b"Authorization", b"Host"]
) | st.binary(max_size=12)


@given(st.lists(st.tuples(NAMES, st.binary(max_size=12)), max_size=8), st.text(max_size=10))
def test_whatever_is_sent_a_worker_gets_one_well_formed_head(raw, target) -> None:
    try:
        lines = sent(*raw, target="/" + target)
    except (BadRequest, UnicodeEncodeError):
        return
    assert lines[0].split(b" ") == [
        b"POST",
        b"/" + target.encode("utf-8", "surrogateescape"),
        b"HTTP/1.1",
    ]
    names = [line.partition(b":")[0].lower() for line in lines[1:]]
    for name in (b"host", b"x-request-id", b"content-length"):
        assert names.count(name) == 1
    assert names.count(b"authorization") <= 1
    assert not {b"transfer-encoding", b"connection", b"te", b"expect"} & set(names)


# -- back to the client --------------------------------------------------------------------


def test_end_to_end_headers_come_back_untouched() -> None:
    raw = (
        (b"Date", b"Mon, 01 Jan 2026 00:00:00 GMT"),
        (b"server", b"uvicorn"),
        (b"Content-Type", b"text/event-stream; charset=utf-8"),
        (b"Retry-After", b"3"),
        (b"Set-Cookie", b"a=1"),
        (b"Set-Cookie", b"b=2"),
        (b"content-encoding", b"gzip"),
        (b"X-Custom", "ä".encode()),
    )
    assert told(*raw) == [b"HTTP/1.1 200 OK", *OURS] + [n + b": " + v for n, v in raw]


@pytest.mark.parametrize(
    "name",
    [
        *("Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Connection", "TE", "Trailer"),
        *("Transfer-Encoding", "Upgrade", "X-Request-Id", "X-Request-Id-Replaced"),
        *("x-smg-routed-worker-id", "X-SMG-Error-Code", "X-Trace-Partial"),
    ],
)
def test_these_of_a_worker_are_dropped(name: str) -> None:
    assert told((name.encode(), b"whatever")) == told()


def test_headers_that_the_workers_connection_claims_are_removed() -> None:
    lines = told((b"X-Hop", b"1"), (b"Connection", b"close, X-Hop"), (b"X-End", b"2"))
    assert lines[3:] == [b"X-End: 2"]


def test_the_workers_connection_cannot_claim_what_is_ours() -> None:
    claims = (b"Connection", b"x-request-id, x-smg-routed-worker-id, content-length")
    assert told(claims, (b"Content-Length", b"5")) == told((b"Content-Length", b"5"))


def test_the_worker_is_named_by_its_node_when_urls_are_hidden() -> None:
    assert told(rules=HeaderRules(hide_worker_urls=True))[2] == b"x-smg-routed-worker-id: worker-0"


def test_a_known_length_stays_and_is_written_once() -> None:
    lines = told((b"content-length", b"5"), (b"Content-Length", b"5"))
    assert [line for line in lines if line.lower().startswith(b"content-length")] == [
        b"Content-Length: 5"
    ]


def test_an_unknown_length_comes_in_chunks_or_until_close() -> None:
    assert told(framing=IN_CHUNKS)[-1] == b"Transfer-Encoding: chunked"
    assert told(framing=UNTIL_CLOSE, http11=False)[-1] == b"Connection: close"


def test_a_204_has_no_length() -> None:
    assert told((b"Content-Length", b"0"), status=204) == told(status=204)


def test_the_connection_to_the_client_is_as_the_client_wants() -> None:
    assert b"Connection" not in b"".join(told())
    assert told(keep_alive=False)[-1] == b"Connection: close"
    assert told(http11=False)[-1] == b"Connection: keep-alive"
    assert told(http11=False, keep_alive=False)[-1] == b"Connection: close"


@pytest.mark.parametrize(
    "raw",
    [
        ((b"Content-Length", b"5"), (b"Content-Length", b"6")),
        ((b"Content-Length", b"5, 5"),),
        ((b"Content-Length", b"+5"),),
        ((b"Content-Length", b""),),
        ((b"Content-Length", b"5"), (b"Transfer-Encoding", b"chunked")),
        ((b"Transfer-Encoding", b"chunked"), (b"content-length", b"5")),
    ],
)
def test_doubtful_lengths_break_the_answer(raw) -> None:
    with pytest.raises(WorkerCut):
        told(*raw)


@pytest.mark.parametrize("evil", [b"\r\n", b"\n", b"\r", b"\0", b"\r\nX: y"])
def test_a_worker_cannot_smuggle_a_header(evil: bytes) -> None:
    for raw in ((b"X-A" + evil, b"b"), (b"X-A", b"b" + evil)):
        with pytest.raises(WorkerCut):
            told(raw)
    with pytest.raises(WorkerCut):
        told(reason=b"OK" + evil)


@given(st.lists(st.tuples(NAMES | st.just(b"Content-Length"), st.binary(max_size=12)), max_size=8))
def test_whatever_a_worker_says_the_client_gets_one_well_formed_head(raw) -> None:
    try:
        has_length = any(n == b"Content-Length" for n, _ in raw)
        lines = told(*raw, framing=None if has_length else IN_CHUNKS)
    except WorkerCut:
        return
    assert lines[:3] == [b"HTTP/1.1 200 OK", *OURS]
    names = [line.partition(b":")[0].lower() for line in lines[3:]]
    assert names.count(b"content-length") + names.count(b"transfer-encoding") == 1
    assert not any(name.startswith(b"x-smg-") for name in names)


def test_what_was_written_for_a_head_like_it_is_taken_where_the_same_goes_on() -> None:
    raw = ((b"Accept", b"a"), (b"Authorization", b"Bearer c"))
    written: dict[bool, bytes] = {}
    for worker in (WORKER, KEYED, WORKER, KEYED):
        for length in (3, 14):
            like = sent(*raw, worker=worker, content_length=length, written=written)
            assert like == sent(*raw, worker=worker, content_length=length)
    assert written == {
        False: b"\r\nAccept: a\r\nAuthorization: Bearer c",
        True: b"\r\nAccept: a",
    }


def test_nothing_is_written_of_a_head_that_is_refused() -> None:
    written: dict[bool, bytes] = {}
    with pytest.raises(BadRequest):
        sent((b"Accept", b"a\rb"), written=written)
    assert written == {}


# -- what is kept of lines -----------------------------------------------------------------


def test_whatever_comes_the_memory_of_lines_is_bounded() -> None:
    rules = HeaderRules()
    for number in range(MOST_KEPT + 10):
        text = b"%d" % number
        for raw in ((b"Accept", text), (b"X-Gone", text), (b"X-Gone", text * MOST_BYTES)):
            assert (b"Accept: " + text in sent(raw, rules=rules)) == (raw[0] == b"Accept")
            assert (raw[0] + b": " + raw[1]) in told(raw, rules=rules, reason=text)
        assert sent(rules=rules, target=f"/{number}")[0] == b"POST /%b HTTP/1.1" % text
    kept = (rules._in_requests, rules._in_answers, rules._request_lines)
    assert all(0 < len(lines) <= MOST_KEPT for lines in kept)
    assert all(len(n) + len(v) <= MOST_BYTES for lines in kept[:2] for n, v in lines)


def test_an_evil_line_is_refused_again_and_again() -> None:
    for _ in range(3):
        with pytest.raises(BadRequest):
            sent((b"Accept", b"a\rb"))
        with pytest.raises(WorkerCut):
            told((b"X-A", b"a\rb"))


@pytest.mark.parametrize("name", [b"Authorization", b"Cookie", b"X-API-Key"])
def test_a_secret_is_not_kept(name: bytes) -> None:
    rules = HeaderRules()
    sent((name, b"abc"), (b"Accept", b"def"), rules=rules)
    assert list(rules._in_requests) == [(b"Accept", b"def")]
