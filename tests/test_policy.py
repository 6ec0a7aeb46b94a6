"""The contract of composition: wrap, call, decorate; what is refused; a policy of one's own."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar
from unittest.mock import AsyncMock

import pytest

import aresilience as ar
from aresilience.testing import Recorder

P = ParamSpec("P")
T = TypeVar("T")

POLICIES: list[ar.Policy] = [
    ar.Timeout(5.0),
    ar.Bulkhead(5),
    ar.Hedge(delay=5.0),
    ar.Fallback(lambda error: "instead", on=KeyError),
    ar.Retry(on=KeyError),
    ar.CircuitBreaker(),
    ar.CircuitBreakers(key=lambda *args, **kwargs: "key"),
    ar.Pipeline(),
    ar.Pipeline(ar.Timeout(5.0), ar.Bulkhead(5)),
]


def kind(policy: ar.Policy) -> str:
    """The name of a policy's type, for the test's id."""
    return type(policy).__name__


async def fetch(user: int, *, deep: bool = False) -> str:
    """Fetch one user."""
    await asyncio.sleep(0.1)
    return f"{user} {deep}"


class Client:
    """A client with an async method, which can be called itself."""

    async def get(self, user: int, *, deep: bool = False) -> str:
        return await fetch(user, deep=deep)

    async def __call__(self, user: int, *, deep: bool = False) -> str:
        return await fetch(user, deep=deep)

    @staticmethod
    async def static(user: int, *, deep: bool = False) -> str:
        return await fetch(user, deep=deep)

    @classmethod
    async def of_class(cls, user: int, *, deep: bool = False) -> str:
        return await fetch(user, deep=deep)


@pytest.mark.parametrize("policy", POLICIES, ids=kind)
async def test_the_wrapped_function_is_like_the_function(policy: ar.Policy) -> None:
    """`wrap` and `@policy` keep name, documentation and signature, and give a coroutine function."""
    for wrapped in (policy.wrap(fetch), policy(fetch)):
        assert (wrapped.__name__, wrapped.__doc__) == ("fetch", "Fetch one user.")
        assert inspect.signature(wrapped) == inspect.signature(fetch)
        assert inspect.iscoroutinefunction(wrapped)
        assert await wrapped(1, deep=True) == "1 True"


@pytest.mark.parametrize("policy", POLICIES, ids=kind)
async def test_every_async_callable_can_be_wrapped_and_called(policy: ar.Policy) -> None:
    """Functions, methods, callable objects, partials and AsyncMocks, once or for good."""
    functions: list[Callable[..., Awaitable[str]]] = [
        fetch,
        Client().get,
        Client(),
        Client.static,
        Client.of_class,
        functools.partial(fetch),
        functools.partial(Client()),
        AsyncMock(wraps=fetch),
    ]
    for function in functions:
        assert await policy.wrap(function)(1) == "1 False"
        assert await policy.call(function, 2, deep=True) == "2 True"


@pytest.mark.parametrize("policy", POLICIES, ids=kind)
async def test_a_method_can_be_decorated(policy: ar.Policy) -> None:
    """In a class body `@policy` makes a method, which gets its `self`."""

    class Shop:
        async def _price(self, dish: str) -> str:
            return f"{dish} of {type(self).__name__}"

        price = policy(_price)

    assert await Shop().price("soup") == "soup of Shop"


@pytest.mark.parametrize("policy", POLICIES, ids=kind)
async def test_call_takes_a_plain_function_that_returns_an_awaitable(policy: ar.Policy) -> None:
    """A lambda over an async client is fine for `call`; what returns no awaitable is a TypeError."""
    assert await policy.call(lambda: fetch(3)) == "3 False"
    with pytest.raises(TypeError, match="returned int, which is not awaitable"):
        await policy.call(lambda: 3)  # type: ignore[arg-type, return-value]


async def generate() -> AsyncIterator[int]:
    """An async generator, which has no single result."""
    yield 1


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (len, r"wraps async functions, got <built-in function len>: write 'async def'"),
        (lambda: None, r"wraps async functions, got <function .*: write 'async def'"),
        (Client, r"wraps async functions, got <class .*Client'>: write 'async def'"),
        (generate, "an async generator has no single result to judge or to repeat; wrap the call that"),
        (5, "wraps async functions, got 5: write 'async def'"),
        (None, "wraps async functions, got None"),
    ],
    ids=["builtin", "lambda", "class", "generator", "number", "None"],
)
def test_what_is_not_async_cannot_be_wrapped(thing: Any, message: str) -> None:
    """A function that is not async is refused where it is decorated, with what to write instead."""
    for policy in POLICIES:
        for wrap in (policy.wrap, policy):
            with pytest.raises(TypeError, match=rf"{kind(policy)} (wraps|cannot wrap)") as caught:
                wrap(thing)
            caught.match(message)


@pytest.mark.parametrize("policy", POLICIES, ids=kind)
def test_a_coroutine_instead_of_a_function_is_explained(policy: ar.Policy) -> None:
    """`wrap(fn())` and `call(fn())` are TypeErrors that say what to write, and leave no warning behind."""
    with pytest.raises(TypeError, match=r"got a coroutine: write wrap\(fn\), not wrap\(fn\(\)\)"):
        policy.wrap(fetch(1))  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match=r"call takes a function .*; write call\(fn, x\), not call\(fn\(x\)\)"
    ):
        policy.call(fetch(1))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="call takes a function and its arguments, got 5"):
        policy.call(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", POLICIES, ids=kind)
async def test_arguments_may_have_any_name(policy: ar.Policy) -> None:
    """`call` and wrapped functions pass on keywords that are called like the package's own parameters."""

    async def odd(**kwargs: int) -> dict[str, int]:
        return kwargs

    names = {"self": 1, "fn": 2, "policy": 3, "args": 4, "kwargs": 5, "error": 6, "failure": 7, "call": 8}
    assert await policy.call(odd, **names) == names
    assert await policy.wrap(odd)(**names) == names


