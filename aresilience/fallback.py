"""Fallback: another answer where the call has none.

What it is for: a degraded answer (a cached page, an empty list, a default) instead of an error.

Use: outermost. `ar.Fallback([])` answers with a value; `ar.Fallback(function)` calls it: with the error
alone if it takes one argument, else with the error and then the arguments of the call. It may be a
coroutine function.

Defaults: `on=Exception`, refusals of other policies included. Cancellation is never answered.

Events: `FallbackUsed`.

If the fallback fails too, its error is raised, with the original as its `__context__`. A group of
errors is answered if all of its leaves match.

What not to do: put it inside a retry or a breaker, which then never see a failure; answer with
something that can be taken for the real thing where that matters.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from aresilience.clock import LoopClock
from aresilience.events import Event, Listener
from aresilience.outcome import ErrorMatcher, ErrorSpec
from aresilience.policy import Layer, Policy

__all__ = ["Fallback", "FallbackUsed"]

P = ParamSpec("P")
T = TypeVar("T")

_ONE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_ANY_NUMBER = inspect.Parameter.VAR_POSITIONAL


@dataclass(frozen=True, slots=True)
class FallbackUsed(Event):
    """The fallback answered in place of `error`."""

    error: Exception


class Fallback(Policy):
    """Answers with a value, or with what a function returns, where the call raises."""

    __slots__ = ("_answer", "_clock", "_matches", "_value", "_with_arguments")

    layer = Layer.FALLBACK

    def __init__(
        self,
        value_or_function: Any,
        *,
        on: ErrorSpec = Exception,
        name: str | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        super().__init__(name, listeners)
        if inspect.isawaitable(value_or_function):
            if inspect.iscoroutine(value_or_function):
                value_or_function.close()
            raise TypeError(
                f"Fallback: needs a value or a function of the error, got {value_or_function!r}, which "
                "can be awaited once only; write the function without calling it"
            )
        self._value = value_or_function
        self._answer: Callable[..., Any] | None = value_or_function if callable(value_or_function) else None
        self._with_arguments = self._answer is not None and _takes_more_than_one(self._answer)
        self._matches = ErrorMatcher("Fallback: on", on, neutral=True)
        self._clock = LoopClock()

    def around(self, fn: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        async def covered(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return await fn(*args, **kwargs)
            except Exception as error:
                if not self._matches(error):
                    raise
                answer = await self._answered(error, args, kwargs)
                if self._listeners:
                    self._listeners.tell(FallbackUsed(self.name, self._clock.read(), error))
                return answer  # type: ignore[no-any-return]

        return covered

    async def _answered(self, error: Exception, args: Any, kwargs: Any) -> Any:
        if self._answer is None:
            return self._value
        answer = self._answer(error, *args, **kwargs) if self._with_arguments else self._answer(error)
        return await answer if inspect.isawaitable(answer) else answer

    def __repr__(self) -> str:
        named = type(self._value) if self._answer is None else self._answer
        return f"<Fallback {self.name!r} answers with {getattr(named, '__qualname__', named)}>"


def _takes_more_than_one(function: Callable[..., Any]) -> bool:
    if isinstance(function, type):
        raise TypeError(
            f"Fallback: needs a value or a function of the error, got the class {function.__name__}; "
            f"write 'lambda error: {function.__name__}()'"
        )
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some builtins do not say
        return False
    kinds = [p.kind for p in parameters]
    if not {_ANY_NUMBER, *_ONE}.intersection(kinds):
        raise TypeError(
            f"Fallback: the function must take the error, got {function!r}, which takes no positional "
            "argument; write 'lambda error: …'"
        )
    return len(kinds) > 1 or _ANY_NUMBER in kinds
