"""What can be wrapped, what comes out, and what is refused with a message that helps."""

from __future__ import annotations

import asyncio
import functools
import inspect
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest

import aresilience as ar

RETRY = ar.Retry(on=ConnectionError, backoff=ar.Backoff.constant(1))


async def fetch(user: int, /, *path: str, verbose: bool = False, **query: int) -> str:
    """Fetch something."""
    return f"{user} {path} {verbose} {query}"


fetch.custom = "kept"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "retry",
    [
        RETRY,
        ar.Retry(on=ConnectionError, deadline=60),
        ar.Retry(on=ConnectionError, budget=ar.RetryBudget()),
        ar.Retry(on=ConnectionError, until=lambda result: True),
        ar.Retry(on=ConnectionError, nested="outer"),
    ],
    ids=["plain", "deadline", "budget", "until", "outer"],
)
async def test_a_wrapped_function_is_the_function(retry: ar.Retry) -> None:
    """Name, documentation, signature, annotations and attributes are kept; it is a coroutine function."""
    wrapped = retry(fetch)
    assert (wrapped.__name__, wrapped.__qualname__, wrapped.__module__) == ("fetch", "fetch", __name__)
    assert wrapped.__doc__ == "Fetch something."
    assert inspect.signature(wrapped) == inspect.signature(fetch)
    assert typing.get_type_hints(wrapped) == typing.get_type_hints(fetch)
    assert inspect.iscoroutinefunction(wrapped)
    assert wrapped.__wrapped__ is fetch  # type: ignore[attr-defined]
    assert wrapped.custom == "kept"  # type: ignore[attr-defined]
    assert await wrapped(1, "a", "b", verbose=True, q=2) == await fetch(1, "a", "b", verbose=True, q=2)


