"""What one call amounts to: success, failure or neither; and which options make sense together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from aresilience import (
    AresilienceError,
    Backoff,
    BulkheadFull,
    CircuitBreaker,
    CircuitOpen,
    DeadlineExceeded,
    Outcome,
    Rejected,
    TimedOut,
    Window,
)
from aresilience.breaker.judge import NO_RESULT, Judge

SUCCESS, FAILURE, IGNORED = Outcome.SUCCESS, Outcome.FAILURE, Outcome.IGNORED

OPTIONS: dict[str, Any] = {
    "failure_threshold": None,
    "failure_rate": None,
    "window": None,
    "minimum_calls": None,
    "slow_call_duration": None,
    "slow_call_rate": None,
    "failure_on": Exception,
    "ignore": (),
    "failure_if": None,
}


class Refused(ConnectionRefusedError):
    """A subclass of a subclass of ConnectionError."""


class BusinessGroup(ExceptionGroup[Exception]):
    """A group that somebody made a type of its own for."""


def judge(**options: Any) -> Judge:
    """A judge with the options that a breaker has when nothing is said, but these."""
    return Judge(**(OPTIONS | options))


def status(code: int) -> Exception:
    """An error that says an HTTP status."""
    error = RuntimeError(code)
    error.code = code  # type: ignore[attr-defined]
    return error


def is_server_error(error: Exception) -> bool:
    """A predicate on errors."""
    return getattr(error, "code", 0) >= 500


def explode(_: object) -> bool:
    """A predicate that must not be asked."""
    raise AssertionError("asked")


@pytest.mark.parametrize(
    ("options", "error", "outcome"),
    [
        ({}, ValueError(), FAILURE),
        ({"failure_on": ConnectionError}, Refused(), FAILURE),
        ({"failure_on": ConnectionError}, ValueError(), SUCCESS),
        ({"failure_on": (ConnectionError, is_server_error)}, status(503), FAILURE),
        ({"failure_on": (ConnectionError, is_server_error)}, status(404), SUCCESS),
        ({"failure_on": ()}, ValueError(), SUCCESS),
        ({"ignore": ConnectionError}, Refused(), IGNORED),
        ({"ignore": Refused}, ConnectionRefusedError(), FAILURE),
        ({"ignore": is_server_error}, status(500), IGNORED),
        ({"failure_on": Refused, "ignore": ConnectionError}, Refused(), IGNORED),
        ({"failure_on": explode, "ignore": ValueError}, ValueError(), IGNORED),
    ],
)
def test_errors_are_failures_ignored_or_answers(
    options: dict[str, Any], error: Exception, outcome: Outcome
) -> None:
    """`ignore` beats `failure_on`, subclasses included (resilience4j had to fix that); the rest answers."""
    assert judge(**options).of_error(error) is outcome


@pytest.mark.parametrize(
    "error",
    [
        asyncio.CancelledError(),
        KeyboardInterrupt(),
        SystemExit(),
        GeneratorExit(),
        BaseExceptionGroup("", [ValueError(), asyncio.CancelledError()]),
    ],
    ids=lambda e: type(e).__name__,
)
def test_cancellation_is_decided_before_any_predicate(error: BaseException) -> None:
    """Cancellation and interpreter exits count nowhere, and no predicate of the user is asked."""
    assert judge(failure_on=explode, ignore=explode).of_error(error) is IGNORED


@pytest.mark.parametrize(
    ("options", "error", "outcome"),
    [
        ({}, Rejected(), IGNORED),
        ({}, BulkheadFull(), IGNORED),
        ({}, CircuitOpen(), IGNORED),
        ({}, DeadlineExceeded(), IGNORED),
        ({}, TimedOut(), FAILURE),
        ({}, AresilienceError(), FAILURE),
        ({"failure_on": ConnectionError}, Rejected(), IGNORED),
        ({"failure_on": explode}, Rejected(), IGNORED),
        ({"failure_on": BulkheadFull}, BulkheadFull(), FAILURE),
        ({"failure_on": Rejected}, BulkheadFull(), FAILURE),
        ({"failure_on": BulkheadFull}, CircuitOpen(), IGNORED),
        ({"failure_on": BulkheadFull, "ignore": Rejected}, BulkheadFull(), IGNORED),
        ({"failure_on": ConnectionError}, TimedOut(), SUCCESS),
        ({"ignore": TimeoutError}, TimedOut(), IGNORED),
    ],
)
def test_refusals_of_other_policies_are_neutral(
    options: dict[str, Any], error: Exception, outcome: Outcome
) -> None:
    """A refusal is evidence for nothing, unless its type is named; a time limit of ours is a failure."""
    assert judge(**options).of_error(error) is outcome


@pytest.mark.parametrize(
    ("options", "group", "outcome"),
    [
        ({}, ExceptionGroup("", [ValueError()]), FAILURE),
        ({}, ExceptionGroup("", [ExceptionGroup("", [Rejected(), ValueError()])]), FAILURE),
        ({}, ExceptionGroup("", [Rejected(), DeadlineExceeded()]), IGNORED),
        ({"ignore": ValueError}, ExceptionGroup("", [ValueError(), ValueError()]), IGNORED),
        ({"ignore": ValueError}, ExceptionGroup("", [ValueError(), KeyError()]), FAILURE),
        ({"ignore": ValueError}, ExceptionGroup("", [ValueError(), Rejected()]), IGNORED),
        ({"failure_on": OSError}, ExceptionGroup("", [ValueError(), KeyError()]), SUCCESS),
        ({"failure_on": OSError}, ExceptionGroup("", [ValueError(), Rejected()]), SUCCESS),
        ({"failure_on": OSError}, ExceptionGroup("", [ValueError(), Refused()]), FAILURE),
        (
            {"failure_on": ConnectionError, "ignore": Refused},
            ExceptionGroup("", [Refused(), KeyError()]),
            SUCCESS,
        ),
        ({"failure_on": is_server_error}, ExceptionGroup("", [status(503)]), FAILURE),
        ({"failure_on": BusinessGroup}, BusinessGroup("", [ValueError()]), FAILURE),
        ({"failure_on": OSError}, BusinessGroup("", [ValueError()]), SUCCESS),
        ({"ignore": BusinessGroup}, BusinessGroup("", [ValueError()]), IGNORED),
        ({"ignore": ExceptionGroup}, ExceptionGroup("", [ValueError()]), IGNORED),
    ],
)
def test_b5_groups_are_split_and_classified(
    options: dict[str, Any], group: Exception, outcome: Outcome
) -> None:
    """B5: an ExceptionGroup is split and classified: a failure if a leaf is one, ignored if all are."""
    assert judge(**options).of_error(group) is outcome


@pytest.mark.parametrize(
    ("failure_if", "result", "outcome"),
    [
        (None, 500, SUCCESS),
        (lambda code: code >= 500, 500, FAILURE),
        (lambda code: code >= 500, 404, SUCCESS),
        (lambda result: result is None, None, FAILURE),
        (lambda rows: rows, [], SUCCESS),
        (lambda rows: rows, ["truthy"], FAILURE),
        (explode, NO_RESULT, SUCCESS),
    ],
)
def test_results_can_be_failures(
    failure_if: Callable[[Any], object] | None, result: object, outcome: Outcome
) -> None:
    """`failure_if` judges results by truth; where there is no result it is not asked, and None is one."""
    assert judge(failure_if=failure_if).of_result(result) is outcome


def test_predicates_that_raise_are_heard() -> None:
    """The error of a predicate is not swallowed."""
    with pytest.raises(AssertionError, match="asked"):
        judge(ignore=explode).of_error(ValueError())
    with pytest.raises(AssertionError, match="asked"):
        judge(failure_if=explode).of_result(1)


async def is_async(_: object) -> bool:
    """A coroutine function, whose answer would always be true."""
    return False


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"failure_threshold": 0}, ValueError, "failure_threshold must be a whole number of at least 1"),
        ({"failure_threshold": 1.5}, TypeError, "failure_threshold must be a whole number"),
        ({"failure_threshold": True}, TypeError, "failure_threshold must be a whole number"),
        ({"failure_threshold": 5, "failure_rate": 0.5}, ValueError, "failures in a row and failure_rate"),
        ({"failure_threshold": 5, "window": Window.calls(9)}, ValueError, "failures in a row and window"),
        ({"failure_threshold": 5, "minimum_calls": 9}, ValueError, "failures in a row and minimum_calls"),
        (
            {"failure_threshold": 5, "slow_call_duration": 1},
            ValueError,
            "and slow_call_duration belongs to a rate: give one or the other",
        ),
        ({"failure_rate": 0}, ValueError, "failure_rate must be greater than 0 and at most 1, got 0"),
        ({"failure_rate": 1.01}, ValueError, "failure_rate must be greater than 0 and at most 1, got 1.01"),
        ({"failure_rate": 50}, ValueError, "failure_rate must be greater than 0 and at most 1, got 50"),
        ({"failure_rate": float("nan")}, ValueError, "failure_rate must be greater than 0 and at most 1"),
        ({"failure_rate": "0.5"}, TypeError, "failure_rate must be greater than 0 and at most 1"),
        ({"window": 100}, TypeError, r"window must be Window.calls\(n\) or Window.seconds\(s\), got 100"),
        ({"minimum_calls": 0}, ValueError, "minimum_calls must be a whole number of at least 1"),
        ({"slow_call_rate": 0.5}, ValueError, "slow_call_rate needs slow_call_duration, got None"),
        ({"slow_call_duration": 0}, ValueError, "slow_call_duration must be a number of seconds greater"),
        (
            {"slow_call_duration": 1, "slow_call_rate": 0},
            ValueError,
            "slow_call_rate must be greater than 0",
        ),
        (
            {"recovery_timeout": 0},
            ValueError,
            "recovery_timeout must be a number of seconds greater than 0",
        ),
        ({"recovery_timeout": "30"}, TypeError, "recovery_timeout must be a number of seconds"),
        ({"recovery_timeout": float("inf")}, ValueError, "recovery_timeout must be .* finite"),
        ({"half_open_max_calls": 0}, ValueError, "half_open_max_calls must be a whole number"),
        ({"success_threshold": 0}, ValueError, "success_threshold must be a whole number"),
        ({"half_open_total": 0}, ValueError, "half_open_total must be a whole number"),
        (
            {"half_open_total": 1},
            ValueError,
            r"at least success_threshold \(2\), or the circuit could never",
        ),
        ({"probe_timeout": 0}, ValueError, "probe_timeout must be a number of seconds greater than 0"),
        (
            {"failure_on": asyncio.CancelledError},
            ValueError,
            "failure_on must name subclasses of Exception",
        ),
        ({"failure_on": BaseException}, ValueError, "failure_on must name subclasses of Exception"),
        ({"ignore": KeyboardInterrupt}, ValueError, "ignore must name subclasses of Exception"),
        ({"failure_on": int}, TypeError, "failure_on must be exception types or predicates"),
        ({"failure_on": is_async}, TypeError, "failure_on must be a plain function"),
        ({"failure_if": is_async}, TypeError, "failure_if must be a plain function"),
        ({"failure_if": 500}, TypeError, "failure_if must be a function, got 500"),
        ({"name": ""}, ValueError, "name must not be empty"),
        ({"name": 7}, TypeError, "name must be a string, got 7"),
    ],
)
def test_options_that_make_no_sense_are_refused_at_once(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """A wrong option raises when the breaker is made, and the message says what was got and is allowed."""
    with pytest.raises(error, match=f"^CircuitBreaker: .*{message}"):
        CircuitBreaker(**options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"failure_rate": 1},
        {"failure_rate": 0.001, "window": Window.seconds(timedelta(minutes=5))},
        {"window": Window.calls(10), "minimum_calls": 100},
        {"slow_call_duration": timedelta(seconds=2), "slow_call_rate": 0.25},
        {"recovery_timeout": Backoff.exponential(initial=1, maximum=300, jitter="equal")},
        {"recovery_timeout": timedelta(minutes=1), "probe_timeout": timedelta(seconds=5)},
        {"half_open_max_calls": 5, "half_open_total": 3, "success_threshold": 3},
    ],
)
def test_options_that_make_sense_need_no_loop(options: dict[str, Any]) -> None:
    """A breaker can be made, and looked at, at import time."""
    breaker = CircuitBreaker("payments", **options)
    assert repr(breaker) == "<CircuitBreaker 'payments' closed>"
    assert breaker.snapshot().state is breaker.state
