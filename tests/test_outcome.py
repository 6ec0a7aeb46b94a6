"""Which errors a specification means: types, predicates, refusals, groups."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import aresilience as ar
from aresilience.outcome import ErrorMatcher, ErrorSpec, is_neutral

REFUSAL = ar.Rejected("no", retry_after=1)
FULL = ar.BulkheadFull("full")
CONNECTION, VALUE, OS = ConnectionError("c"), ValueError("v"), OSError("o")


def always(error: Exception) -> bool:
    """A predicate that means every error."""
    return True


def says_c(error: Exception) -> bool:
    """A predicate that looks at the message."""
    return str(error) == "c"


def group(*errors: Exception, kind: type[ExceptionGroup[Any]] = ExceptionGroup) -> ExceptionGroup[Any]:
    """A group of errors."""
    return kind("several", errors)


class OwnGroup(ExceptionGroup[Exception]):
    """A group type of somebody's own."""


@pytest.mark.parametrize(
    ("spec", "error", "meant"),
    [
        (ConnectionError, CONNECTION, True),
        (OSError, CONNECTION, True),  # a subclass
        (ConnectionError, OS, False),
        (Exception, VALUE, True),
        ((ConnectionError, ValueError), VALUE, True),
        ((ConnectionError, ValueError), KeyError("k"), False),
        ((), VALUE, False),
        (says_c, CONNECTION, True),
        (says_c, VALUE, False),
        ((ValueError, says_c), VALUE, True),
        ((ValueError, says_c), CONNECTION, True),
        ((ValueError, says_c), OS, False),
        (TimeoutError, ar.TimedOut("late"), True),
    ],
)
def test_types_and_predicates(spec: ErrorSpec, error: Exception, meant: bool) -> None:
    """An error is meant if one of the types, subclasses included, or one of the predicates says so."""
    assert ErrorMatcher("on", spec)(error) is meant


@pytest.mark.parametrize(
    ("spec", "error", "meant"),
    [
        (Exception, REFUSAL, False),
        (Exception, FULL, False),
        (always, FULL, False),
        ((Exception, always), FULL, False),
        (ar.BulkheadFull, FULL, True),
        (ar.Rejected, FULL, True),
        (ar.BulkheadFull, REFUSAL, False),
        ((ConnectionError, ar.BulkheadFull), FULL, True),
        (ar.AresilienceError, FULL, False),  # a type that is not neutral itself names no refusal
        (TimeoutError, ar.DeadlineExceeded("late"), False),
        (ar.TimedOut, ar.DeadlineExceeded("late"), False),
        (ar.DeadlineExceeded, ar.DeadlineExceeded("late"), True),
    ],
)
def test_a_neutral_error_is_meant_only_by_its_name(spec: ErrorSpec, error: Exception, meant: bool) -> None:
    """Neither Exception nor a predicate covers a refusal: it must be named."""
    assert ErrorMatcher("on", spec)(error) is meant


def test_where_neutral_errors_are_like_any_other() -> None:
    """With neutral=True a refusal is meant by Exception and by predicates as well."""
    assert ErrorMatcher("on", Exception, neutral=True)(REFUSAL)
    assert ErrorMatcher("on", says_c, neutral=True)(ar.Rejected("c"))


def test_a_predicate_is_not_asked_about_a_neutral_error() -> None:
    """What a predicate could not decide it does not see."""
    asked: list[Exception] = []
    assert not ErrorMatcher("on", lambda error: not asked.append(error))(REFUSAL)
    assert asked == []


GROUPS: list[tuple[ErrorSpec, ExceptionGroup[Any], bool, bool]] = [
    (ConnectionError, group(CONNECTION), True, True),
    (ConnectionError, group(CONNECTION, CONNECTION), True, True),
    (ConnectionError, group(CONNECTION, VALUE), False, True),
    (ConnectionError, group(VALUE, CONNECTION), False, True),
    (ConnectionError, group(VALUE), False, False),
    (ConnectionError, group(group(CONNECTION), CONNECTION), True, True),
    (ConnectionError, group(group(CONNECTION, VALUE), CONNECTION), False, True),
    (ConnectionError, group(group(group(VALUE)), group(CONNECTION)), False, True),
    (says_c, group(CONNECTION, VALUE), False, True),
    ((ConnectionError, ValueError), group(CONNECTION, VALUE), True, True),
    (Exception, group(CONNECTION, VALUE), True, True),
    (Exception, group(CONNECTION, REFUSAL), False, True),
    (Exception, group(REFUSAL), False, False),
    (ar.Rejected, group(REFUSAL, FULL), True, True),
    # A group type that is named is meant as a whole, whatever its leaves.
    (ExceptionGroup, group(VALUE), True, True),
    (OwnGroup, group(VALUE, kind=OwnGroup), True, True),
    (OwnGroup, group(VALUE), False, False),
    (OwnGroup, group(group(VALUE, kind=OwnGroup)), True, True),
    (ExceptionGroup, group(REFUSAL), False, False),
]


