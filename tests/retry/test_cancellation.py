"""A cancellation is never retried, replaced, delayed or lost, whatever the user's predicate says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest

import aresilience as ar
from aresilience.testing import Recorder

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
OPTIONS = pytest.mark.parametrize(
    "options",
    [{}, {"deadline": 60}, {"budget": ar.RetryBudget()}, {"nested": "outer"}],
    ids=["plain", "deadline", "budget", "outer"],
)
Form = Callable[[ar.Retry, Call], Awaitable[Any]]


def everything(error: BaseException) -> bool:
    """The broadest predicate."""
    return True


def not_a_value_error(error: BaseException) -> bool:
    """What tenacity's retry_if_not_exception_type(ValueError) amounts to."""
    return not isinstance(error, ValueError)


@FORMS
@OPTIONS
@pytest.mark.parametrize(
    "on",
    [Exception, everything, not_a_value_error, (OSError, everything)],
    ids=["Exception", "all", "all but one", "both"],
)
async def test_y1(form: Form, options: dict[str, Any], on: Any) -> None:
    """CancelledError is never retried (tenacity and stamina swallow it under such predicates: task alive)."""
    made = 0

    async def hangs() -> None:
        nonlocal made
        made += 1
        await asyncio.sleep(30)

    task = asyncio.ensure_future(form(ar.Retry(on=on, **options), hangs))
    await asyncio.sleep(1)
    assert task.cancel("because")
    with pytest.raises(asyncio.CancelledError, match="because"):
        await task
    assert task.cancelled()
    assert (made, asyncio.get_running_loop().time()) == (1, 1.0)


@FORMS
@OPTIONS
async def test_a_cancel_ends_the_wait(form: Form, options: dict[str, Any]) -> None:
    """A cancel between two attempts ends the call at once, without another one."""
    made = 0

    async def down() -> None:
        nonlocal made
        made += 1
        raise ConnectionError

    retry = ar.Retry(on=everything, backoff=ar.Backoff.constant(10), **options)
    task = asyncio.ensure_future(form(retry, down))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (made, asyncio.get_running_loop().time()) == (1, 1.0)


@FORMS
@pytest.mark.parametrize("exit_", [asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit])
async def test_what_is_no_exception_passes(form: Form, exit_: type[BaseException]) -> None:
    """Exits that the call itself raises are decided before any predicate sees them: they pass, unmarked."""
    asked: list[BaseException] = []
    error = exit_()

    async def raises() -> None:
        raise error

    with pytest.raises(exit_) as caught:
        await form(ar.Retry(on=lambda e: not asked.append(e), until=None), raises)
    assert caught.value is error
    assert asked == []
    assert vars(error) == {}


@FORMS
async def test_y11_a_group_with_a_cancellation(form: Form) -> None:
    """A group with a cancellation in it is never retried."""
    made = 0

    async def mixed() -> None:
        nonlocal made
        made += 1
        raise BaseExceptionGroup("mixed", [ConnectionError(), asyncio.CancelledError()])

    with pytest.raises(BaseExceptionGroup):
        await form(ar.Retry(on=everything, groups="any"), mixed)
    assert made == 1


@FORMS
@OPTIONS
async def test_a_call_that_swallows_its_cancellation_is_not_repeated(
    form: Form, options: dict[str, Any]
) -> None:
    """Where the call turns a cancel into an error of its own, that error ends the retrying."""
    made = 0
    recorder = Recorder()

    async def swallows() -> None:
        nonlocal made
        made += 1
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            raise ConnectionError("cancelled?") from None

    retry = ar.Retry(on=ConnectionError, listeners=[recorder], **options)
    task = asyncio.ensure_future(form(retry, swallows))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(ConnectionError, match="cancelled"):
        await task
    assert (made, asyncio.get_running_loop().time()) == (1, 1.0)
    assert [event.reason for event in recorder.of(ar.RetryGaveUp)] == [ar.StopReason.CANCELLED]


async def test_a_result_that_came_despite_a_cancel_is_not_asked_for_again() -> None:
    """A call that swallows a cancel and has an answer, if only a bad one, is not repeated either."""

    async def swallows() -> str:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(30)
        return "bad"

    task = asyncio.ensure_future(ar.Retry(on=(), until=lambda r: r == "good").call(swallows))
    await asyncio.sleep(1)
    task.cancel()
    assert await task == "bad"


async def test_nothing_is_repeated_while_the_task_is_being_cancelled() -> None:
    """A retry in the clean-up of a cancelled task makes one attempt: it must not hold up the end."""
    made = 0

    async def down() -> None:
        nonlocal made
        made += 1
        raise ConnectionError

    async def main() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            with pytest.raises(ConnectionError):
                await ar.Retry(on=ConnectionError).call(down)

    task = asyncio.ensure_future(main())
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (made, asyncio.get_running_loop().time()) == (1, 1.0)


async def slow() -> None:
    """A call that takes a minute."""
    await asyncio.sleep(60)


@FORMS
@pytest.mark.parametrize("cut", [anyio.move_on_after, ar.deadline], ids=["anyio", "ours"])
async def test_an_outer_limit_is_not_retried(form: Form, cut: Any) -> None:
    """Somebody else's time limit arrives as a cancel and passes as one."""
    retry = ar.Retry(on=everything, attempts=5)
    try:
        with cut(3):
            await form(retry, slow)
    except ar.DeadlineExceeded:
        pass
    assert asyncio.get_running_loop().time() == 3.0


