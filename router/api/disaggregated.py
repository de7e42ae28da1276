"""Forwarding where one worker does the prefill and another one the decode: two legs of one attempt.

    choose pair -> sglang: [ prefill | decode -> relay ]      both at once
                   vllm:   [ prefill ] -> [ decode -> relay ] one after the other

The decode leg is the attempt that `inference` knows, relayed to the client; the prefill leg is an
exchange of the same kind, whose answer nobody but us reads. Each has its own permit, verdict and
place in the trace. When one fails the other is stopped at once, so that no engine waits for what
will not come, and is not blamed for that. As long as the client has seen nothing another pair is
tried, without the worker that failed.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from router.api.forwarding import Forwarding, Pairs
from router.api.held import HeldExchange, MergingExchange
from router.api.incoming import Incoming
from router.api.inference import Run
from router.api.leg import Leg
from router.api.prefill_leg import SILENT, PrefillLeg
from router.api.relay import Exchange
from router.api.taking import take_worker
from router.core.answers import AnswerFacts
from router.core.disaggregation import (
    NOT_GENERATING,
    SPLIT,
    check,
    for_decode,
    for_prefill,
    meeting,
    wants_input_logprobs,
    with_fields,
)
from router.core.facts import BadBody
from router.core.ranks import Rank
from router.core.retry import Failure
from router.core.worker import Worker
from router.errors import (
    BadRequest,
    ClientGone,
    FirstByteTimeout,
    NotSplit,
    NoWorker,
    OtherLegFailed,
    PairTimeout,
    PrefillRefused,
    RouterError,
    RouterStopped,
    TotalTimeout,
)
from router.fleet import Group

MERGED_ROUTE: Final = "/generate"
PREFILL_RANK: Final = (
    "disagg_prefill_dp_rank"  # newer SGLang goes by it, older by the room's number
)
READING: Final = ("GET", "HEAD")
NO_WORKERS: Final = (
    ClientGone,
    PairTimeout,
    RouterStopped,
    TotalTimeout,
)  # reasons that are no worker's


def run_of(shared: Forwarding, incoming: Incoming, pairs: Pairs) -> Run:
    """How a router with such pairs serves this request."""
    method = incoming.request.method
    if method == "POST" and incoming.path in SPLIT[pairs.protocol]:
        return PairRun(shared, incoming, pairs)
    if method in READING or incoming.path in NOT_GENERATING:
        return AtPrefill(shared, incoming, pairs)
    return Unsplit(shared, incoming)


def among(part: Group, group: Group) -> Group:
    """Those of `part` that serve the model that `group` serves."""
    return Group(part.policy, [w for w in part.workers if w in group.workers], part.kind)


class AtPrefill(Run):
    """What generates nothing is as well answered by a prefill worker."""

    def __init__(self, shared: Forwarding, incoming: Incoming, pairs: Pairs) -> None:
        super().__init__(shared, incoming)
        self._prefill = pairs.prefill

    def understand(self, body: bytes) -> None:
        super().understand(body)
        self.group = among(self._prefill, self.group)


class Unsplit(Run):
    """What cannot be split between two workers, and that none of them does alone."""

    def understand(self, body: bytes) -> None:
        super().understand(body)
        raise NotSplit(f"{self.incoming.path} is not served with --pd-disaggregation")


class PairRun(Run):
    """One request while it runs at two workers. What `Run` holds is the decode leg."""

    def __init__(self, shared: Forwarding, incoming: Incoming, pairs: Pairs) -> None:
        super().__init__(shared, incoming)
        self.pairs = pairs
        self.vllm = pairs.protocol == "vllm"
        self.prefill: PrefillLeg | None = None  # of the last attempt
        self.failed: list[Worker] = []  # of both groups
        self.merges = False  # the prefill's logprobs belong into the answer
        self._prefill_body = b""  # vLLM's

    def understand(self, body: bytes) -> None:
        """Facts, and who serves the model. Raises what `Run.understand` raises."""
        super().understand(body)
        if self.shared.models is not None:
            pairs, group = self.pairs, self.group
            self.pairs = Pairs(
                pairs.protocol, among(pairs.prefill, group), among(pairs.decode, group)
            )
        try:
            if "content-encoding" in self.incoming.request.headers:
                raise BadBody("a compressed body cannot be split between prefill and decode")
            if self.vllm:
                self._prefill_body = for_prefill(self.body)
            else:
                check(self.body, self.facts.sequences)
        except BadBody as error:
            raise BadRequest(str(error)) from None
        if not self.vllm and self.incoming.path == MERGED_ROUTE:
            self.merges = wants_input_logprobs(self.body)

    def _meet(self, prefill: Worker) -> bytes:
        """The body with a meeting point. Raises BadBody."""
        rank = None
        if isinstance(prefill, Rank) and prefill.rank is not None:
            rank = prefill.rank, prefill.process.dp_size or 1
        sequences, random = self.facts.sequences, self.shared.random
        point = meeting(prefill.host, prefill.bootstrap_port, sequences, random, rank)
        return with_fields(self.body, point)

    # -- attempts --------------------------------------------------------------------------

    def choose(self) -> None:
        """Take a worker of each kind, and write down why. Raises NoWorker."""
        now = self.shared.clock.now()
        before = self.pick(self.pairs.prefill, self.failed, now)
        try:
            leg = self.pick(self.pairs.decode, self.failed, now)
        except NoWorker:
            before.drop(now)
            raise
        self.leg = leg
        self.prefill = PrefillLeg(self, before, keep=self.merges or self.vllm)
        self.tried.append(leg.worker)
        for group, side in ((self.pairs.prefill, before), (self.pairs.decode, leg)):
            if group.policy.prefixes is not None:
                self.shared.caches.routed(self.facts.blocks, side.worker)
        self.record.prefilling(before, now)
        self.record.routed(leg, before, now)

    def pick(self, group: Group, tried: Collection[Worker], now: float) -> Leg:
        """One of `group`, with its permit. A worker that the request names is meant for the part that it
        can do. Raises NoWorker."""
        target = self.facts.target_worker
        if target is not None and any(
            worker.node_id == target
            for other in (self.pairs.prefill, self.pairs.decode)
            if other is not group
            for worker in other.workers
        ):
            self.facts.target_worker = None
        try:
            return take_worker(self.shared, group, self.facts, tried, now)
        finally:
            self.facts.target_worker = target

    def attempt(self) -> None:
        """Send it to two workers. Raises what `choose_again` raises."""
        self.choose_again()
        self.wait(self._at_both, self.answered)

    async def _at_both(self) -> None:
        """The decode worker's answer, relayed; or why it was not: it is in `exchange` then."""
        prefill, leg = self.prefill, self.leg
        assert prefill is not None and leg is not None
        try:
            if self.vllm:
                await self._one_after_the_other(prefill, leg)
            else:
                await self._both_at_once(prefill, leg.worker)
        except BadBody as error:
            raise BadRequest(str(error)) from None

    async def _both_at_once(self, prefill: PrefillLeg, worker: Worker) -> None:
        exchange = self.relaying(MergingExchange if self.merges else HeldExchange)
        self.exchange = exchange
        body = self._meet(prefill.worker)
        prefill.start(body, exchange)
        if prefill.worker.rank is not None:
            body = with_fields(body, {PREFILL_RANK: b"%d" % prefill.worker.rank})
        await self.sending_of(exchange, worker, body).carry()
        if isinstance(exchange.error, SILENT) and not prefill.over:
            exchange.error = self._whose_silence(prefill, exchange, worker)

    def _whose_silence(
        self, prefill: PrefillLeg, exchange: HeldExchange, worker: Worker
    ) -> RouterError:
        """Each may only have waited for the other; the one that did not even begin is to blame."""
        silent = prefill.exchange.head is None, not exchange.begun
        name_of = self.shared.pools.name_of
        first, second = name_of(prefill.worker), name_of(worker)
        prefill.error = None
        if silent == (True, False):
            prefill.error = FirstByteTimeout(f"worker {first} did not do its prefill in time")
            return prefill.error
        if silent == (False, True):
            return FirstByteTimeout(f"worker {second} did not begin to decode in time")
        return PairTimeout(f"workers {first} and {second} did not go on in time")

    async def _one_after_the_other(self, prefill: PrefillLeg, leg: Leg) -> None:
        self.exchange = exchange = self.relaying(Exchange)
        await prefill.carry(self._prefill_body)
        exchange.error = prefill.error
        if prefill.error is None:
            self.record.decoding(leg, self.shared.clock.now())
            body = for_decode(self.body, prefill.kept.body)
            await self.sending_of(exchange, leg.worker, body).carry()

    def body_began(self) -> None:
        """The answer has begun, so the input is computed."""
        if self.prefill is not None:
            self.prefill.leg.prefilled()

    def try_again(self, failure: Failure) -> bool:
        error = failure.error
        if isinstance(error, PrefillRefused):  # an answer, as a decode worker's would be
            failure = Failure(
                http_status=error.status, retry_after_seconds=error.retry_after_seconds
            )
        return super().try_again(failure)

    def others_left(self, now: float) -> bool:
        """Is there another one for the part that failed?"""
        prefill = self.prefill
        if prefill is not None and prefill.error is not None:
            return self.pairs.prefill.others_left(now, [*self.failed, prefill.worker])
        return self.pairs.decode.others_left(now, [*self.failed, *self.tried[-1:]])

    # -- ends ------------------------------------------------------------------------------

    def end_attempt(self, error: RouterError | None, now: float) -> None:
        """Give back what both legs hold, and say how each went. Harmless without any."""
        prefill, leg, exchange = self.prefill, self.leg, self.exchange
        if prefill is None or leg is None or leg.over:
            return
        worker = leg.worker
        status = None if exchange is None else exchange.http_status()
        prefill.leg.prefilled()
        if error is not None and error is prefill.error:
            self.failed += [prefill.worker] if error.blames_worker else [prefill.worker, worker]
            prefill.end(error)
            self.take_back(prefill.leg, prefill.exchange, error)
            super().end_attempt(OtherLegFailed(error.message, error.outcome), now)
            return
        super().end_attempt(error, now)
        if error is None and status is not None and status < 400:
            prefill.leave()
        elif isinstance(error, NO_WORKERS):
            prefill.stop(error)
        else:
            self.failed.append(worker)
            if error is None:
                refused = f"worker {worker.url} does not decode"
                prefill.stop(OtherLegFailed(refused, "worker_status"))
            else:
                prefill.stop(OtherLegFailed(error.message, error.outcome))

    def computing(self) -> Leg:
        assert self.prefill is not None
        return self.prefill.leg

    @property
    def workers(self) -> tuple[Worker, ...]:
        assert self.prefill is not None
        return (self.prefill.worker, self.tried[-1])

    def answer_facts(self, exchange: Exchange) -> AnswerFacts:
        """What the decode worker says, but for the cache: the prefill worker's is meant.

        vLLM's decode worker counts as cached what it was handed; SGLang's repeats what the prefill
        worker told it.
        """
        facts = exchange.facts()
        assert self.prefill is not None
        cached = self.prefill.exchange.facts().cached_tokens
        if cached is not None or self.vllm:
            facts.cached_tokens = cached
        return facts
