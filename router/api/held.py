"""The decode worker's answer, where another worker does the prefill at the same time.

A decode worker may send its head long before it has anything to say, and then wait for ever for a
prefill that has failed. So its head is held until its body begins: until then the client has seen
nothing, and another pair can be tried. Nobody waits longer for that: a head alone is of no use.
"""

from __future__ import annotations

from typing import Final

import msgspec

from router.api.relay import Exchange
from router.core.logprobs import EVENT_END, InputLogprobs
from router.errors import RouterError
from router.upstream.connection import AnswerHead, RawHeaders

MOST_WAITING_BYTES: Final = 1 << 20  # read ahead of the prefill worker's answer


class HeldExchange(Exchange):
    """Holds the head of an answer below 400 until the body begins, or the answer ends."""

    _held: AnswerHead | None = None

    def head_received(self, head: AnswerHead) -> None:
        if head.status >= 400:
            super().head_received(head)
        else:
            self._held = head

    def body_received(self, payload: bytes) -> None:
        if self._let_go():
            super().body_received(payload)

    def answer_ended(self, trailers: RawHeaders) -> None:
        if self._let_go():
            super().answer_ended(trailers)

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
            head = msgspec.structs.replace(head, content_length=None, headers=headers)
            self._stream = head.content_type.startswith(b"text/event-stream")
        super().head_received(head)

    def body_received(self, payload: bytes) -> None:
        if self.head is not None and self.head.status >= 400:
            super().body_received(payload)
            return
        self._waiting += payload
        self._go_on()

    def answer_ended(self, trailers: RawHeaders) -> None:
        self._trailers = trailers
        self._go_on()

    def prefilled(self, logprobs: InputLogprobs) -> None:
        """The prefill worker has answered."""
        self._logprobs = logprobs
        if self.done.done() or not self.begun:
            return
        self._go_on()
        self.read_ended()
        if self._paused and not self._client.writing_paused:
            self.resume()

    def _go_on(self) -> None:
        """Pass on what is due."""
        logprobs, refused = self._logprobs, self.head is not None and self.head.status >= 400
        if logprobs is None and not refused:
            if len(self._waiting) > MOST_WAITING_BYTES:
                self.pause()
            return
        due = b""
        if logprobs is not None and self._stream:
            whole, end, self._waiting = self._waiting.rpartition(EVENT_END)
            if end:
                events = bytes(whole).split(EVENT_END)
                due = b"".join(logprobs.event(event) + EVENT_END for event in events)
        if self._trailers is not None and logprobs is not None:
            rest = bytes(self._waiting)
            due += rest if self._stream else logprobs.body(rest)
        if due:
            super().body_received(due)
        if self._trailers is not None and not self.done.done():
            super().answer_ended(self._trailers)