@FORMS
async def test_an_outer_asyncio_timeout_works_around_a_retry_on_timeouts(form: Form) -> None:
    """asyncio.timeout around a retry on TimeoutError ends it; inside, it is retried."""
    retry = ar.Retry(on=TimeoutError, attempts=9, backoff=ar.Backoff.constant(1))

    async def limited() -> None:
        async with asyncio.timeout(2):
            await slow()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(7):
            await form(retry, limited)
    assert asyncio.get_running_loop().time() == 7.0


@FORMS
async def test_a_task_groups_cancel_is_not_retried(form: Form) -> None:
    """When a sibling fails, the call that is being retried ends with it."""

    async def sibling() -> None:
        await asyncio.sleep(2)
        raise KeyError("sibling")

    async def down() -> None:
        raise ConnectionError

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(form(ar.Retry(on=everything, backoff=ar.Backoff.constant(9)), down))  # type: ignore[arg-type]
            group.create_task(sibling())

    with pytest.raises(ExceptionGroup) as caught:
        await both()
    assert [type(leaf) for leaf in caught.value.exceptions] == [KeyError]
    assert asyncio.get_running_loop().time() == 2.0


@FORMS
async def test_somebody_elses_cancel_is_an_error_like_any_other(form: Form) -> None:
    """Where what the call waited for was cancelled, not this task, its error is retried."""
    made = 0

    async def waits_for_another() -> None:
        nonlocal made
        made += 1
        other = asyncio.ensure_future(slow())
        asyncio.get_running_loop().call_later(1, other.cancel)
        try:
            await other
        except asyncio.CancelledError:
            raise ConnectionError("the connection attempt was called off") from None

    with pytest.raises(ConnectionError):
        await form(ar.Retry(on=ConnectionError), waits_for_another)
    assert made == 3


# --- a TaskGroup that fails: before Python 3.13 it leaves Task.cancelling() raised (python/cpython#116720) ---


async def fails_in_a_group() -> None:
    """What nearly every concurrent call looks like."""
    async with asyncio.TaskGroup() as group:
        group.create_task(anyio.sleep(30))
        group.create_task(raises(ConnectionError("in a task")))


async def raises(error: Exception) -> None:
    """Raise it, a turn later."""
    await asyncio.sleep(0)
    raise error


async def times_out() -> None:
    """An attempt that a limit inside of the retry cuts off."""
    await ar.Timeout(1).call(slow)


@FORMS
@OPTIONS
async def test_y11_the_group_of_a_task_group_is_retried(form: Form, options: dict[str, Any]) -> None:
    """ExceptionGroup from a TaskGroup: retried as often as any error."""
    made = 0

    async def call() -> None:
        nonlocal made
        made += 1
        await fails_in_a_group()

    with pytest.raises(ExceptionGroup):
        await form(ar.Retry(on=ConnectionError, attempts=4, **options), call)
    assert made == 4


@FORMS
@pytest.mark.parametrize("again", [fails_in_a_group, times_out, lambda: raises(ConnectionError())])
async def test_a_task_group_that_failed_before_changes_nothing(form: Form, again: Call) -> None:
    """In a task that has seen one fail, and lives on, errors and timeouts are retried as before."""
    with pytest.raises(ExceptionGroup):
        await fails_in_a_group()
    made = 0

    async def call() -> None:
        nonlocal made
        made += 1
        await again()

    with pytest.raises((ConnectionError, TimeoutError, ExceptionGroup)):
        await form(ar.Retry(on=(ConnectionError, TimeoutError)), call)
    assert made == 3


@FORMS
async def test_the_deadline_holds_after_a_task_group_that_failed(form: Form) -> None:
    """An attempt that hangs after one whose TaskGroup failed is cut off as ever, not cancelled for good."""
    made = 0

    async def call() -> None:
        nonlocal made
        made += 1
        await (fails_in_a_group() if made == 1 else slow())

    with pytest.raises(ar.TimedOut):
        await form(ar.Retry(on=ConnectionError, backoff=ar.Backoff.constant(1), deadline=5), call)
    assert (made, asyncio.get_running_loop().time()) == (2, 5.0)


@FORMS
async def test_an_error_that_is_its_own_cause(form: Form) -> None:
    """Looking for a cancel behind an error comes to an end, whatever the error names as its cause."""
    with pytest.raises(ExceptionGroup):
        await fails_in_a_group()
    made = 0

    async def call() -> None:
        nonlocal made
        made += 1
        error = ConnectionError()
        raise error from error

    with pytest.raises(ConnectionError):
        await form(ar.Retry(on=ConnectionError), call)
    assert made == 3


async def test_polling_goes_on_after_a_task_group_that_failed_before() -> None:
    """The same for results."""
    with pytest.raises(ExceptionGroup):
        await fails_in_a_group()
    results = iter([1, 2, 3])

    async def poll() -> int:
        return next(results)

    assert await ar.Retry(on=(), until=lambda result: result == 3).call(poll) == 3


@FORMS
async def test_an_error_raised_from_another_while_being_cancelled(form: Form) -> None:
    """The cancel is found behind whatever causes the error names."""
    made = 0

    async def swallows() -> None:
        nonlocal made
        made += 1
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            try:
                raise KeyError
            except KeyError as key:
                raise ConnectionError from ValueError(str(key))

    task = asyncio.ensure_future(form(ar.Retry(on=ConnectionError), swallows))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(ConnectionError):
        await task
    assert made == 1
