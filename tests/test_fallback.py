"""Fallback: what answers instead, for which errors, and what happens when that fails too."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any
from unittest.mock import AsyncMock

import pytest

import aresilience as ar
from aresilience.testing import Recorder


def failing(error: BaseException) -> Callable[..., Awaitable[str]]:
    """A call that raises this."""

    async def fail(*args: object, **kwargs: object) -> str:
        await asyncio.sleep(1.0)
        raise error

    return fail


class Menu:
    """Something that answers by one of its methods."""

    def of_error(self, error: Exception) -> str:
        return f"method {error}"

    async def of_call(self, error: Exception, dish: str, *, size: int = 1) -> str:
        return f"{dish} {size} {error}"

    def __call__(self, error: Exception) -> str:
        return f"object {error}"


def optional(error: Exception, dish: str = "soup") -> str:
    """An answer with an argument that it can do without."""
    return f"{dish} {error}"


async def all_of_it(error: Exception, *args: object, **kwargs: object) -> str:
    """An answer that takes whatever the call took."""
    return f"{error} {args} {kwargs}"


def keyword_only(error: Exception, *, size: int) -> str:
    """An answer that asks for one of the call's arguments by name."""
    return f"size {size}"


@pytest.mark.parametrize(
    ("answer", "call", "expected"),
    [
        ("a value", ((), {}), "a value"),
        (None, ((), {}), None),
        ([], ((), {}), []),
        (lambda error: f"lambda {error}", (("tea",), {}), "lambda no"),
        (Menu().of_error, (("tea",), {}), "method no"),
        (Menu(), (("tea",), {}), "object no"),
        (Menu().of_call, (("tea",), {"size": 2}), "tea 2 no"),
        (optional, (("tea",), {}), "tea no"),
        (optional, ((), {}), "soup no"),
        (all_of_it, (("tea",), {"size": 2}), "no ('tea',) {'size': 2}"),
        (lambda *both: f"{both[1]} {both[0]}", (("tea",), {}), "tea no"),
        (functools.partial(all_of_it, "bound"), (("tea",), {}), "bound (ValueError('no'), 'tea') {}"),
        (keyword_only, ((), {"size": 3}), "size 3"),
        (repr, (("tea",), {}), "ValueError('no')"),
        (AsyncMock(return_value="mock"), (("tea",), {}), "mock"),
    ],
)
async def test_a_value_or_a_function_answers(
    answer: Any, call: tuple[tuple[object, ...], dict[str, object]], expected: object
) -> None:
    """A value is the answer; a function is given the error, and the call's arguments if it takes more."""
    args, kwargs = call
    assert await ar.Fallback(answer).call(failing(ValueError("no")), *args, **kwargs) == expected


async def test_a_coroutine_function_is_awaited() -> None:
    """An async fallback may take its time."""

    async def from_cache(error: Exception) -> str:
        await asyncio.sleep(2.0)
        return "cached"

    assert await ar.Fallback(from_cache).call(failing(ValueError())) == "cached"
    assert asyncio.get_running_loop().time() == 3.0


async def test_a_call_that_succeeds_is_its_own_answer() -> None:
    """Without an error the fallback is not asked."""
    asked: list[Exception] = []
    assert await ar.Fallback(asked.append).call(asyncio.sleep, 1.0, "fresh") == "fresh"
    assert asked == []


# For which errors


class Boundary(ValueError):
    """A subclass, to see that subclasses count."""


