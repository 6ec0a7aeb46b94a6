"""Retries inside retries: who retries, how often the callee is called, who is warned."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import pytest

import aresilience as ar
from aresilience.testing import Recorder

Nested = Literal["warn", "inner", "outer", "both"]
Call = Callable[[], Awaitable[Any]]


class Down:
    """A call that always fails, with a fresh error or with always the same one."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.calls = 0

    async def __call__(self) -> None:
        self.calls += 1
        await asyncio.sleep(0)
        raise self.error or ConnectionError("down")


def four(nested: Nested = "warn", **options: Any) -> ar.Retry:
    """A retry with four attempts."""
    return ar.Retry(**{"on": ConnectionError, "attempts": 4, "nested": nested, "name": nested} | options)


def looped(retry: ar.Retry, fn: Call) -> Call:
    """What retry.wrap(fn) does, in the iterator form."""

    async def loop() -> Any:
        result = None
        async for attempt in retry:
            async with attempt:
                result = await fn()
        return result

    return loop


def wrapped(retry: ar.Retry, fn: Call) -> Call:
    """retry.wrap(fn)."""
    return retry.wrap(fn)


FORMS = pytest.mark.parametrize(
    ("form_out", "form_in"), [(wrapped, wrapped), (wrapped, looped), (looped, wrapped), (looped, looped)]
)


def warned(nested: Nested) -> AbstractContextManager[Any]:
    """Expects a warning where there must be one; elsewhere every warning is an error."""
    return pytest.warns(ar.PipelineWarning) if nested == "warn" else nullcontext()


@FORMS
@pytest.mark.parametrize(("nested", "calls"), [("warn", 16), ("inner", 4), ("outer", 4), ("both", 16)])
async def test_y6(form_out: Any, form_in: Any, nested: Nested, calls: int) -> None:
    """Nested retries multiply → detected, warned, or one of them suppressed (for all others 4 x 4 = 16)."""
    down = Down()
    call = form_out(four(nested), form_in(four(), down))
    with warned(nested), pytest.raises(ConnectionError, match="down"):
        await call()
    assert down.calls == calls


async def test_the_warning_says_where_and_what_to_do() -> None:
    """It names the outer policy, the function that is retried further in, and the ways out."""

    async def fetch() -> None:
        raise ConnectionError

    inner = ar.Retry(on=ConnectionError, attempts=2).wrap(fetch)
    with pytest.warns(ar.PipelineWarning) as caught, pytest.raises(ConnectionError):
        await four(name="outer").call(inner)
    assert str(caught[0].message) == (
        "outer: an error was already retried further in, at "
        "test_the_warning_says_where_and_what_to_do.<locals>.fetch, with 2 attempts; retries multiply. "
        "Remove one, or say who retries with nested='inner' or 'outer' (or 'both')"
    )


@pytest.mark.parametrize("nested", ["inner", "outer", "both"])
async def test_an_error_from_outside_the_inner_retry_is_retried(nested: Nested) -> None:
    """nested= is about calls that an inner retry has repeated, not about the rest of the body."""
    made = 0

    async def body() -> None:
        nonlocal made
        made += 1
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await four(nested).call(body)
    assert made == 4


async def test_success_costs_nobody_a_warning() -> None:
    """Only errors that both have retried are worth one."""
    made = 0

    async def second_time_lucky() -> int:
        nonlocal made
        made += 1
        if made == 1:
            raise ConnectionError
        return made

    assert await four().call(four().wrap(second_time_lucky)) == 2


async def test_an_inner_retry_that_made_one_attempt_multiplies_nothing() -> None:
    """Where the inner one stopped at once (its budget is used up, say) there is nothing to warn of."""
    spent = ar.RetryBudget(ratio=0.01, floor=0)
    down = Down()
    with pytest.raises(ConnectionError):
        await four().call(four(budget=spent).wrap(down))
    assert down.calls == 4


async def test_the_inner_history_stays_where_the_inner_one_retries() -> None:
    """With nested='inner' the error keeps the history of those who made the attempts; both ends are told."""
    recorder = Recorder()
    outer = four("inner", name="outer", listeners=[recorder])
    inner = four(name="inner", listeners=[recorder], backoff=ar.Backoff.constant(1))
    with pytest.raises(ConnectionError) as caught:
        await outer.call(inner.wrap(Down()))
    assert len(ar.retry_history(caught.value)) == 4
    assert [note.split(" and")[0] for note in caught.value.__notes__] == [
        "aresilience: inner gave up after 4 attempts"
    ]
    ends = [(event.policy, event.attempts, event.reason) for event in recorder.of(ar.RetryGaveUp)]
    assert ends == [("inner", 4, ar.StopReason.ATTEMPTS), ("outer", 1, ar.StopReason.NESTED)]


