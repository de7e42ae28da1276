"""Which headers go on to a worker, and which come back. Whole heads, as bytes.

Towards the worker a list of what may pass (contract, section 5): an engine needs little, and what
it does not get cannot hurt it: no cookies, and no `Accept-Encoding`, so bodies come back plain.
Back to the client everything passes but what belongs to the connection, and what only we may say.

Framing is ours on both sides: `Content-Length` of a request is written from the body we hold, and
an answer's is passed on only when it is beyond doubt. Nothing here looks into values, but CR, LF
and NUL never pass: the parsers before us refuse them, and one look at each line makes sure.

Most headers are letter for letter what they were in the request before, so the line that one became
is kept. Lines that are too long for that, or need to be seen each time, are made again. Of an answer's
head that is known to have come again, the whole is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from router.core.answer_head import AnswerHead, Framing
from router.core.kept import keep
from router.core.worker import Worker
from router.errors import BadRequest, WorkerCut

Header = tuple[bytes, bytes]
RawHeaders = Sequence[Header]

# Belong to one connection (RFC 9110, 7.6.1), whatever `Connection` says of them.
HOP_BY_HOP: Final = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
# Said by us in every request or meant for our server; `--forward-headers` cannot name them.
OURS_IN_REQUESTS: Final = HOP_BY_HOP | {b"content-length", b"expect", b"host", b"x-request-id"}
FORWARDED: Final = frozenset(
    (
        b"accept",
        b"authorization",
        b"baggage",
        b"traceparent",
        b"tracestate",
        b"x-correlation-id",
        b"x-smg-routing-key",
    )
)
FORWARDED_PREFIXES: Final = (b"content-", b"x-request-id-")
# Said by us in answers; from a worker they are not believed. Those beginning x-smg- neither.
OURS_IN_ANSWERS: Final = frozenset((b"x-request-id", b"x-request-id-replaced", b"x-trace-partial"))
DROPPED_FROM_ANSWERS: Final = HOP_BY_HOP | OURS_IN_ANSWERS
OUR_PREFIX: Final = b"x-smg-"
# Not worth naming in `Connection`: nothing of ours is forwarded under these names anyway.
USUAL_CONNECTION: Final = frozenset((b"keep-alive", b"close", b""))

TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
AUTHORIZATION: Final = b"authorization"
CONNECTION: Final = b"connection"
UNSOUND_REQUEST: Final = "the head of the request has characters that must not be in it"
# Of these the lines are kept no longer than they are needed.
SECRET: Final = frozenset(
    (AUTHORIZATION, b"cookie", b"proxy-authorization", b"set-cookie", b"x-api-key")
)
BOTH_LENGTHS: Final = "the worker's answer has both a length and a transfer coding"
ROUTED: Final = b"x-smg-routed-worker-id: "
GOES: Final = b""  # the line of a header that does not go on
CR, LF, NUL, SPACE = b"\r\n\0 "


class HeaderRules:
    """Writes the heads of forwarded requests and of their answers. One for the whole router.

    `forward` (`--forward-headers`) holds names, or prefixes that end in `*`. With `guarded` (an
    `--api-key` is set) the client's `Authorization` is the router's own secret and goes no
    further. `hide_worker_urls` names workers to clients by their node ids. Raises ValueError for
    what is no header's name, or the name of a header that is ours to write.
    """

    __slots__ = (
        "_guarded",
        "_hide_urls",
        "_in_answers",
        "_in_requests",
        "_names",
        "_prefixes",
        "_request_lines",
    )

    def __init__(
        self,
        *,
        forward: Iterable[str] = (),
        guarded: bool = False,
        hide_worker_urls: bool = False,
    ) -> None:
        self._hide_urls = hide_worker_urls
        names, prefixes = set(FORWARDED), list(FORWARDED_PREFIXES)
        for given in forward:
            name = given.strip().lower().encode()
            stem = name.removesuffix(b"*")
            if TOKEN.fullmatch(stem) is None:
                raise ValueError(f"{given!r} is not the name of a header")
            if name in OURS_IN_REQUESTS:
                raise ValueError(f"the router writes the header {given!r} itself")
            if stem == name:
                names.add(name)
            else:
                prefixes.append(stem)
        names.discard(AUTHORIZATION)  # has rules of its own
        self._names = frozenset(names)
        self._prefixes = tuple(prefixes)
        self._guarded = guarded
        self._in_requests: dict[Header, bytes] = {}
        self._in_answers: dict[Header, bytes] = {}
        self._request_lines: dict[tuple[str, str], bytes] = {}

    def request_head(
        self,
        method: str,
        target: str,
        raw_headers: RawHeaders,
        worker: Worker,
        id_line: bytes,
        content_length: int | None,
        written: dict[bool, bytes],
    ) -> bytes:
        """The head of a request to `worker`, with its empty line.

        `id_line` is our header with the request's id. `content_length` is None for a request without a
        body. What `raw_headers` become is put into `written` and taken from there again, for heads that
        only differ in their length. Raises BadRequest for what could be read as more than one head.
        """
        first = self._request_lines.get((method, target))
        if first is None:
            first = self._request_line(method, target)
        authorized = self._guarded or worker.api_key is not None
        theirs = written.get(authorized)
        if theirs is None:
            theirs = written[authorized] = self._theirs(raw_headers, authorized)
        length = b""
        if content_length is not None:
            length = b"\r\nContent-Length: " + str(content_length).encode()
        return b"".join(
            (first, worker.head_lines, b"\r\n", _asked(id_line), theirs, length, b"\r\n\r\n")
        )

    def _theirs(self, raw_headers: RawHeaders, authorized: bool) -> bytes:
        """Those of a client's headers that go on, each behind the end of a line. `authorized`: without
        its `Authorization`."""
        lines = [b""]
        known = self._in_requests
        named = None
        for header in raw_headers:
            line = known.get(header)
            if line is None:
                name, value = header
                lowered = name.lower()
                if lowered == AUTHORIZATION:
                    # Only one, ours before the client's: two would leave it to the worker which counts.
                    line = GOES if authorized else _asked(name + b": " + value)
                    authorized = True
                elif lowered == CONNECTION and value.lower() not in USUAL_CONNECTION:
                    line = GOES
                    named = value if named is None else named + b"," + value
                else:
                    line = self._of_request(header, lowered)
            if line:
                lines.append(line)
        if named is not None:
            lines[1:] = _not_claimed(lines[1:], named)
        return b"\r\n".join(lines)

    def _request_line(self, method: str, target: str) -> bytes:
        path = target.encode("utf-8", "surrogateescape")  # back to the bytes the client sent
        if SPACE in path or not path.startswith(b"/"):
            raise BadRequest(UNSOUND_REQUEST)
        line = _asked(b"%b %b HTTP/1.1" % (method.encode(), path))
        keep(self._request_lines, (method, target), line, len(line))
        return line

    def _of_request(self, header: Header, lowered: bytes) -> bytes:
        name, value = header
        line = GOES
        if lowered in self._names or (
            lowered.startswith(self._prefixes)
            and lowered not in OURS_IN_REQUESTS
            and lowered != AUTHORIZATION
        ):
            line = _asked(name + b": " + value)
        if lowered not in SECRET:
            keep(self._in_requests, header, line, len(name) + len(value))
        return line

    def response_head(
        self,
        answer: AnswerHead,
        framing: Framing,
        worker: Worker,
        own: bytes,
        http11: bool,
        keep_alive: bool,
    ) -> bytes:
        """The head of the answer to the client, with its empty line.

        `own` are our header lines for this request. `http11` and `keep_alive` say what the client
        speaks and wants. Raises WorkerCut where headers leave in doubt where the answer ends.
        """
        passed = answer.passed
        if passed is None:
            passed = answer.passed = self._passed(answer)
        first, theirs = passed
        shown = worker.node_id if self._hide_urls else worker.target
        lines = [first, own, ROUTED, shown.encode(), theirs]
        length = answer.content_length
        if length is not None:
            if framing.chunked:
                raise WorkerCut(BOTH_LENGTHS)
            if answer.status != 204:  # which has no body to have a length (RFC 9110, 8.6)
                lines.append(b"\r\nContent-Length: %d" % length)
        if framing.chunked:
            lines.append(b"\r\nTransfer-Encoding: chunked")
        if framing.until_close or not keep_alive:
            lines.append(b"\r\nConnection: close")
        elif not http11:
            lines.append(b"\r\nConnection: keep-alive")
        lines.append(b"\r\n\r\n")
        return b"".join(lines)

    def _passed(self, answer: AnswerHead) -> tuple[bytes, bytes]:
        """The status line, and the headers that have nothing to do with framing."""
        first = _answered(b"HTTP/1.1 %d %b" % (answer.status, answer.reason)) + b"\r\n"
        lines = [b""]
        known = self._in_answers
        named = length = None
        chunked = False
        for header in answer.headers:
            line = known.get(header)
            if line is None:
                name, value = header
                lowered = name.lower()
                line = GOES
                if lowered == b"content-length":
                    if not value.isdigit() or (length is not None and length != value):
                        raise WorkerCut("the worker's answer has conflicting lengths")
                    length = value
                elif lowered == b"transfer-encoding":
                    chunked = True
                elif lowered != CONNECTION:
                    line = self._of_answer(header, lowered)
                elif value.lower() not in USUAL_CONNECTION:
                    named = value if named is None else named + b"," + value
            if line:
                lines.append(line)
        if chunked and length is not None:
            raise WorkerCut(BOTH_LENGTHS)
        if named is not None:
            lines[1:] = _not_claimed(lines[1:], named)
        return first, b"\r\n".join(lines)

    def _of_answer(self, header: Header, lowered: bytes) -> bytes:
        name, value = header
        line = GOES
        if lowered not in DROPPED_FROM_ANSWERS and not lowered.startswith(OUR_PREFIX):
            line = _answered(name + b": " + value)
        if lowered not in SECRET:
            keep(self._in_answers, header, line, len(name) + len(value))
        return line


def _not_claimed(lines: list[bytes], connection: bytes) -> list[bytes]:
    """`lines` without the headers that `Connection` claims for itself."""
    claimed = {token.strip().lower() for token in connection.split(b",")}
    return [line for line in lines if line.partition(b":")[0].lower() not in claimed]


def _asked(line: bytes) -> bytes:
    """A line of a request's head, as it is. Raises BadRequest."""
    if not _sound(line):
        raise BadRequest(UNSOUND_REQUEST)
    return line


def _answered(line: bytes) -> bytes:
    """A line of an answer's head, as it is. Raises WorkerCut."""
    if not _sound(line):
        raise WorkerCut("the worker's answer has control characters in its headers")
    return line


def _sound(line: bytes) -> bool:
    """Can it be read as one line only?"""
    return CR not in line and LF not in line and NUL not in line
