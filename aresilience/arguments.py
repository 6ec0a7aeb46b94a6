"""Checks of arguments, made when a policy is made.

Every message says which argument of what, what is allowed and what was got. A wrong type raises
`TypeError`, a wrong value `ValueError`. Times are seconds; a `timedelta` is accepted.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import sys
from collections.abc import Callable, Collection
from datetime import timedelta
from typing import Any

__all__ = ["answers_later", "choice", "count", "duration", "fraction", "number", "plain_function", "text"]


def number(where: str, value: object, allowed: str) -> float:
    """A finite real number; `allowed` words the range for the message."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{where} must be {allowed}, got {value!r} ({type(value).__name__})")
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result):
        raise ValueError(f"{where} must be {allowed} and finite, got {value!r}")
    return result


def duration(where: str, value: float | timedelta, *, zero: bool = False, most: float = math.inf) -> float:
    """Seconds, greater than 0 (or, with `zero`, at least 0), and at most `most`."""
    allowed = "a number of seconds " + ("of at least 0" if zero else "greater than 0")
    if most < math.inf:
        allowed += f" and at most {most:g}"
    if isinstance(value, timedelta):
        value = value.total_seconds()
    seconds = number(where, value, allowed)
    if seconds < 0 or (seconds == 0 and not zero) or seconds > most:
        raise ValueError(f"{where} must be {allowed}, got {value!r}")
    return seconds


def count(where: str, value: int, *, least: int = 1, most: int | None = None) -> int:
    """A whole number of at least `least`, and at most `most`."""
    allowed = f"a whole number of at least {least}"
    if most is not None:
        allowed += f" and at most {most}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{where} must be {allowed}, got {value!r} ({type(value).__name__})")
    if value < least or (most is not None and value > most):
        raise ValueError(f"{where} must be {allowed}, got {value!r}")
    return value


def fraction(where: str, value: float) -> float:
    """A share, greater than 0 and at most 1."""
    allowed = "greater than 0 and at most 1"
    result = number(where, value, allowed)
    if not 0 < result <= 1:
        raise ValueError(f"{where} must be {allowed}, got {value!r}")
    return result


def choice(where: str, value: object, options: Collection[str]) -> None:
    """One of a few words."""
    if value not in options:
        words = ", ".join(repr(option) for option in options)
        raise ValueError(f"{where} must be one of {words}, got {value!r}")


def text(where: str, value: object) -> str:
    """A non-empty string."""
    if not isinstance(value, str):
        raise TypeError(f"{where} must be a string, got {value!r} ({type(value).__name__})")
    if not value:
        raise ValueError(f"{where} must not be empty")
    return value


def plain_function(where: str, value: Any) -> Callable[..., Any]:
    """A callable that answers at once."""
    if not callable(value):
        raise TypeError(f"{where} must be a function, got {value!r} ({type(value).__name__})")
    if answers_later(value):
        raise TypeError(
            f"{where} must be a plain function, got the coroutine function {value!r}: "
            "its answer, a coroutine, would always be true"
        )
    return value  # type: ignore[no-any-return]


def answers_later(function: object) -> bool:
    """Whether it is a coroutine function, or an object that is called like one."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.iscoroutinefunction(function):
        return True
    if sys.version_info < (3, 12) and asyncio.iscoroutinefunction(function):
        return True  # AsyncMock, which inspect recognises from 3.12 on
    if isinstance(function, type) or inspect.isroutine(function):
        return False
    return inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
