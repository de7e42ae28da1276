"""How a request ended, as the trace tells it."""

from __future__ import annotations

import pytest

from router.core.answers import AnswerFacts
from router.core.outcome import answer_trouble, attempt_trouble, terminal_status, trace_error
from router.errors import (
    BadRequest,
    ClientGone,
    ConnectFailed,
    NoWorker,
    QueueFull,
    QueueTimeout,
    RequestTimeout,
    RouterError,
    RouterStopped,
    TooLarge,
    WorkerCut,
)


def ended(error: RouterError, *, tried: bool) -> str:
    return terminal_status(error, trace_error(error), tried=tried)


@pytest.mark.parametrize(
    "error", [NoWorker, QueueFull, QueueTimeout, RequestTimeout, TooLarge, BadRequest]
)
def test_what_never_reached_a_worker_was_rejected(error: type[RouterError]) -> None:
    assert ended(error("x"), tried=False) == "rejected"


def test_no_worker_left_after_an_attempt_is_a_failure() -> None:
    assert ended(NoWorker("x"), tried=True) == "failed"


@pytest.mark.parametrize("tried", [False, True])
def test_a_client_that_left_cancelled_its_request_wherever_it_was(tried: bool) -> None:
    assert ended(ClientGone("x"), tried=tried) == "cancelled"


@pytest.mark.parametrize("error", [ConnectFailed, WorkerCut, RouterStopped])
def test_everything_else_failed(error: type[RouterError]) -> None:
    assert ended(error("x"), tried=True) == "failed"


def test_without_trouble_it_is_completed() -> None:
    assert terminal_status(None, None, tried=True) == "completed"


def test_an_answer_of_400_and_more_is_the_workers_status_in_its_own_words() -> None:
    told = answer_trouble(AnswerFacts(error="context too long"), 400)
    assert told is not None
    assert (told.type, told.message) == ("worker_status", "context too long")
    silent = answer_trouble(AnswerFacts(), 503)
    assert silent is not None
    assert silent.message == "the worker answered 503"


def test_an_answer_that_says_abort_is_not_complete() -> None:
    trouble = answer_trouble(AnswerFacts(aborted=True), 200)
    assert trouble is not None
    assert trouble.type == "worker_abort"
    assert answer_trouble(AnswerFacts(), 200) is None


def test_an_attempt_shows_its_error_before_its_status() -> None:
    cut = attempt_trouble(WorkerCut("gone"), 200)
    assert cut is not None
    assert cut.type == "worker_cut"
    refused = attempt_trouble(None, 503)
    assert refused is not None
    assert refused.type == "worker_status"
    assert attempt_trouble(None, 200) is None
