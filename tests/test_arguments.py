"""The checks of arguments: what is allowed, and what the message says."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any
from unittest.mock import AsyncMock

import pytest

from aresilience import arguments

HUGE = 10**400
"""A whole number that no float can hold."""


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (1, 1.0),
        (0.25, 0.25),
        (5e-324, 5e-324),
        (timedelta(minutes=1), 60.0),
        (timedelta(milliseconds=1), 0.001),
    ],
)
def test_a_duration_is_seconds_or_a_timedelta(value: Any, seconds: float) -> None:
    """A duration is a number greater than 0, or a timedelta, and comes back as float seconds."""
    result = arguments.duration("X: wait", value)
    assert result == seconds
    assert type(result) is float


@pytest.mark.parametrize(
    ("value", "error", "got"),
    [
        (0, ValueError, "greater than 0, got 0"),
        (-1, ValueError, "greater than 0, got -1"),
        (timedelta(0), ValueError, "greater than 0, got 0.0"),
        (timedelta(seconds=-1), ValueError, "greater than 0, got -1.0"),
        (math.nan, ValueError, "greater than 0 and finite, got nan"),
        (math.inf, ValueError, "greater than 0 and finite, got inf"),
        (-math.inf, ValueError, "greater than 0 and finite, got -inf"),
        (HUGE, ValueError, "greater than 0 and finite, got 1000"),
        ("1", TypeError, "greater than 0, got '1' (str)"),
        (None, TypeError, "greater than 0, got None (NoneType)"),
        (True, TypeError, "greater than 0, got True (bool)"),
        (Decimal(1), TypeError, "greater than 0, got Decimal('1') (Decimal)"),
        (1j, TypeError, "greater than 0, got 1j (complex)"),
    ],
)
def test_what_is_no_duration(value: Any, error: type[Exception], got: str) -> None:
    """A wrong type raises TypeError, a wrong value ValueError; both say what is allowed and what was got."""
    with pytest.raises(error) as caught:
        arguments.duration("X: wait", value)
    assert str(caught.value).startswith(f"X: wait must be a number of seconds {got}")


def test_where_zero_seconds_are_allowed() -> None:
    """With zero=True no time at all is a duration, less is not."""
    assert arguments.duration("X: wait", 0, zero=True) == 0.0
    assert arguments.duration("X: wait", timedelta(0), zero=True) == 0.0
    with pytest.raises(ValueError, match=r"X: wait must be a number of seconds of at least 0, got -0.5"):
        arguments.duration("X: wait", -0.5, zero=True)


@pytest.mark.parametrize("value", [1, 2, 10**30])
def test_a_count_is_a_whole_number(value: int) -> None:
    """A count is an int of at least 1."""
    assert arguments.count("X: calls", value) == value


@pytest.mark.parametrize(
    ("value", "least", "error", "message"),
    [
        (0, 1, ValueError, "X: calls must be a whole number of at least 1, got 0"),
        (-1, 0, ValueError, "X: calls must be a whole number of at least 0, got -1"),
        (2.0, 1, TypeError, "X: calls must be a whole number of at least 1, got 2.0 (float)"),
        (math.nan, 1, TypeError, "X: calls must be a whole number of at least 1, got nan (float)"),
        (True, 1, TypeError, "X: calls must be a whole number of at least 1, got True (bool)"),
        ("3", 1, TypeError, "X: calls must be a whole number of at least 1, got '3' (str)"),
    ],
)
def test_what_is_no_count(value: Any, least: int, error: type[Exception], message: str) -> None:
    """A float is no count even if it is whole, nor is a bool."""
    with pytest.raises(error) as caught:
        arguments.count("X: calls", value, least=least)
    assert str(caught.value) == message


@pytest.mark.parametrize("value", [1, 0.5, 1.0, 5e-324])
def test_a_fraction_is_more_than_0_and_at_most_1(value: float) -> None:
    """1 is included, 0 is not."""
    assert arguments.fraction("X: rate", value) == value


@pytest.mark.parametrize("value", [0, -0.1, math.nextafter(1, 2), 50])
def test_what_is_no_fraction(value: float) -> None:
    """A percentage is no fraction."""
    with pytest.raises(ValueError, match=r"X: rate must be greater than 0 and at most 1, got "):
        arguments.fraction("X: rate", value)


def test_a_choice_is_one_of_the_words() -> None:
    """A word that is not offered is refused with those that are."""
    arguments.choice("X: mode", "a", ("a", "b"))
    with pytest.raises(ValueError, match=r"X: mode must be one of 'a', 'b', got 'c'"):
        arguments.choice("X: mode", "c", ("a", "b"))
    with pytest.raises(ValueError, match=r"X: mode must be one of 'a', 'b', got None"):
        arguments.choice("X: mode", None, ("a", "b"))


def test_a_text_is_not_empty() -> None:
    """A name is a string with something in it."""
    assert arguments.text("X: name", "n") == "n"
    with pytest.raises(ValueError, match=r"X: name must not be empty"):
        arguments.text("X: name", "")
    with pytest.raises(TypeError, match=r"X: name must be a string, got b'n' \(bytes\)"):
        arguments.text("X: name", b"n")


class Plain:
    """A callable object."""

    def __call__(self) -> bool:
        return True


class Later:
    """A callable object whose answer is a coroutine."""

    async def __call__(self) -> bool:
        return False

    async def method(self) -> bool:
        """The same as a method."""
        return False


async def later() -> bool:
    """The same as a function."""
    return False


@pytest.mark.parametrize(
    "function", [lambda: True, bool, Plain(), functools.partial(bool, 1), Plain().__call__]
)
def test_a_plain_function_answers_at_once(function: Callable[..., Any]) -> None:
    """Functions, classes, methods, partials and callable objects come back as they are."""
    assert arguments.plain_function("X: until", function) is function


def kind(it: object) -> str:
    """An id for a test that is the same each time."""
    return type(it).__name__


@pytest.mark.parametrize(
    "function", [later, Later(), Later().method, functools.partial(later), AsyncMock()], ids=kind
)
def test_a_coroutine_function_is_no_plain_function(function: Callable[..., Any]) -> None:
    """In whatever shape: its answer, a coroutine, would always be true."""
    with pytest.raises(TypeError, match=r"X: until must be a plain function, got the coroutine function"):
        arguments.plain_function("X: until", function)


def test_what_is_no_function() -> None:
    """A value that cannot be called is refused with its type."""
    with pytest.raises(TypeError, match=r"X: until must be a function, got 3 \(int\)"):
        arguments.plain_function("X: until", 3)
