"""A worker as the router sees it: who it is, what is in flight there, may it be used.

Whether it may be used is composed of small questions: healthy, not draining, not full, and let
through by its breaker. The answer is needed of every worker for every request, so it is kept
ready (`ready`) and worked out anew only when one of its parts changes; only a breaker that is not
closed has to be asked with the time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, Literal, NamedTuple
from urllib.parse import SplitResult, urlsplit

from xxhash import xxh3_64_intdigest

from router.core.breaker import Breaker, BreakerSettings, Permit, Verdict
from router.core.health import Health, HealthSettings

DEFAULT_PORTS: Final = {"http": 80, "https": 443}
VISIBLE: Final = re.compile(r"[!-~]+")

Role = Literal["regular", "prefill", "decode"]


class WorkerUrlError(ValueError):
    """A worker URL that cannot be used. The message says why."""


def normalise_worker_url(url: str) -> str:
    """`url` as it appears in traces: always with a port, otherwise as configured.

    Raises WorkerUrlError for another scheme than http or https, or without a host.
    """
    parts = _split(url)
    return url if parts.port is not None else f"{url.rstrip('/')}:{DEFAULT_PORTS[parts.scheme]}"


def head_lines(
    host: str, port: int, *, tls: bool, api_key: str | None, rank: int | None = None
) -> bytes:
    """The header lines that every request to one worker has, each behind the end of another: `Host`, its
    rank and its key if it has one. vLLM and newer SGLang read the rank there.

    Raises ValueError for a key that cannot be in a header.
    """
    name = f"[{host}]" if ":" in host else host
    if port != DEFAULT_PORTS["https" if tls else "http"]:
        name = f"{name}:{port}"
    lines = b"\r\nHost: " + name.encode()
    if rank is not None:
        lines += b"\r\nX-Data-Parallel-Rank: %d" % rank
    if api_key is None:
        return lines
    if VISIBLE.fullmatch(api_key) is None:
        raise ValueError("a worker's key has characters that cannot be in a header")
    return lines + b"\r\nAuthorization: Bearer " + api_key.encode()


def _split(url: str) -> SplitResult:
    if VISIBLE.fullmatch(url) is None:
        # urlsplit would overlook a line end; in a header of ours it would begin another.
        raise WorkerUrlError(f"worker URL {url!r}: only visible ASCII characters are allowed")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise WorkerUrlError(f"worker URL {url!r}: {error}") from None
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        raise WorkerUrlError(f"worker URL {url!r}: expected http://HOST:PORT or https://HOST:PORT")
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username:
        raise WorkerUrlError(f"worker URL {url!r}: only scheme, host and port are allowed")
    if port == 0:
        raise WorkerUrlError(f"worker URL {url!r}: port 0")
    return parts


class Change(NamedTuple):
    """A change of a worker's state, worth one log line."""

    what: Literal["health", "breaker", "draining"]
    before: str
    after: str
    reason: str


