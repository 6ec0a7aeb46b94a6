"""The options of a Retry: checked when it is made, shown in its repr."""

from __future__ import annotations

import inspect
import math
from datetime import timedelta
from typing import Any

import pytest

import aresilience as ar

NO_WAIT = ar.Backoff.constant(0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, TypeError, "missing 1 required keyword-only argument: 'on'"),
        (
            {"on": ()},
            ValueError,
            "Retry: on must name at least one error, got (), and there is no until=",
        ),
        (
            {"on": BaseException},
            ValueError,
            "Retry: on must name subclasses of Exception, got BaseException",
        ),
        (
            {"on": [OSError]},
            TypeError,
            "Retry: on must be exception types or predicates, or a tuple of them, got [<class 'OSError'>]",
        ),
        ({"attempts": 0}, ValueError, "Retry: attempts must be a whole number of at least 1, got 0"),
        ({"attempts": -1}, ValueError, "Retry: attempts must be a whole number of at least 1, got -1"),
        (
            {"attempts": 3.0},
            TypeError,
            "Retry: attempts must be a whole number of at least 1, got 3.0 (float)",
        ),
        (
            {"attempts": math.nan},
            TypeError,
            "Retry: attempts must be a whole number of at least 1, got nan",
        ),
        (
            {"attempts": -math.inf},
            TypeError,
            "Retry: attempts must be a whole number of at least 1, got -inf",
        ),
        ({"attempts": True}, TypeError, "Retry: attempts must be a whole number of at least 1, got True"),
        ({"attempts": "3"}, TypeError, "Retry: attempts must be a whole number of at least 1, got '3'"),
        (
            {"attempts": math.inf},
            ValueError,
            "Retry: attempts=inf needs a deadline or a budget that ends it, got neither",
        ),
        (
            {"backoff": 1.0},
            TypeError,
            "Retry: backoff must be a Backoff, got 1.0; write Backoff.constant(1.0) for one second",
        ),
        (
            {"deadline": 0},
            ValueError,
            "Retry: deadline must be a number of seconds greater than 0, got 0",
        ),
        (
            {"deadline": timedelta(seconds=-1)},
            ValueError,
            "Retry: deadline must be a number of seconds greater than 0, got -1.0",
        ),
        (
            {"deadline": "5"},
            TypeError,
            "Retry: deadline must be a number of seconds greater than 0, got '5'",
        ),
        ({"budget": 0.2}, TypeError, "Retry: budget must be a RetryBudget or None, got 0.2"),
        ({"retry_after": 5}, TypeError, "Retry: retry_after must be a function, got 5 (int)"),
        (
            {"max_retry_after": 0},
            ValueError,
            "Retry: max_retry_after must be a number of seconds greater than 0, got 0",
        ),
        (
            {"max_retry_after": math.inf},
            ValueError,
            "Retry: max_retry_after must be a number of seconds greater than 0 and finite, got inf",
        ),
        ({"groups": "some"}, ValueError, "Retry: on: groups must be 'any' or 'all', got 'some'"),
        (
            {"nested": None},
            ValueError,
            "Retry: nested must be one of 'warn', 'inner', 'outer', 'both'",
        ),
        ({"name": ""}, ValueError, "Retry: name must not be empty"),
        ({"name": 3}, TypeError, "Retry: name must be a string, got 3 (int)"),
        ({"retries": 3}, TypeError, "unexpected keyword argument 'retries'"),
    ],
)
def test_what_is_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    """A mistake is told when the policy is made: what was got, what is allowed, what to write instead."""
    needed = {} if "on" in options or not options else {"on": OSError}
    with pytest.raises(error) as caught:
        ar.Retry(**needed, **options)
    assert message in str(caught.value)


def test_every_option_is_keyword_only() -> None:
    """Nothing is passed by position, and only `on` has no default."""
    parameters = inspect.signature(ar.Retry).parameters.values()
    assert {p.kind for p in parameters} == {inspect.Parameter.KEYWORD_ONLY}
    assert [p.name for p in parameters if p.default is inspect.Parameter.empty] == ["on"]


@pytest.mark.parametrize(
    ("retry", "text"),
    [
        (
            ar.Retry(on=OSError),
            "<Retry 'Retry' 3 attempts, "
            "Backoff.exponential(initial=0.1, multiplier=2, maximum=10, jitter='full')>",
        ),
        (
            ar.Retry(on=OSError, attempts=5, deadline=2.5, backoff=ar.Backoff.constant(1), name="fetch"),
            "<Retry 'fetch' 5 attempts within 2.5 s, Backoff.constant(1, jitter=None)>",
        ),
        (
            ar.Retry(
                on=OSError, attempts=math.inf, deadline=timedelta(minutes=1), backoff=ar.Backoff.constant(1)
            ),
            "<Retry 'Retry' inf attempts within 60 s, Backoff.constant(1, jitter=None)>",
        ),
    ],
)
def test_the_repr(retry: ar.Retry, text: str) -> None:
    """It shows the name, the limits and the back-off."""
    assert repr(retry) == text


def test_what_a_pipeline_asks() -> None:
    """Whether a budget bounds the extra load."""
    assert not ar.Retry(on=OSError).budgeted
    assert ar.Retry(on=OSError, budget=ar.RetryBudget()).budgeted