async def test_arguments_of_any_name_are_passed_on() -> None:
    """No argument of the user's collides with one of ours."""

    async def echo(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        if not calls:
            calls.append(1)
            raise ConnectionError
        return args, kwargs

    calls: list[int] = []
    names = {"self": 1, "fn": 2, "delay": 3, "run": 4, "failure": 5}
    assert await RETRY(echo)(0, **names) == ((0,), names)
    calls.clear()
    assert await RETRY.call(echo, 0, **names) == ((0,), names)


async def test_wrong_arguments_fail_where_they_are_passed() -> None:
    """A TypeError of the call itself is not retried unless `on` says so."""
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        await RETRY(fetch)()  # type: ignore[call-arg]


class Client:
    """A client with methods, each of which fails once."""

    def __init__(self) -> None:
        self.calls = 0

    def fail_once(self) -> None:
        """Count, and raise on the first call."""
        self.calls += 1
        if self.calls == 1:
            raise ConnectionError

    @RETRY
    async def decorated(self, n: int) -> int:
        """Decorated in the class."""
        self.fail_once()
        return n

    async def plain(self, n: int) -> int:
        """Wrapped from outside."""
        self.fail_once()
        return n

    async def __call__(self, n: int) -> int:
        self.fail_once()
        return n

    @classmethod
    @RETRY
    async def of_class(cls, n: int) -> int:
        """Decorated below @classmethod."""
        return n

    @staticmethod
    @RETRY
    async def static(n: int) -> int:
        """Decorated below @staticmethod."""
        return n


async def test_methods() -> None:
    """A decorated method binds; a bound method can be wrapped."""
    client = Client()
    assert await client.decorated(1) == 1
    assert client.calls == 2
    client = Client()
    assert await RETRY(client.plain)(2) == 2
    assert client.calls == 2
    assert await Client.of_class(3) == await Client.static(3) == 3
    assert inspect.iscoroutinefunction(Client.decorated)


@pytest.mark.parametrize(
    "make",
    [
        lambda client: client,
        lambda client: functools.partial(client.plain),
        lambda client: functools.partial(functools.partial(client)),
        lambda client: RETRY(client.plain),
        lambda client: AsyncMock(side_effect=client.plain),
    ],
    ids=["object", "partial", "partial of a partial", "wrapped already", "AsyncMock"],
)
async def test_other_async_callables(make: Callable[[Client], Callable[[int], Awaitable[int]]]) -> None:
    """Objects with an async __call__, partials, wrapped functions and AsyncMocks are as good as functions."""
    for call in (RETRY.wrap, lambda fn: functools.partial(RETRY.call, fn)):
        client = Client()
        assert await call(make(client))(5) == 5
        assert client.calls == 2


async def test_an_async_mock_counts_its_awaits() -> None:
    """In a user's test the mock sees each attempt, and its errors are retried."""
    mock = AsyncMock(side_effect=[ConnectionError, ConnectionError, "ok"])
    assert await RETRY(mock)("a", b=1) == "ok"
    assert mock.await_count == 3
    assert mock.await_args_list == [(("a",), {"b": 1})] * 3


async def test_a_call_takes_what_returns_an_awaitable() -> None:
    """call() accepts a lambda, or a plain method that returns an awaitable; errors before it are retried."""
    client = Client()
    assert await RETRY.call(lambda: client.plain(1)) == 1
    assert client.calls == 2
    left = [ConnectionError(), ConnectionError()]

    def later() -> asyncio.Future[int]:
        if left:
            raise left.pop()
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        future.set_result(7)
        return future

    assert await RETRY.call(later) == 7


def sync(n: int) -> int:
    """Answers at once."""
    return n


def generator() -> Iterator[int]:
    """Not a call at all."""
    yield 1


async def stream() -> AsyncIterator[int]:
    """An async generator."""
    yield 1


class SyncCallable:
    """An object that answers at once."""

    def __call__(self) -> int:
        return 1


class Awaited:
    """A class whose instances can be awaited."""

    def __await__(self) -> Generator[Any, Any, int]:
        yield
        return 1


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (sync, "Retry wraps async functions, got <function sync at 0x"),
        (lambda: None, "Retry wraps async functions, got <function <lambda> at 0x"),
        (functools.partial(sync, 1), "Retry wraps async functions, got functools.partial("),
        (generator, "Retry wraps async functions, got <function generator at 0x"),
        (len, "Retry wraps async functions, got <built-in function len>"),
        (SyncCallable(), "Retry wraps async functions, got <"),
        (SyncCallable, "Retry wraps async functions, got <class "),
        (Client, "Retry wraps async functions, got <class "),
        (Awaited, "Retry wraps async functions, got <class "),
        (MagicMock(), "Retry wraps async functions, got <MagicMock"),
        (None, "Retry wraps async functions, got None"),
        ("fetch", "Retry wraps async functions, got 'fetch'"),
        (
            stream,
            "an async generator has no single result to judge or to repeat; wrap the call that produces each "
            "item",
        ),
    ],
    ids=lambda it: None if isinstance(it, str) else getattr(it, "__name__", type(it).__name__),
)
def test_what_cannot_be_wrapped(fn: Any, message: str) -> None:
    """Whatever has no awaitable result to repeat is refused at decoration, with what to write instead."""
    with pytest.raises(TypeError) as caught:
        RETRY(fn)
    assert message in str(caught.value)
    assert fn is stream or str(caught.value).endswith(": write 'async def'")


def test_a_coroutine_is_no_function() -> None:
    """Whoever has already made the call is told how to hand it over; no coroutine is left un-awaited."""
    with pytest.raises(
        TypeError, match=r"Retry wraps functions, got a coroutine: write wrap\(fn\), not wrap\(fn\(\)\)"
    ):
        RETRY(fetch(1))  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match=r"Retry\.call takes a function .* write call\(fn, x\), not call\(fn\(x\)\)"
    ):
        RETRY.call(fetch(1))  # type: ignore[arg-type]


async def test_an_async_context_manager_is_no_call() -> None:
    """call() says so as soon as it sees what it got instead of an awaitable."""

    @asynccontextmanager
    async def session() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(TypeError, match="which is not awaitable"):
        await RETRY.call(session)  # type: ignore[arg-type]


async def test_one_policy_wraps_many_functions() -> None:
    """A policy has no function of its own, and a function may have many policies."""
    fast = AsyncMock(side_effect=[ConnectionError, 1])
    slow = AsyncMock(side_effect=[ConnectionError, TimeoutError, 2])
    assert await RETRY(fast)() == 1
    assert await ar.Retry(on=TimeoutError)(RETRY(slow))() == 2


@pytest.mark.virtual_time(seed=11)
async def test_shuffled_tasks_each_get_their_own() -> None:
    """Whatever runs first, results and errors reach the caller that they belong to."""

    @RETRY
    async def work(n: int) -> int:
        for _ in range(n % 3):
            await asyncio.sleep(0)
        if n % 2 and not done[n]:
            done[n] = True
            raise ConnectionError
        return n

    done = [False] * 50
    assert await asyncio.gather(*(work(n) for n in range(50))) == list(range(50))
