"""A retry cancelled at every one of its awaits: nothing is left behind, no cancel is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import aresilience as ar
from aresilience.testing import cancel_sweep

Call = Callable[[], Awaitable[Any]]


async def by_call(retry: ar.Retry, fn: Call) -> Any:
    """A call."""
    return await retry.call(fn)


async def by_loop(retry: ar.Retry, fn: Call) -> Any:
    """The iterator form."""
    result = None
    async for attempt in retry:
        async with attempt:
            result = await fn()
    return result


class Flaky:
    """A call that waits, fails twice, then answers; with results, the first two are bad ones."""

    def __init__(self, *, errors: bool = True) -> None:
        self.errors = errors
        self.made = 0
        self.running = 0
        self.open: list[int] = []

    async def __call__(self) -> int:
        self.running += 1
        try:
            await asyncio.sleep(1)
            self.made += 1
            if self.made % 3 == 0:
                return 0
            if self.errors:
                raise ConnectionError
            self.open.append(self.made)
            return self.made
        finally:
            self.running -= 1

    async def close(self, result: int) -> None:
        """Dispose of a result."""
        self.open.remove(result)
        await asyncio.sleep(1)


def retries(**options: Any) -> Callable[[Flaky], Awaitable[Any]]:
    """What is swept: a call in either form."""

    async def use(flaky: Flaky) -> None:
        if "until" in options:
            await ar.Retry(on=(), dispose=flaky.close, **options).call(flaky)
            return
        retry = ar.Retry(on=Exception, backoff=ar.Backoff.constant(1), **options)
        await by_call(retry, flaky)
        await by_loop(retry, flaky)

    return use


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"deadline": 60},
        {"budget": ar.RetryBudget()},
        {"nested": "outer"},
        {"until": lambda result: result == 0},
        {"until": lambda result: result == 0, "deadline": 60},
    ],
    ids=["plain", "deadline", "budget", "outer", "results", "results with a deadline"],
)
def test_cancelled_at_every_await(options: dict[str, Any]) -> None:
    """Wherever the cancel comes it is not lost; no call runs on, no result stays open, no deadline stays."""

    def check(flaky: Flaky) -> None:
        assert flaky.running == 0
        assert flaky.open == []
        assert ar.time_remaining() is None

    report = cancel_sweep(
        retries(**options), make=lambda: Flaky(errors="until" not in options), check=check
    )
    assert report.points >= 7


def test_cancelled_while_the_deadline_expires() -> None:
    """The sweep also meets the call that its own deadline cuts off."""

    async def use(flaky: Flaky) -> None:
        for form in (by_call, by_loop):
            with pytest.raises(ar.TimedOut):
                await form(ar.Retry(on=Exception, deadline=2.5, backoff=ar.Backoff.constant(1)), flaky)

    class Never(Flaky):
        """It fails once, then hangs."""

        async def __call__(self) -> int:
            self.made += 1
            if self.made % 2:
                raise ConnectionError
            await asyncio.sleep(60)
            return 0

    assert cancel_sweep(use, make=Never).runs > 10