# A policy of one's own


class Shout(ar.Policy):
    """The smallest policy that there can be."""

    def around(self, fn: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        async def shouted(*args: P.args, **kwargs: P.kwargs) -> T:
            self._listeners.tell(ar.CallRejected(self.name, 0.0, None))
            return (await fn(*args, **kwargs)).upper()  # type: ignore[attr-defined, no-any-return]

        return shouted


async def test_a_policy_of_ones_own_is_a_policy() -> None:
    """A subclass needs `around` and nothing else: it wraps, calls, composes, and has a name."""
    recorder = Recorder()
    shout, named = Shout(), Shout("loud", [recorder])
    assert (shout.name, shout.layer, shout.refusal) == ("Shout", ar.Layer.OTHER, None)
    assert await shout.call(fetch, 1) == "1 FALSE"
    assert await ar.Pipeline(ar.Timeout(5.0), named).call(fetch, 2) == "2 FALSE"
    assert recorder.events == [ar.CallRejected("loud", 0.0, None)]


def test_the_contract_cannot_be_left_out() -> None:
    """A policy without `around` cannot be made, nor one with a name that is none."""
    with pytest.raises(TypeError, match="abstract"):
        ar.Policy()  # type: ignore[abstract]
    with pytest.raises(TypeError, match=r"Shout: name must be a string, got 5 \(int\)"):
        Shout(5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Shout: name must not be empty"):
        Shout("")


# Listeners


async def test_a_listener_is_told_until_it_is_taken_away() -> None:
    """`listen` returns what ends it; ending it twice is harmless."""
    recorder = Recorder()
    bulkhead = ar.Bulkhead(1)
    end = bulkhead.listen(recorder)
    async with bulkhead:
        for told in (1, 1):
            with pytest.raises(ar.BulkheadFull):
                await bulkhead.call(fetch, 1)
            assert len(recorder.events) == told
            end()


# Errors


@pytest.mark.parametrize(
    ("error", "parents", "outcome"),
    [
        (ar.Rejected("full", retry_after=2.0), (), ar.Outcome.IGNORED),
        (ar.BulkheadFull("full"), (ar.Rejected,), ar.Outcome.IGNORED),
        (ar.CircuitOpen("open", retry_after=2.0), (ar.Rejected,), ar.Outcome.IGNORED),
        (ar.TimedOut("late"), (TimeoutError,), ar.Outcome.FAILURE),
        (ar.DeadlineExceeded("late"), (ar.TimedOut, TimeoutError), ar.Outcome.IGNORED),
    ],
)
def test_errors_say_how_they_count_and_survive_a_copy(
    error: ar.AresilienceError, parents: tuple[type, ...], outcome: ar.Outcome
) -> None:
    """Every error is an AresilienceError with an outcome, and can be copied and pickled with its facts."""
    assert isinstance(error, ar.AresilienceError)
    assert all(isinstance(error, parent) for parent in parents)
    assert error.outcome is outcome
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (type(twin), str(twin), vars(twin)) == (type(error), str(error), vars(error))
