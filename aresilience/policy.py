"""The contract of composition: a policy wraps a call.

A policy is one of three uses of one method, `around`:

- `@policy` and `policy.wrap(fn)`: a coroutine function with the signature of `fn`;
- `await policy.call(fn, *args)`: once;
- inside a pipeline, which is a policy too.

To write a policy of your own, subclass `Policy`, implement `around`, and say in `layer` where it
belongs, so that a pipeline can warn of an order that cannot be meant.
"""

from __future__ import annotations

import enum
import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, ClassVar, ParamSpec, TypeVar

from aresilience import arguments
from aresilience.errors import Rejected
from aresilience.events import Listener, Listeners

__all__ = ["Layer", "Policy"]

P = ParamSpec("P")
T = TypeVar("T")


class Layer(enum.IntEnum):
    """Where a policy belongs in a pipeline: the smaller, the further out."""

    FALLBACK = 1
    LIMIT = 2
    BULKHEAD = 3
    DEADLINE = 4
    IDEMPOTENCY = 5
    LOCK = 6
    RETRY = 7
    HEDGE = 8
    BREAKER = 9
    TIMEOUT = 10
    """The limit of one attempt; a `Timeout` further out is the total deadline."""
    OTHER = 11


class Policy(ABC):
    """Something that wraps calls of coroutine functions."""

    __slots__ = ("__weakref__", "_listeners", "name")

    layer: ClassVar[Layer] = Layer.OTHER
    refusal: ClassVar[type[Rejected] | None] = None
    """The error with which this policy refuses a call, if it does."""

    def __init__(self, name: str | None = None, listeners: Iterable[Listener] = ()) -> None:
        kind = type(self).__name__
        self.name = kind if name is None else arguments.text(f"{kind}: name", name)
        if not isinstance(listeners, Iterable):
            raise TypeError(
                f"{kind}: listeners must be a list of functions of one event, got {listeners!r}"
            )
        self._listeners = Listeners(listeners)

    @abstractmethod
    def around(self, fn: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        """A coroutine function that calls `fn` under this policy. `fn` is known to be async."""

    def wrap(self, fn: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        """`fn` under this policy: same signature, same name, same documentation.

        Raises `TypeError` if `fn` is not an async callable.
        """
        if not arguments.answers_later(fn):
            raise TypeError(_refusal(self, fn))
        wrapped = self.around(fn)
        if wrapped is fn:
            return wrapped
        return functools.update_wrapper(wrapped, fn)

    __call__ = wrap

    def call(
        self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]:
        """Await `fn(*args, **kwargs)` under this policy, once.

        `fn` may also be a plain function that returns an awaitable (a lambda, a method of a client);
        if what it returns is not awaitable, `TypeError` is raised.
        """
        if not callable(fn):
            raise TypeError(_no_function(self, fn))
        return self.around(fn if arguments.answers_later(fn) else _awaiting(fn))(*args, **kwargs)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Tell `listener` every event of this policy; the function returned ends it."""
        self._listeners.add(listener)
        return lambda: self._listeners.remove(listener)


def _refusal(policy: Policy, fn: object) -> str:
    kind = type(policy).__name__
    if inspect.isasyncgenfunction(fn):
        return (
            f"{kind} cannot wrap {fn!r}: an async generator has no single result to judge or to "
            "repeat; wrap the call that produces each item"
        )
    if inspect.iscoroutine(fn):
        fn.close()  # or it would warn that it was never awaited
        return f"{kind} wraps functions, got a coroutine: write wrap(fn), not wrap(fn())"
    return f"{kind} wraps async functions, got {fn!r}: write 'async def'"


def _no_function(policy: Policy, thing: object) -> str:
    if inspect.iscoroutine(thing):
        thing.close()
    return (
        f"{type(policy).__name__}.call takes a function and its arguments, got {thing!r}; "
        "write call(fn, x), not call(fn(x))"
    )


def _awaiting(fn: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    async def awaiting(*args: P.args, **kwargs: P.kwargs) -> T:
        result = fn(*args, **kwargs)
        if not inspect.isawaitable(result):
            raise TypeError(f"{fn!r} returned {type(result).__name__}, which is not awaitable")
        return await result

    return awaiting