async def test_the_outer_history_stays_where_the_outer_one_retries() -> None:
    """With nested='outer' the inner one tells that it yields, and the note is the outer one's."""
    recorder = Recorder()
    outer = four("outer", name="outer", backoff=ar.Backoff.constant(1))
    inner = four(name="inner", listeners=[recorder])
    with pytest.raises(ConnectionError) as caught:
        await outer.call(inner.wrap(Down()))
    assert [note.split(" and")[0] for note in caught.value.__notes__] == [
        "aresilience: outer gave up after 4 attempts"
    ]
    assert [event.reason for event in recorder.of(ar.RetryGaveUp)] == [ar.StopReason.NESTED] * 4
    history = ar.retry_history(caught.value)
    assert [a.number for a in history] == [1, 2, 3, 4]
    for attempt in history[:-1]:  # what has been retried since is no end
        assert attempt.error is not None
        assert ar.retry_history(attempt.error) == ()
        assert attempt.error.__notes__ == []


@pytest.mark.parametrize("nested", ["outer", "inner"])
async def test_three_deep(nested: Nested) -> None:
    """The word of the outermost holds all the way in, or all the way out."""
    down = Down()
    with pytest.raises(ConnectionError):
        await four(nested).call(four(nested).wrap(four(nested).wrap(down)))
    assert down.calls == 4


@pytest.mark.parametrize(("nested", "calls"), [("warn", 4), ("inner", 2), ("outer", 2), ("both", 4)])
async def test_recursion_through_one_policy_is_nesting_too(nested: Nested, calls: int) -> None:
    """A retried function that calls itself multiplies its attempts like any other."""
    made = 0
    retry = ar.Retry(on=ConnectionError, attempts=2, nested=nested, backoff=ar.Backoff.constant(1))

    @retry
    async def descend(depth: int) -> None:
        nonlocal made
        if depth:
            await descend(depth - 1)
        made += 1
        raise ConnectionError

    with warned(nested), pytest.raises(ConnectionError):
        await descend(1)
    assert made == calls


@pytest.mark.parametrize(("nested", "calls"), [("warn", 16), ("inner", 4), ("outer", 4)])
async def test_an_inner_retry_in_a_task_of_its_own(nested: Nested, calls: int) -> None:
    """The task that an attempt awaits is part of it."""
    down = Down()
    inner = four().wrap(down)

    async def body() -> None:
        await asyncio.ensure_future(inner())

    with warned(nested), pytest.raises(ConnectionError):
        await four(nested).call(body)
    assert down.calls == calls


async def test_a_task_that_outlives_the_outer_call_retries_again() -> None:
    """nested='outer' ends with the call, also for what it has left running."""
    down = Down()
    tasks: list[asyncio.Task[Any]] = []

    async def later() -> None:
        await asyncio.sleep(1)
        await four().call(down)

    async def start() -> None:
        tasks.append(asyncio.create_task(later()))

    await four("outer").call(start)
    with pytest.raises(ConnectionError):
        await tasks[0]
    assert down.calls == 4


async def test_neighbours_are_not_nested() -> None:
    """Calls beside each other, and after, do not see an outer retry that is not around them."""
    down, beside = Down(), Down()

    async def apart() -> None:
        with pytest.raises(ConnectionError):
            await four().call(beside)

    task = asyncio.create_task(apart())
    with pytest.raises(ConnectionError):
        await four("outer").call(down)
    await task
    assert (down.calls, beside.calls) == (4, 4)


# --- the same exception object, raised again and again ---


@pytest.mark.parametrize("nested", ["warn", "inner"])
async def test_an_error_object_that_an_earlier_call_marked_is_not_nested(nested: Nested) -> None:
    """A mock raises one object for ever: what another policy, or another function, left on it is past."""
    error = ConnectionError("always the same")
    for number in range(3):
        for form in (wrapped, looped):
            down = Down(error)
            with pytest.raises(ConnectionError) as caught:
                await form(four(nested, name=f"{form.__name__} {number}"), down)()
            assert caught.value is error
            assert down.calls == 4


async def test_an_error_object_that_many_tasks_get_is_not_nested() -> None:
    """All who await one failed connection get one exception object, at the same time."""
    error = ConnectionError("shared")

    async def get() -> None:
        await asyncio.sleep(1)
        raise error

    call = four().wrap(get)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ends = await asyncio.gather(*(call() for _ in range(20)), return_exceptions=True)
    assert all(end is error for end in ends)


def test_nested_is_one_of_four_words() -> None:
    """Another word is refused."""
    with pytest.raises(
        ValueError, match="Retry: nested must be one of 'warn', 'inner', 'outer', 'both', got 'none'"
    ):
        four("none")  # type: ignore[arg-type]