@pytest.mark.parametrize(("spec", "error", "if_all", "if_any"), GROUPS)
def test_y11(spec: ErrorSpec, error: ExceptionGroup[Any], if_all: bool, if_any: bool) -> None:
    """ExceptionGroup from a TaskGroup: classified by the declared rule, all or any of its leaves.

    (No other library retries `ExceptionGroup([ConnectionError])`.)
    """
    assert ErrorMatcher("on", spec)(error) is if_all
    assert ErrorMatcher("on", spec, groups="all")(error) is if_all
    assert ErrorMatcher("on", spec, groups="any")(error) is if_any


def test_y11_a_group_with_a_cancellation_is_no_exception() -> None:
    """One with a cancellation is never retried: Python itself keeps it out of `except Exception`."""
    mixed = BaseExceptionGroup("several", [CONNECTION, asyncio.CancelledError()])
    assert not isinstance(mixed, Exception)
    with pytest.raises(TypeError, match="Cannot nest BaseExceptions"):
        OwnGroup("several", [CONNECTION, asyncio.CancelledError()])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("error", "neutral"),
    [
        (REFUSAL, True),
        (ar.DeadlineExceeded("late"), True),
        (ar.TimedOut("late"), False),
        (VALUE, False),
        (group(REFUSAL, FULL), True),
        (group(REFUSAL, group(FULL)), True),
        (group(REFUSAL, VALUE), False),
    ],
)
def test_what_is_neutral(error: Exception, neutral: bool) -> None:
    """A refusal says nothing of the callee; a group of errors only if all of its leaves do not."""
    assert is_neutral(error) is neutral


def test_an_unrelated_attribute_called_outcome_is_none_of_ours() -> None:
    """An error of somebody's own that has an `outcome` is an error like any other."""

    class Theirs(Exception):
        outcome = "ignored"

    assert not is_neutral(Theirs())
    assert ErrorMatcher("on", Exception)(Theirs())
    assert ErrorMatcher("on", Theirs)(Theirs())


@pytest.mark.parametrize(
    ("spec", "refusal", "named"),
    [
        (ar.BulkheadFull, ar.BulkheadFull, True),
        (ar.Rejected, ar.BulkheadFull, True),
        ((ValueError, ar.CircuitOpen), ar.CircuitOpen, True),
        (ar.CircuitOpen, ar.BulkheadFull, False),
        (ar.CircuitOpen, ar.Rejected, False),
        (Exception, ar.CircuitOpen, False),
        (always, ar.CircuitOpen, False),
        ((), ar.CircuitOpen, False),
    ],
)
def test_which_refusals_are_named(spec: ErrorSpec, refusal: type[ar.Rejected], named: bool) -> None:
    """A pipeline can ask beforehand whether a kind of refusal would be meant."""
    assert ErrorMatcher("on", spec).names(refusal) is named


async def later(error: Exception) -> bool:
    """Not a predicate: its answer is a coroutine, which is always true."""
    return False


class Later:
    """The same as an object."""

    async def __call__(self, error: Exception) -> bool:
        return False


ALLOWED = "on must be exception types or predicates, or a tuple of them, got "


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        (
            BaseException,
            ValueError,
            "on must name subclasses of Exception, got BaseException: cancellation and interpreter exits "
            "are never handled; write Exception to mean every error",
        ),
        ((ValueError, asyncio.CancelledError), ValueError, "got CancelledError: cancellation"),
        (KeyboardInterrupt, ValueError, "got KeyboardInterrupt"),
        (int, TypeError, ALLOWED + "the class <class 'int'>"),
        ("ConnectionError", TypeError, ALLOWED + "'ConnectionError'"),
        ([ConnectionError], TypeError, ALLOWED + "[<class 'ConnectionError'>]"),
        (None, TypeError, ALLOWED + "None"),
        (ConnectionError(), TypeError, ALLOWED + "ConnectionError()"),
        (later, TypeError, "on must be a plain function, got the coroutine function <function later"),
        ((ValueError, Later()), TypeError, "on must be a plain function, got the coroutine function"),
    ],
)
def test_what_cannot_be_meant_is_refused(spec: Any, error: type[Exception], message: str) -> None:
    """A specification that could never work, or would swallow a cancellation, is refused at once."""
    with pytest.raises(error) as caught:
        ErrorMatcher("on", spec)
    assert message in str(caught.value)


def test_a_group_rule_is_all_or_any() -> None:
    """No third rule."""
    with pytest.raises(ValueError, match="on: groups must be 'any' or 'all', got 'most'"):
        ErrorMatcher("on", ValueError, groups="most")
