"""The decode worker's answer, where another worker does the prefill at the same time.

A decode worker may send its head long before it has anything to say, and then wait for ever for a
prefill that has failed. So its head is held until its body begins: until then the client has seen
nothing, and another pair can be tried. Nobody waits longer for that: a head alone is of no use.
"""

from __future__ import annotations

from typing import Final

from router.api.relay import Exchange
from router.core.answer_head import AnswerHead, RawHeaders
from router.core.logprobs import EVENT_END, InputLogprobs
from router.errors import RouterError

MOST_WAITING_BYTES: Final = 1 << 20  # read ahead of the prefill worker's answer


class HeldExchange(Exchange):
    """Holds the head of an answer below 400 until the body begins, or the answer ends."""

    _held: AnswerHead | None = None

    def head_received(self, head: AnswerHead) -> None:
        if head.status >= 400:
            super().head_received(head)
        else:
            self._held = head

    def received(
        self, payload: bytes, trailers: RawHeaders | None, chunk: bytes | None = None
    ) -> None:
        due = payload or trailers is not None
        if self._held is None or (due and self._let_go()):
            super().received(payload, trailers, chunk)

    @property
    def begun(self) -> bool:
        """Has a head come?"""
        return self._held is not None or self.head is not None

    def _let_go(self) -> bool:
        """Pass the head on, if it is still held. False where that ends the exchange."""
        head, self._held = self._held, None
        if head is not None:
            try:
                super().head_received(head)
            except RouterError as error:  # headers that must not be passed on
                self.end(error)
                return False
        return True


class MergingExchange(HeldExchange):
    """Puts the prefill's logprobs of the input before those in this answer.

    For that it waits for `prefilled`. A body is passed on when it is whole, a stream event by event.
    """

    _stream = False
    _waiting: bytearray
    _trailers: RawHeaders | None = None  # of an answer that is whole
    _logprobs: InputLogprobs | None = None

    def head_received(self, head: AnswerHead) -> None:
        self._waiting = bytearray()
        if head.status < 400:  # the answer will have another length
            headers = [(n, v) for n, v in head.headers if n.lower() != b"content-length"]
            head = AnswerHead(
                head.status, head.reason, headers, None, head.content_type, head.content_encoding
            )
            self._stream = head.content_type.startswith(b"text/event-stream")
        super().head_received(head)

    def received(
        self, payload: bytes, trailers: RawHeaders | None, chunk: bytes | None = None
    ) -> None:
        if self.head is not None and self.head.status >= 400:
            super().received(payload, trailers, chunk)
            return
        self._waiting += payload
        self._trailers = trailers
        self._go_on()

    def prefilled(self, logprobs: InputLogprobs) -> None:
        """The prefill worker has answered."""
        self._logprobs = logprobs
        if self.over or not self.begun:
            return
        self._go_on()
        if self._paused and not self._client.writing_paused():
            self.resume()

    def _go_on(self) -> None:
        """Pass on what is due."""
        logprobs = self._logprobs
        if logprobs is None:
            if len(self._waiting) > MOST_WAITING_BYTES:
                self.pause()
            return
        due = b""
        if self._stream:
            whole, end, self._waiting = self._waiting.rpartition(EVENT_END)
            if end:
                events = bytes(whole).split(EVENT_END)
                due = b"".join(logprobs.event(event) + EVENT_END for event in events)
        if self._trailers is not None:
            rest = bytes(self._waiting)
            due += rest if self._stream else logprobs.body(rest)
        super().received(due, self._trailers)
