"""Every constructor argument with values that it must refuse: the error, and what its message says."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

import aresilience as ar


async def coroutine_function(*args: object) -> bool:
    """A function whose answer, a coroutine, is always true."""
    return False


class CoroutineObject:
    """An object that is called like a coroutine function."""

    async def __call__(self, *args: object) -> bool:
        return False


Row = tuple[object, type[Exception]]
"""A value, and the error that it must raise."""

NO_NUMBER: list[Row] = [
    (True, TypeError), ("1", TypeError), (b"1", TypeError), ([1], TypeError), (1j, TypeError),
    (Decimal(1), TypeError), (object, TypeError),
]  # fmt: skip
NOT_FINITE: list[Row] = [
    (math.nan, ValueError),
    (math.inf, ValueError),
    (-math.inf, ValueError),
    (10**400, ValueError),
]
NONE: list[Row] = [(None, TypeError)]
NEGATIVE_TIME: list[Row] = [
    (-1, ValueError), (-0.001, ValueError), (-math.inf, ValueError), (timedelta(seconds=-1), ValueError),
]  # fmt: skip
ZERO_TIME: list[Row] = [(0, ValueError), (0.0, ValueError), (timedelta(0), ValueError)]
NO_COUNT: list[Row] = [
    (True, TypeError), (False, TypeError), ("1", TypeError), (1.0, TypeError), (1.5, TypeError),
    (math.nan, TypeError), (-1, ValueError),
]  # fmt: skip
NO_FUNCTION: list[Row] = [(5, TypeError), ("fn", TypeError), ([], TypeError)]
LATE: list[Row] = [(coroutine_function, TypeError), (CoroutineObject(), TypeError)]

DURATION = [*NO_NUMBER, *NOT_FINITE, *NEGATIVE_TIME, *ZERO_TIME], "seconds greater than 0"
DURATION_OR_ZERO = [*NO_NUMBER, *NOT_FINITE, *NEGATIVE_TIME], "seconds of at least 0"
COUNT = [*NO_COUNT, (0, ValueError)], "a whole number of at least 1"
COUNT_OR_ZERO = NO_COUNT, "a whole number of at least 0"
FRACTION = (
    [*NO_NUMBER, *NOT_FINITE, (0, ValueError), (-0.5, ValueError), (1.001, ValueError), (95, ValueError)],
    "greater than 0 and at most 1",
)
NUMBER_OR_ZERO = [*NO_NUMBER, *NOT_FINITE, (-0.1, ValueError)], "at least 0"
MULTIPLIER = [*NO_NUMBER, *NOT_FINITE, (0.99, ValueError), (-2, ValueError)], "at least 1"
PLAIN_FUNCTION = [*NO_FUNCTION, *LATE], "function"
FUNCTION = NO_FUNCTION, "must be a function or None"
ERRORS = (
    [
        (5, TypeError), ("OSError", TypeError), (None, TypeError), (int, TypeError), (OSError(), TypeError),
        ([OSError], TypeError), ((OSError, 5), TypeError), ((OSError, (KeyError,)), TypeError),
        (BaseException, ValueError), (KeyboardInterrupt, ValueError), (asyncio.CancelledError, ValueError),
        ((OSError, GeneratorExit), ValueError), *LATE,
    ],
    "must ",
)  # fmt: skip
BUDGET = (
    [(5, TypeError), ("budget", TypeError), (ar.RetryBudget, TypeError)],
    "must be a RetryBudget or None",
)
NAME = [(5, TypeError), (b"name", TypeError), (True, TypeError), ("", ValueError)], "must "
LISTENERS = (
    [(5, TypeError), (lambda event: None, TypeError), ([5], TypeError), ([coroutine_function], TypeError)],
    "listener",
)


def timeout(**options: Any) -> ar.Timeout:
    return ar.Timeout(**{"seconds": 1.0, **options})


def bulkhead(**options: Any) -> ar.Bulkhead:
    return ar.Bulkhead(**{"max_concurrent": 1, **options})


def queued_bulkhead(**options: Any) -> ar.Bulkhead:
    return ar.Bulkhead(1, max_waiting=1, **options)


def hedge(**options: Any) -> ar.Hedge:
    return ar.Hedge(**{"delay": 1.0, **options})


def percentile(**options: Any) -> ar.Percentile:
    return ar.Percentile(**{"fraction": 0.95, **options})


def fallback(**options: Any) -> ar.Fallback:
    return ar.Fallback("instead", **options)


def retry(**options: Any) -> ar.Retry:
    return ar.Retry(**{"on": OSError, **options})


def retry_until(**options: Any) -> ar.Retry:
    return ar.Retry(on=OSError, until=bool, **options)


def rate_breaker(**options: Any) -> ar.CircuitBreaker:
    return ar.CircuitBreaker(**{"failure_rate": 0.5, **options})


def slow_breaker(**options: Any) -> ar.CircuitBreaker:
    return ar.CircuitBreaker(slow_call_duration=1.0, **options)


def exponential(**options: Any) -> ar.Backoff:
    return ar.Backoff.exponential(**options)


def linear(**options: Any) -> ar.Backoff:
    return ar.Backoff.linear(**options)


def constant(**options: Any) -> ar.Backoff:
    return ar.Backoff.constant(**{"delay": 1.0, **options})


def window_of_calls(**options: Any) -> ar.Window:
    return ar.Window.calls(**options)


def window_of_seconds(**options: Any) -> ar.Window:
    return ar.Window.seconds(**options)


Kind = tuple[list[Row], str]
"""Values to refuse, and the words for what is allowed."""

ARGUMENTS: list[tuple[Callable[..., object], str, str, Kind, bool]] = [
    # (make, kind of object in the message, argument, values to refuse, whether None is refused too)
    (timeout, "Timeout", "seconds", DURATION, True),
    (ar.deadline, "deadline", "seconds", DURATION_OR_ZERO, False),
    (bulkhead, "Bulkhead", "max_concurrent", COUNT, True),
    (bulkhead, "Bulkhead", "max_waiting", COUNT_OR_ZERO, True),
    (queued_bulkhead, "Bulkhead", "max_wait", DURATION, False),
    (hedge, "Hedge", "delay", DURATION_OR_ZERO, True),
    (hedge, "Hedge", "max_hedges", COUNT, True),
    (hedge, "Hedge", "budget", BUDGET, False),
    (hedge, "Hedge", "dispose", FUNCTION, False),
    (percentile, "Percentile", "fraction", FRACTION, True),
    (percentile, "Percentile", "initial", DURATION, False),
    (percentile, "Percentile", "minimum_calls", COUNT, True),
    (percentile, "Percentile", "size", (NO_COUNT, "a whole number of at least 20"), True),
    (fallback, "Fallback", "on", ERRORS, True),
    (retry, "Retry", "on", ERRORS, True),
    (retry, "Retry", "attempts", COUNT, True),
    (retry, "Retry", "backoff", ([(1.0, TypeError), ("exponential", TypeError)], "must be a Backoff"), False),
    (retry, "Retry", "deadline", DURATION, False),
    (retry, "Retry", "until", PLAIN_FUNCTION, False),
    (retry_until, "Retry", "dispose", FUNCTION, False),
    (retry, "Retry", "budget", BUDGET, False),
    (retry, "Retry", "retry_after", PLAIN_FUNCTION, False),
    (retry, "Retry", "max_retry_after", DURATION, True),
    (ar.CircuitBreaker, "CircuitBreaker", "failure_threshold", COUNT, False),
    (rate_breaker, "CircuitBreaker", "failure_rate", FRACTION, False),
    (rate_breaker, "CircuitBreaker", "minimum_calls", COUNT, False),
    (rate_breaker, "CircuitBreaker", "window", ([(100, TypeError), ("1", TypeError)], "Window.calls"), False),
    (ar.CircuitBreaker, "CircuitBreaker", "slow_call_duration", DURATION, False),
    (slow_breaker, "CircuitBreaker", "slow_call_rate", FRACTION, False),
    (ar.CircuitBreaker, "CircuitBreaker", "recovery_timeout", DURATION, True),
    (ar.CircuitBreaker, "CircuitBreaker", "half_open_max_calls", COUNT, True),
    (ar.CircuitBreaker, "CircuitBreaker", "half_open_total", COUNT, False),
    (ar.CircuitBreaker, "CircuitBreaker", "success_threshold", COUNT, True),
    (ar.CircuitBreaker, "CircuitBreaker", "probe_timeout", DURATION, False),
    (ar.CircuitBreaker, "CircuitBreaker", "failure_on", ERRORS, True),
    (ar.CircuitBreaker, "CircuitBreaker", "ignore", ERRORS, True),
    (ar.CircuitBreaker, "CircuitBreaker", "failure_if", PLAIN_FUNCTION, False),
    (ar.CircuitBreakers, "CircuitBreakers", "key", PLAIN_FUNCTION, False),
    (ar.CircuitBreakers, "CircuitBreakers", "max_keys", COUNT, True),
    (ar.CircuitBreakers, "CircuitBreaker", "failure_threshold", COUNT, False),
    (ar.RetryBudget, "RetryBudget", "ratio", NUMBER_OR_ZERO, True),
    (ar.RetryBudget, "RetryBudget", "floor", NUMBER_OR_ZERO, True),
    (ar.RetryBudget, "RetryBudget", "window", DURATION, True),
    (exponential, "Backoff.exponential", "initial", DURATION, True),
    (exponential, "Backoff.exponential", "multiplier", MULTIPLIER, True),
    (exponential, "Backoff.exponential", "maximum", DURATION, True),
    (linear, "Backoff.linear", "initial", DURATION, True),
    (linear, "Backoff.linear", "increment", DURATION, True),
    (linear, "Backoff.linear", "maximum", DURATION, True),
    (constant, "Backoff.constant", "delay", DURATION_OR_ZERO, True),
    (window_of_calls, "Window.calls", "size", COUNT, True),
    (window_of_seconds, "Window.seconds", "size", DURATION, True),
]  # fmt: skip
for _make, _kind in (
    (timeout, "Timeout"), (bulkhead, "Bulkhead"), (hedge, "Hedge"), (fallback, "Fallback"), (retry, "Retry"),
    (ar.CircuitBreaker, "CircuitBreaker"), (ar.CircuitBreakers, "CircuitBreakers"),
):  # fmt: skip
    ARGUMENTS.append((_make, _kind, "name", NAME, False))
    ARGUMENTS.append((_make, _kind, "listeners", LISTENERS, True))
ARGUMENTS.append((ar.Pipeline, "Pipeline", "name", NAME, False))
for _make, _kind in (
    (exponential, "Backoff.exponential"),
    (linear, "Backoff.linear"),
    (constant, "Backoff.constant"),
):
    ARGUMENTS.append(
        (
            _make,
            _kind,
            "jitter",
            ([("none", ValueError), (True, ValueError), ("", ValueError)], "must be"),
            False,
        )
    )


def ids() -> Iterator[str]:
    """A name for each row of the table."""
    for make, _, argument, _, _ in ARGUMENTS:
        yield f"{make.__name__}-{argument}"


@pytest.mark.parametrize(("make", "kind", "argument", "refused", "none_too"), ARGUMENTS, ids=ids())
def test_a_value_that_is_no_good_is_refused(
    make: Callable[..., object], kind: str, argument: str, refused: Kind, none_too: bool
) -> None:
    """A wrong type is a TypeError, a wrong value a ValueError, that says where, what is right and what came."""
    values, allowed = refused
    for value, error in [*values, *(NONE if none_too else [])]:
        with pytest.raises(error) as caught:
            make(**{argument: value})
        message = str(caught.value)
        assert type(caught.value) is error, value
        assert ("listener" if argument == "listeners" else f": {argument}") in message, (value, message)
        assert message.startswith(kind) or argument == "listeners", (value, message)
        assert allowed in message, (value, message)
        assert shown(value) in message or message.endswith("must not be empty"), (value, message)


def shown(value: object) -> str:
    """How a message shows this value: times in seconds, of several the one that is wrong."""
    if isinstance(value, timedelta):
        return repr(value.total_seconds())
    if isinstance(value, tuple | list) and value:
        value = value[-1]
    return value.__name__ if isinstance(value, type) else repr(value)


def test_good_values_at_the_edge_are_taken() -> None:
    """The smallest and largest values that are allowed are taken, as numbers and as timedeltas."""
    tiny = 5e-324
    for least in (tiny, timedelta(microseconds=1), 1e300, 10**30):
        ar.Timeout(least)
        ar.deadline(least)
        ar.Bulkhead(1, max_waiting=1, max_wait=least)
        ar.Hedge(delay=least)
        ar.CircuitBreaker(recovery_timeout=least, slow_call_duration=least, probe_timeout=least)
        ar.Retry(on=OSError, deadline=least, max_retry_after=least)
    ar.deadline(0)
    ar.deadline(None)
    ar.Hedge(delay=timedelta(0))
    ar.Bulkhead(10**9, max_waiting=0)
    ar.Percentile(tiny, minimum_calls=1, size=1)
    ar.Percentile(1, initial=tiny)
    ar.RetryBudget(ratio=0, floor=tiny)
    ar.RetryBudget(ratio=tiny, floor=0)
    ar.Fallback(None, on=())


# Values that contradict each other


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ar.Bulkhead(1, max_wait=1.0), r"Bulkhead: max_wait needs max_waiting of at least 1, got 0"),
        (
            lambda: ar.Percentile(0.5, minimum_calls=30, size=29),
            r"Percentile: size must be a whole number of at least 30, got 29",
        ),
        (lambda: ar.RetryBudget(ratio=0, floor=0), r"ratio or floor must be greater than 0, got 0 for both"),
        (lambda: ar.Retry(on=()), r"Retry: on must name at least one error, got \(\)"),
        (
            lambda: ar.Retry(on=OSError, attempts=math.inf),
            r"Retry: attempts=inf needs a deadline or a budget that ends it, got neither",
        ),
        (lambda: ar.Retry(on=OSError, dispose=print), r"Retry: dispose needs until="),
        (lambda: ar.Retry(on=OSError, nested="never"), r"Retry: nested must be one of 'warn', .*got 'never'"),
        (lambda: ar.Retry(on=OSError, groups="most"), r"Retry: on: groups must be 'any' or 'all', got 'most'"),
        (
            lambda: ar.CircuitBreaker(failure_threshold=5, failure_rate=0.5),
            r"CircuitBreaker: failure_threshold counts failures in a row and failure_rate belongs to a rate",
        ),
        (
            lambda: ar.CircuitBreaker(failure_threshold=5, window=ar.Window.calls(10)),
            r"failure_threshold counts failures in a row and window belongs to a rate: give one or the other",
        ),
        (
            lambda: ar.CircuitBreaker(slow_call_rate=0.5),
            r"CircuitBreaker: slow_call_rate needs slow_call_duration, got None",
        ),
        (
            lambda: ar.CircuitBreaker(half_open_total=1, success_threshold=2),
            r"half_open_total must be at least success_threshold \(2\), or the circuit could never close",
        ),
        (
            lambda: ar.Backoff.exponential(initial=2.0, maximum=1.0),
            r"Backoff\.exponential: maximum must be at least initial \(2\), got 1\.0",
        ),
        (lambda: ar.Backoff.linear(initial=2.0, maximum=1.0), r"must be at least initial \(2\), got 1\.0"),
        (lambda: ar.Backoff.sequence(), r"Backoff\.sequence needs at least one delay, got none"),
        (lambda: ar.Backoff.sequence(1.0, -2.0), r"Backoff\.sequence: delay must be a number .*, got -2\.0"),
        (
            lambda: ar.Backoff.constant(1.0, jitter="decorrelated"),
            r"jitter must be 'full', 'equal' or None, got 'decorrelated', which makes a schedule of its own",
        ),
    ],
)  # fmt: skip
def test_values_that_contradict_each_other_are_refused(make: Callable[[], object], message: str) -> None:
    """What cannot both be meant is a ValueError that says why, or what to write instead."""
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: ar.Timeout(),
        lambda: ar.Bulkhead(),
        lambda: ar.Hedge(),
        lambda: ar.Hedge(1.0),
        lambda: ar.Percentile(),
        lambda: ar.Fallback(),
        lambda: ar.Retry(),
        lambda: ar.Retry(OSError),
        lambda: ar.Timeout(1.0, "name"),
        lambda: ar.Bulkhead(1, 1),
        lambda: ar.CircuitBreaker("name", 5),
        lambda: ar.RetryBudget(0.2),
        lambda: ar.Backoff.exponential(0.1),
        lambda: ar.Timeout(1.0, limit=2.0),
        lambda: ar.CircuitBreakers(threshold=5),
    ],
)
def test_what_is_required_has_no_default_and_options_have_names(make: Callable[[], object]) -> None:
    """A missing argument, an option without its name and an option that there is not are TypeErrors."""
    with pytest.raises(TypeError):
        make()