@pytest.mark.parametrize(
    ("on", "error", "answered"),
    [
        (Exception, ValueError(), True),
        (Exception, ar.Rejected("full"), True),
        (Exception, ar.TimedOut("late"), True),
        (ValueError, Boundary(), True),
        (ValueError, KeyError(), False),
        ((ValueError, KeyError), KeyError(), True),
        (lambda error: "busy" in str(error), OSError("busy"), True),
        (lambda error: "busy" in str(error), OSError("gone"), False),
        ((ValueError, lambda error: "busy" in str(error)), OSError("busy"), True),
        ((), ValueError(), False),
        (ar.Rejected, ar.CircuitOpen("open"), True),
        # a group is answered if all of its leaves match
        (ValueError, ExceptionGroup("both", [ValueError(), Boundary()]), True),
        (ValueError, ExceptionGroup("one", [ValueError(), KeyError()]), False),
        (ValueError, ExceptionGroup("deep", [ExceptionGroup("in", [ValueError()]), ValueError()]), True),
        (ValueError, ExceptionGroup("deep", [ExceptionGroup("in", [KeyError()]), ValueError()]), False),
        (ExceptionGroup, ExceptionGroup("any", [KeyError()]), True),
        # a group with a cancellation in it is never answered
        (Exception, BaseExceptionGroup("mixed", [ValueError(), asyncio.CancelledError()]), False),
        # nor is what is no Exception, whatever a predicate says
        (lambda error: True, asyncio.CancelledError(), False),
        (lambda error: True, KeyboardInterrupt(), False),
        (lambda error: True, SystemExit(), False),
        (lambda error: True, GeneratorExit(), False),
    ],
)
async def test_which_errors_are_answered(on: Any, error: BaseException, answered: bool) -> None:
    """Types and predicates, groups by all of their leaves, cancellation and exits never."""
    try:
        result: object = await ar.Fallback("instead", on=on).call(failing(error))
    except BaseException as raised:  # noqa: BLE001 - compared
        result = raised
    assert result == ("instead" if answered else error)


async def test_a_cancelled_call_is_cancelled() -> None:
    """A cancel from outside is not answered, during the call or during the fallback."""

    async def slow(error: Exception) -> None:
        await asyncio.sleep(60.0)

    for when in (0.5, 1.5):
        call = asyncio.create_task(ar.Fallback(slow).call(failing(ValueError())))
        await asyncio.sleep(when)
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()


async def test_a_fallback_that_fails_raises_its_own_error_with_the_first_as_context() -> None:
    """If the fallback fails its error is raised, and the original is its `__context__`."""
    first, second = ValueError("call"), KeyError("cache")

    def fail(error: Exception) -> None:
        assert error is first
        raise second

    with pytest.raises(KeyError) as caught:
        await ar.Fallback(fail).call(failing(first))
    assert caught.value is second
    assert second.__context__ is first


async def test_only_answers_are_told() -> None:
    """`FallbackUsed` is told when the fallback has answered, not when it has failed, nor without need."""
    recorder = Recorder()
    error = ValueError("no")
    fallback = ar.Fallback(lambda e: 1 / int(str(e) == "no"), name="menu", listeners=[recorder])
    await fallback.call(asyncio.sleep, 0.0)
    assert await fallback.call(failing(error)) == 1
    with pytest.raises(ZeroDivisionError):
        await fallback.call(failing(ValueError("other")))
    assert recorder.events == [ar.FallbackUsed("menu", 1.0, error)]


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (["a secret"], "<Fallback 'menu' answers with list>"),
        (None, "<Fallback 'menu' answers with NoneType>"),
        (optional, "<Fallback 'menu' answers with optional>"),
    ],
)
def test_it_shows_what_answers_but_no_value(answer: Any, shown: str) -> None:
    """The repr names the function, or the type of the value."""
    assert repr(ar.Fallback(answer, name="menu")) == shown


def test_what_cannot_answer_is_refused() -> None:
    """A class, a function that takes no error and a coroutine are refused when the fallback is made."""
    with pytest.raises(TypeError, match=r"got the class dict; write 'lambda error: dict\(\)'"):
        ar.Fallback(dict)
    with pytest.raises(
        TypeError, match=r"must take the error, got <function .*, which takes no positional"
    ):
        ar.Fallback(lambda: "tea")
    with pytest.raises(TypeError, match="which takes no positional argument"):
        ar.Fallback(lambda *, error: "tea")
    with pytest.raises(TypeError, match="which takes no positional argument"):
        ar.Fallback(lambda **kwargs: "tea")
    with pytest.raises(TypeError, match="write the function without calling it"):
        ar.Fallback(all_of_it(ValueError()))
