"""What a call leaves behind: nothing that only the garbage collector could find."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

import aresilience as ar
from aresilience.testing import run_virtual


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    """What is not freed by reference counts stays, and is seen."""
    gc.disable()
    yield
    gc.enable()


class Down(ConnectionError):
    """An error that can be referred to weakly."""


class Big:
    """What the caller of a failed call would not like to keep."""


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


FORMS = pytest.mark.parametrize("form", [by_call, by_loop])
Form = Callable[[ar.Retry, Call], Awaitable[Any]]

PLAIN: dict[str, Any] = {}
OPTIONS = pytest.mark.parametrize(
    "options",
    [PLAIN, {"deadline": 60}, {"budget": ar.RetryBudget()}, {"nested": "outer"}],
    ids=["plain", "deadline", "budget", "outer"],
)


def failing(times: int, seen: list[weakref.ref[Any]]) -> Call:
    """A call that fails so often, each time with an error that has something big in its frame."""

    async def fails() -> str:
        big, error = Big(), Down("down")
        seen.extend((weakref.ref(big), weakref.ref(error)))
        if len(seen) > 2 * times:
            return "up"
        try:
            raise error
        finally:
            del error  # the cycle of frame and error would be the test's own

    return fails


def left(seen: list[weakref.ref[Any]]) -> list[Any]:
    """What of it is still there."""
    return [it for ref in seen if (it := ref()) is not None]


@FORMS
@OPTIONS
@pytest.mark.parametrize("times", [1, 2, 9], ids=["recovers", "recovers late", "gives up"])
def test_no_cycle_is_left_by_failed_attempts(form: Form, options: dict[str, Any], times: int) -> None:
    """When the caller lets go of the error, errors, frames and all that they hold are gone at once."""
    seen: list[weakref.ref[Any]] = []

    async def main() -> None:
        retry = ar.Retry(on=ConnectionError, **options)
        try:
            await form(retry, failing(times, seen))
        except ConnectionError as error:
            attempts.append(len(ar.retry_history(error)))
        assert left(seen) == []

    attempts: list[int] = []
    run_virtual(main())
    assert attempts == ([] if times < 3 else [3])
    assert len(seen) == 2 * min(times + 1, 3)


@FORMS
@OPTIONS
def test_no_cycle_is_left_by_an_error_that_is_not_retried(form: Form, options: dict[str, Any]) -> None:
    """The same for an error that only the first, or the second attempt has."""
    seen: list[weakref.ref[Any]] = []

    async def main() -> None:
        for on in (KeyError, lambda error: len(seen) == 2):
            seen.clear()
            with pytest.raises(ConnectionError):
                await form(ar.Retry(on=on, **options), failing(9, seen))
            assert left(seen) == []

    run_virtual(main())


@FORMS
@OPTIONS
def test_no_cycle_is_left_by_a_cancel(form: Form, options: dict[str, Any]) -> None:
    """Nor where the wait between two attempts is cancelled."""
    seen: list[weakref.ref[Any]] = []

    async def main() -> None:
        retry = ar.Retry(on=ConnectionError, backoff=ar.Backoff.sequence(1, 10), **options)
        task = asyncio.ensure_future(form(retry, failing(9, seen)))
        await asyncio.sleep(5)
        assert len(seen) == 4
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        del task
        assert left(seen) == []

    run_virtual(main())


@FORMS
def test_no_cycle_is_left_by_the_deadline(form: Form) -> None:
    """Nor where an attempt was cut off."""
    seen: list[weakref.ref[Any]] = []

    async def fails_then_hangs() -> None:
        big = Big()
        seen.append(weakref.ref(big))
        if len(seen) == 1:
            raise Down
        await asyncio.sleep(60)

    async def main() -> None:
        retry = ar.Retry(on=ConnectionError, backoff=ar.Backoff.constant(1), deadline=5)
        try:
            await form(retry, fails_then_hangs)
        except ar.TimedOut as error:
            seen.append(weakref.ref(error))
        await asyncio.sleep(0)  # the loop itself holds the future that was cancelled in this turn
        assert left(seen) == []

    run_virtual(main())
    assert len(seen) == 3


def test_no_cycle_is_left_by_rejected_results() -> None:
    """Nor by results that were given up, or returned at last."""
    seen: list[weakref.ref[Any]] = []

    async def fetch() -> Big:
        big = Big()
        seen.append(weakref.ref(big))
        return big

    async def main() -> None:
        await ar.Retry(on=(), until=lambda result: False).call(fetch)
        assert left(seen) == []

    run_virtual(main())
    assert len(seen) == 3


@FORMS
def test_nothing_is_left_to_collect(form: Form) -> None:
    """After many failed calls the collector finds nothing."""

    async def main() -> None:
        retry = ar.Retry(on=ConnectionError, budget=ar.RetryBudget(), deadline=60)
        gc.collect()
        for _ in range(20):
            with suppress(ConnectionError):
                await form(retry, failing(9, []))
        assert gc.collect() == 0

    run_virtual(main())


@FORMS
def test_a_call_keeps_nothing_on_the_policy(form: Form) -> None:
    """The policy object is as it was made, however many calls have failed on it."""

    async def main() -> None:
        retry = ar.Retry(on=ConnectionError)
        before = gc.get_referents(retry)
        with pytest.raises(ConnectionError):
            await form(retry, failing(9, []))
        assert gc.get_referents(retry) == before

    run_virtual(main())
