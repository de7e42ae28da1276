"""The prefill half of an attempt at a pair of workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from router.api.held import HeldExchange, MergingExchange
from router.api.inference import Run
from router.api.leg import Leg
from router.api.relay import ClientFacts, ClientStream, Exchange, Owner
from router.core.answer_head import AnswerHead, Framing
from router.core.disaggregation import is_transfer_trouble
from router.core.logprobs import InputLogprobs
from router.core.retry import parse_retry_after
from router.core.usage import ResponseScanner
from router.errors import (
    FirstByteTimeout,
    IdleTimeout,
    PrefillAborted,
    PrefillRefused,
    RouterError,
    TransferFailed,
)

# Of a prefill worker's answer: logprobs of a long prompt, or the blocks of its cache.
MOST_KEPT_BYTES: Final = 256 << 20
MOST_OF_ERROR_BYTES: Final = 64 << 10
SILENT: Final = (FirstByteTimeout, IdleTimeout)
NOBODY: Final = ClientFacts(
    http11=False, keep_alive=False, head_request=False, accepts_trailers=False
)


class Kept(ClientStream):
    """Reads a prefill worker's answer in the client's place; `write` gets the body as it came."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: list[bytes] = []
        self._size = 0

    def writing_paused(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= self._limit:
            self._pieces.append(data)

    def writelines(self, parts: list[bytes]) -> None:
        for part in parts:
            self.write(part)

    def attach(self, exchange: Exchange | None) -> None:
        """Nobody here to fall behind."""

    @property
    def body(self) -> bytes:
        """Empty where it was too much."""
        return b"".join(self._pieces) if self._size <= self._limit else b""


class PrefillLeg(Owner):
    """One attempt's prefill, and how it went. `keep` the answer whole.

    `error` is set once it has failed by itself.
    """

    def __init__(self, run: Run, leg: Leg, *, keep: bool) -> None:
        self._run = run
        self._retry_after: str | None = None
        self._stop: Callable[[], bool] | None = None
        self.leg = leg
        self.worker = leg.worker
        self.error: RouterError | None = None
        self.kept = Kept(MOST_KEPT_BYTES if keep else MOST_OF_ERROR_BYTES)
        leg.queue(run.facts.input_tokens)
        self.exchange = Exchange(
            self.kept,
            NOBODY,
            run.shared.settings.limits,
            ResponseScanner(run.incoming.path, run.facts.stream),
            self,
            leg.series.gaps,
            run.incoming.arrived,
            run.shared.clock.now,
        )

    @property
    def over(self) -> bool:
        """Nothing is held at the worker any more."""
        return self.leg.over

    # -- what its exchange tells (`Owner`) ---------------------------------------------------

    def head_received(self, head: AnswerHead, framing: Framing, now: float) -> bytes:
        self.leg.answered(head.status)
        after = head.first(b"retry-after")
        self._retry_after = None if after is None else after.decode("latin-1")
        return b""

    def body_began(self) -> None:
        """It is the decode's that says that the input is computed."""

    def known_as(self, engine_request_id: str) -> None:
        """The decode worker's is the request's."""

    def exchange_over(self) -> None:
        """Who carries it waits for that."""

    # -- its life ----------------------------------------------------------------------------

    def start(self, body: bytes, decode: HeldExchange) -> None:
        """Ask the worker, in the background, at the same time as `decode` is asked."""
        name = f"prefill of {self._run.incoming.request_id}"
        self._stop = self._run.shared.spawn(self._beside(body, decode), name)

    async def _beside(self, body: bytes, decode: HeldExchange) -> None:
        await self._run.sending_of(self.exchange, self.worker, body).carry()
        if self.over:
            return
        self.error = self._trouble()
        if not isinstance(self.error, SILENT) or decode.relayed():
            self.end(self.error)  # else only both together tell whose silence it was
        if self.error is not None and not decode.relayed():
            decode.end(self.error)
        elif self.error is None and isinstance(decode, MergingExchange):
            stream = self.exchange.scanner.stream
            decode.prefilled(InputLogprobs(self.kept.body, stream=stream))

    async def carry(self, body: bytes) -> None:
        """Ask the worker; its answer is then in `kept`, or `error` is set."""
        await self._run.sending_of(self.exchange, self.worker, body).carry()
        self.error = self._trouble()
        self.end(self.error)

    def _trouble(self) -> RouterError | None:
        head, facts = self.exchange.head, self.exchange.facts()
        if self.exchange.error is not None or head is None:
            return self.exchange.error
        if facts.error is not None and is_transfer_trouble(facts.error):
            return TransferFailed(f"prefill: {facts.error}")
        if head.status >= 400:
            body = self.kept.body
            said = facts.error or " ".join(body[:200].decode("utf-8", "replace").split())
            error = PrefillRefused(head.status, (head.reason, head.content_type, body), said)
            now = self._run.shared.clock.unix_us() / 1e6
            error.retry_after_seconds = parse_retry_after(self._retry_after, now)
            return error
        aborted = facts.abort_message(head.status)
        return None if aborted is None else PrefillAborted(f"prefill: {aborted}")

    # -- its end -----------------------------------------------------------------------------

    def end(self, error: RouterError | None) -> None:
        """Give back what is held and write down how it went. Harmless when that was done."""
        # An answer is judged by its status, like any other worker's.
        judged = None if isinstance(error, PrefillRefused) else error
        self.leg.end(self.exchange, judged, self._run.shared.clock.now())

    def stop(self, error: RouterError) -> None:
        """End it now: the worker is not to go on."""
        if not self.over:
            self.end(error)
            self.exchange.abort()
            if self._stop is not None:
                self._stop()

    def leave(self) -> None:
        """The answer is whole, so the prefill is done: let its own answer end by itself, which it is
        about to do. What the trace says of it is said now."""
        if not self.over:
            head = self.exchange.head
            status = None if head is None else head.status
            self.leg.tell(status, None, self._run.shared.clock.now())
