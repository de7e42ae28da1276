"""What the clients ask and how an answer is judged. Pure: sending is the clients' own business."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import quote, urlencode, urlsplit

import msgspec

PATH: Final = "/v1/traces"
ENDPOINTS: Final = frozenset(("batch", "export", "stats", "stream"))  # beside the ids
MAX_BATCH: Final = 1000
# The replica, or the balancer before it, cannot answer now; another may.
TRY_ANOTHER: Final = frozenset((502, 503, 504))
NEXT_PAGE: Final = re.compile(r'<([^>]*)>\s*;\s*rel="?next"?')

Value = str | int | float | bool | datetime | timedelta | Sequence[str]


class ClientError(Exception):
    """A question could not be answered."""


class Unreachable(ClientError):
    """None of the URLs could be reached. The message names each and why."""


class Refused(ClientError):
    """A router answered with an error: its `status`, `code` and message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class NotFound(Refused, LookupError):
    """No trace is held under this id."""


class Ask(msgspec.Struct, frozen=True):
    """One request. `target` is path and query; `body` is JSON."""

    method: str
    target: str
    body: bytes | None = None
    headers: dict[str, str] = {}


class Answer(msgspec.Struct, frozen=True):
    """Names of `headers` are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class _ErrorObject(msgspec.Struct):
    message: str = ""
    code: str | int | None = None


class _ErrorBody(msgspec.Struct):
    error: _ErrorObject


class Replicas:
    """The URLs of the routers; the one that answered last is asked first.

    Raises ValueError for a URL that is not http(s)://HOST.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        if not urls:
            raise ValueError("expected the URL of a router, such as http://localhost:30000")
        for url in urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"expected http://HOST:PORT or https://HOST:PORT, got {url!r}")
        self._urls = [url.rstrip("/") for url in urls]
        self._first = 0

    def turn(self) -> Turn:
        """For one question."""
        return Turn(self, [*self._urls[self._first :], *self._urls[: self._first]])

    def passed_over(self, url: str) -> None:
        if self._urls[self._first] == url:
            self._first = (self._first + 1) % len(self._urls)


class Turn:
    """The URLs to try with one question, in order, and how they failed."""

    def __init__(self, replicas: Replicas, urls: Sequence[str]) -> None:
        self._replicas = replicas
        self._urls = urls
        self._failures: dict[str, str] = {}
        self._last: Refused | None = None

    def __iter__(self) -> Iterator[str]:
        return iter(self._urls)

    def failed(self, url: str, error: Exception) -> None:
        """Nothing came from this one."""
        self._failures[url] = str(error) or type(error).__name__
        self._replicas.passed_over(url)

    def refused(self, url: str, answer: Answer) -> None:
        """It cannot answer now; see TRY_ANOTHER."""
        self._last = error_of(answer)
        self.failed(url, self._last)

    def give_up(self) -> ClientError:
        """What to raise when all have failed."""
        if self._last is not None:
            return self._last
        told = (f"{url}: {why}" for url, why in self._failures.items())
        return Unreachable("no router can be reached: " + "; ".join(told))


def error_of(answer: Answer) -> Refused:
    """The error that an answer of 400 or more tells."""
    try:
        told = msgspec.json.decode(answer.body, type=_ErrorBody).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        told = _ErrorObject(answer.body[:200].decode("latin-1").strip())
    kind = NotFound if answer.status == 404 and told.code == "not_found" else Refused
    return kind(
        answer.status, str(told.code or ""), told.message or f"the router answered {answer.status}"
    )


# -- questions -----------------------------------------------------------------------------


def one(method: str, request_id: str) -> Ask:
    """A trace by any of its ids. Raises what `askable` raises."""
    return Ask(method, f"{PATH}/{quote(askable(request_id), safe='')}")


def askable(request_id: str) -> str:
    """The id. Raises ValueError for what no trace can have as one."""
    if not request_id or request_id in ENDPOINTS:
        raise ValueError(f"{request_id!r} is no id of a request")
    return request_id


def batch(ids: Sequence[str]) -> Ask:
    """At most MAX_BATCH ids."""
    return Ask("POST", f"{PATH}/batch", msgspec.json.encode({"request_ids": ids}))


def query(method: str, path: str, parameters: Mapping[str, Value | None]) -> Ask:
    """`path` below /v1/traces; parameters that are None are left out."""
    given = {name: text_of(value) for name, value in parameters.items() if value is not None}
    return Ask(method, f"{PATH}{path}?{urlencode(given)}" if given else PATH + path)


def next_page(answer: Answer) -> Ask | None:
    """The question that a page's Link header leads to; None on the last page."""
    found = NEXT_PAGE.search(answer.headers.get("link", ""))
    if found is None:
        return None
    parts = urlsplit(found[1])
    return Ask("GET", f"{parts.path}?{parts.query}")


def text_of(value: Value) -> str:
    """A parameter as the router reads it. Raises ValueError for a time without a zone."""
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone: use datetime.now(UTC) or the like")
        return value.isoformat()
    if isinstance(value, timedelta):
        return f"{round(value.total_seconds())}s"
    if isinstance(value, float):
        return f"{value:.9f}".rstrip("0").rstrip(".")
    if isinstance(value, str | int):
        return str(value)
    return ",".join(value)