class Worker:
    """One worker. `in_flight` and `processed` count this replica's requests.

    `load` and `queued_tokens` are those of all replicas: our own are exact, the others' as last
    heard (`core/shared_load.py`). Queued are the input tokens, as far as we expect them not to be
    cached, of requests that have not had a first byte yet. `digest` names the worker in what
    replicas tell each other: it is made from the URL and the rank alone. `rank` is set for one
    data-parallel rank of an engine (`core/ranks.py`); `target` is the URL, with `@rank` where there is
    one: what no two workers share.

    Without `health` and `breaker` it is healthy and never tripped. `max_in_flight` is the most
    requests this replica may have there (None: no limit). `role` is which part of a request it does;
    `bootstrap_port` is where SGLang's decode workers ask a prefill worker for its cache (None: the
    engine's usual one).
    """

    __slots__ = (
        "adapters",
        "api_key",
        "bootstrap_port",
        "breaker",
        "digest",
        "dp_size",
        "engine",
        "engine_version",
        "head_lines",
        "health",
        "host",
        "in_flight",
        "listeners",
        "max_in_flight",
        "model_id",
        "model_ids",
        "node_id",
        "origin",
        "others_in_flight",
        "others_queued_tokens",
        "own_queued_tokens",
        "port",
        "processed",
        "rank",
        "ready",
        "role",
        "target",
        "tls",
        "url",
        "_draining",
    )

    def __init__(
        self,
        url: str,
        node_id: str,
        *,
        api_key: str | None = None,
        health: Health | None = None,
        breaker: Breaker | None = None,
        max_in_flight: int | None = None,
        role: Role = "regular",
        bootstrap_port: int | None = None,
        rank: int | None = None,
    ) -> None:
        parts = _split(url)
        self.url = normalise_worker_url(url)
        self.rank = rank
        at_rank = "" if rank is None else f"@{rank}"
        self.target = self.url + at_rank
        self.digest = xxh3_64_intdigest((self.url.rstrip("/") + at_rank).encode())
        self.node_id = node_id
        self.role = role
        self.bootstrap_port = bootstrap_port
        self.origin: str | None = None  # where it was discovered, if it was
        self.tls = parts.scheme == "https"
        self.host = parts.hostname or ""
        self.port = parts.port or DEFAULT_PORTS[parts.scheme]
        self.use_key(api_key)
        self.model_id: str | None = None
        self.model_ids: tuple[str, ...] = ()
        self.adapters: tuple[str, ...] = ()  # those of them that are LoRA adapters
        self.engine: str | None = None
        self.engine_version: str | None = None
        self.dp_size: int | None = None  # data-parallel ranks, where the engine says so
        self.in_flight = 0
        self.others_in_flight = 0
        self.own_queued_tokens = 0
        self.others_queued_tokens = 0
        self.processed = 0
        self.max_in_flight = max_in_flight
        self.listeners: list[Callable[[Worker, Change], None]] = []
        self._draining = False
        self.health = health or Health(HealthSettings(enabled=False))
        self.own_health()
        self.breaker = breaker or Breaker(BreakerSettings(enabled=False))
        self.breaker.on_change = self._breaker_changed
        self.ready = False
        self._refresh()

    def use_key(self, api_key: str | None) -> None:
        """Send this key with every request. Raises ValueError where it cannot be in a header."""
        self.head_lines = head_lines(
            self.host, self.port, tls=self.tls, api_key=api_key, rank=self.rank
        )
        self.api_key = api_key

    def own_health(self) -> None:
        """Changes of health are told to this worker, and by it to its listeners."""
        self.health.on_change = self._health_changed

    # -- may it be used? -------------------------------------------------------------------

    @property
    def healthy(self) -> bool:
        return self.health.state == "healthy"

    @healthy.setter
    def healthy(self, healthy: bool) -> None:
        self.health.decree(healthy, "set by hand")

    @property
    def draining(self) -> bool:
        """A draining worker finishes what it has and gets nothing new."""
        return self._draining

    @property
    def full(self) -> bool:
        return self.max_in_flight is not None and self.in_flight >= self.max_in_flight

    @property
    def in_use(self) -> bool:
        """Would it take requests if it were not full?"""
        return self.healthy and not self._draining and self.breaker.state == "closed"

    def available(self, now: float) -> bool:
        """May a request be sent there? Every question but the breaker's is in `ready`."""
        return self.ready or (
            self.healthy and not self._draining and not self.full and self.breaker.allows(now)
        )

    def drain(self, draining: bool = True) -> None:
        """Take the worker out of use, or back in."""
        if draining != self._draining:
            self._draining = draining
            before, after = ("serving", "draining") if draining else ("draining", "serving")
            self._changed(Change("draining", before, after, "asked for"))

    # -- how much is there? ----------------------------------------------------------------

    @property
    def load(self) -> int:
        """Requests in flight here, of all replicas."""
        return self.in_flight + self.others_in_flight

    @property
    def queued_tokens(self) -> int:
        """Uncached input tokens, of all replicas, that wait for their prefill here."""
        return self.own_queued_tokens + self.others_queued_tokens

    def heard(self, in_flight: int, queued_tokens: int) -> None:
        """What the other replicas have here, together."""
        self.others_in_flight = in_flight
        self.others_queued_tokens = queued_tokens

    def queue(self, tokens: int) -> None:
        """A request was sent here whose prefill we expect to take so many tokens."""
        self.own_queued_tokens += tokens

    def prefilled(self, tokens: int) -> None:
        """The request that `queue` counted has had its first byte, or has ended."""
        self.own_queued_tokens -= tokens

    # -- the life of one attempt -----------------------------------------------------------

    def begin(self, now: float) -> Permit | None:
        """An attempt starts here: count it and take the breaker's permit.

        None, and nothing is counted, when the breaker admits no request now.
        """
        permit = self.breaker.acquire(now)
        if permit is not None:
            self.start()
        return permit

    def answered(self, permit: Permit, verdict: Verdict) -> None:
        """The head of an answer came. `verdict` is what its status says of the worker."""
        self.health.answered()
        if verdict == "success":
            self.breaker.answered(permit)

    def end(self, permit: Permit, verdict: Verdict | None, now: float) -> None:
        """The attempt has ended; once for each `begin`. None: the client left, nobody is to blame.

        Never waits and never raises, so it may stand in a `finally`.
        """
        if verdict is None:
            self.breaker.cancel(permit)
        else:
            self.breaker.record(permit, verdict, now)
        self.release()

    def start(self) -> None:
        """A request is on its way to this worker."""
        self.in_flight += 1
        if self.max_in_flight is not None:
            self._refresh()

    def release(self) -> None:
        """The request that `start` counted has ended, however it ended."""
        self.in_flight -= 1
        self.processed += 1
        if self.max_in_flight is not None:
            self._refresh()

    # -- changes of state ------------------------------------------------------------------

    def _health_changed(self, before: str, after: str, reason: str) -> None:
        self._changed(Change("health", before, after, reason))
        if after == "healthy":
            # A worker that was restarted must not wait for the rest of the breaker's timeout.
            self.breaker.try_again("the worker is healthy again")

    def _breaker_changed(self, before: str, after: str, reason: str) -> None:
        self._changed(Change("breaker", before, after, reason))

    def _changed(self, change: Change) -> None:
        self._refresh()
        for listener in self.listeners:
            listener(self, change)

    def _refresh(self) -> None:
        self.ready = self.in_use and not self.full

    def __repr__(self) -> str:
        state = "draining" if self._draining else self.health.state
        tripped = "" if self.breaker.state == "closed" else f", breaker {self.breaker.state}"
        return f"<Worker {self.node_id} {self.url} {state}{tripped}, {self.in_flight} in flight>"
