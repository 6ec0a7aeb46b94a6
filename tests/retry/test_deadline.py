"""The total deadline: cancels the attempt that runs past it, and no wait overruns it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

import aresilience as ar
from aresilience.testing import Recorder


async def by_call(retry: ar.Retry, fn: Callable[[], Awaitable[Any]]) -> Any:
    """A call."""
    return await retry.call(fn)


async def by_loop(retry: ar.Retry, fn: Callable[[], Awaitable[Any]]) -> Any:
    """The iterator form."""
    result = None
    async for attempt in retry:
        async with attempt:
            result = await fn()
    return result


FORMS = pytest.mark.parametrize("form", [by_call, by_loop])
Form = Callable[[ar.Retry, Callable[[], Awaitable[Any]]], Awaitable[Any]]


def now() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()


def failing(takes: float, at: list[float]) -> Callable[[], Awaitable[None]]:
    """A call that fails after so many seconds, and notes when it was made."""

    async def fails() -> None:
        at.append(now())
        await asyncio.sleep(takes)
        raise ConnectionError(f"failure {len(at)}")

    return fails


EPS = 1e-6


@FORMS
@pytest.mark.parametrize(
    ("deadline", "takes", "delay", "at", "end", "ended"),
    [
        # the attempt runs past the deadline
        (0.3, 0.5, 9.0, [0], ar.TimedOut, 0.3),
        (0.5 - EPS, 0.5, 9.0, [0], ar.TimedOut, 0.5 - EPS),
        (0.5 + EPS, 0.5, 9.0, [0], ConnectionError, 0.5),
        # the second one does
        (2.0, 0.5, 1.0, [0, 1.5], ConnectionError, 2.0),
        (2.0 - EPS, 0.5, 1.0, [0, 1.5], ar.TimedOut, 2.0 - EPS),
        # the wait would
        (1.5, 0.5, 1.0, [0], ConnectionError, 0.5),
        (1.5 + EPS, 0.5, 1.0, [0, 1.5], ar.TimedOut, 1.5 + EPS),
        (1.5 - EPS, 0.5, 1.0, [0], ConnectionError, 0.5),
    ],
)
async def test_the_deadline(
    form: Form,
    deadline: float,
    takes: float,
    delay: float,
    at: list[float],
    end: type[Exception],
    ended: float,
) -> None:
    """It cuts the running attempt off (for stamina, tenacity, backoff and nopanic a deadline does not).

    Where the next wait would reach it, the last error is raised at once instead of at the deadline.
    """
    made: list[float] = []
    backoff = ar.Backoff.constant(delay)
    retry = ar.Retry(on=ConnectionError, attempts=9, backoff=backoff, deadline=deadline)
    # In the very moment of the deadline both the error and the cut are right; asyncio decides.
    with pytest.raises((end, ar.TimedOut) if ended == deadline else end):
        await form(retry, failing(takes, made))
    assert made == at
    assert now() == pytest.approx(ended, abs=EPS / 10)


@FORMS
async def test_what_is_raised_when_the_first_attempt_is_cut_off(form: Form) -> None:
    """TimedOut, with the cancellation as its cause and what was limited in its message."""
    recorder = Recorder()
    retry = ar.Retry(on=ConnectionError, deadline=0.3, name="fetch", listeners=[recorder])
    with pytest.raises(ar.TimedOut) as caught:
        await form(retry, failing(0.5, []))
    error = caught.value
    assert type(error) is ar.TimedOut
    assert str(error) == "fetch: attempt 1 was cut off by the deadline of 0.3 s"
    assert isinstance(error.__cause__, asyncio.CancelledError)
    assert error.__notes__ == [
        "aresilience: fetch gave up after 1 attempt and 0 s of waiting: the deadline cancelled the attempt"
    ]
    (told,) = recorder.of(ar.RetryGaveUp)
    assert (told.at, told.attempts, told.reason, told.error) == (0.3, 1, ar.StopReason.TIMED_OUT, error)


@FORMS
async def test_what_is_raised_when_an_earlier_attempt_failed(form: Form) -> None:
    """TimedOut too, and the earlier errors are in its note and its history."""
    retry = ar.Retry(
        on=ConnectionError, attempts=9, backoff=ar.Backoff.constant(1), deadline=3.5, name="fetch"
    )
    with pytest.raises(ar.TimedOut) as caught:
        await form(retry, failing(0.5, []))
    assert str(caught.value) == "fetch: attempt 3 was cut off by the deadline of 3.5 s"
    assert caught.value.__notes__ == [
        "aresilience: fetch gave up after 3 attempts and 2 s of waiting, after "
        "ConnectionError('failure 1'), ConnectionError('failure 2'): the deadline cancelled the attempt"
    ]
    history = ar.retry_history(caught.value)
    assert [(a.number, str(a.error), a.ended, a.delay) for a in history] == [
        (1, "failure 1", 0.0, 1.0),
        (2, "failure 2", 1.5, 1.0),
        (3, "None", 3.0, None),
    ]


@FORMS
async def test_an_inner_timeout_error_is_not_our_expiry(form: Form) -> None:
    """A TimeoutError of the call stays itself and is retried (hyx and interlock take it for their own)."""
    made = 0

    async def times_out() -> None:
        nonlocal made
        made += 1
        raise TimeoutError("inner")

    with pytest.raises(TimeoutError, match="inner") as caught:
        await form(ar.Retry(on=TimeoutError, deadline=60), times_out)
    assert not isinstance(caught.value, ar.TimedOut)
    assert made == 3


@FORMS
async def test_its_own_expiry_is_not_retried(form: Form) -> None:
    """The retry that expires does not take its own TimedOut for a failed attempt."""
    made: list[float] = []
    with pytest.raises(ar.TimedOut):
        await form(ar.Retry(on=TimeoutError, attempts=5, deadline=1), failing(60, made))
    assert made == [0]


@FORMS
async def test_a_call_that_ignores_its_cancellation_is_waited_for(form: Form) -> None:
    """No attempt is abandoned: one that has an answer after all gives it, late."""

    async def stubborn() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(5)
        return "late"

    assert await form(ar.Retry(on=ConnectionError, deadline=1), stubborn) == "late"
    assert now() == 6.0
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


@FORMS
async def test_an_error_in_answer_to_the_cut_ends_the_retrying(form: Form) -> None:
    """A call that turns the cut into an error of its own is not repeated: the deadline is the reason."""
    made = 0
    recorder = Recorder()

    async def swallows() -> None:
        nonlocal made
        made += 1
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ConnectionError from None

    with pytest.raises(ConnectionError):
        await form(ar.Retry(on=ConnectionError, deadline=1, listeners=[recorder]), swallows)
    assert (made, now()) == (1, 1.0)
    assert [told.reason for told in recorder.of(ar.RetryGaveUp)] == [ar.StopReason.DEADLINE]


@FORMS
async def test_a_cancel_from_outside_wins(form: Form) -> None:
    """A cancel that arrives with the expiry passes as a cancel."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(form(ar.Retry(on=ConnectionError, deadline=1), failing(60, [])))
    loop.call_at(1.0, task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


@FORMS
@pytest.mark.parametrize(
    ("ambient", "at", "ended"),
    [(2.0, [0], 1.0), (3.5, [0, 2], 3.0), (4.0, [0, 2], 3.0), (5.5, [0, 2, 4], 5.0), (6.0, [0, 2, 4], 5.0)],
)
@pytest.mark.parametrize("limit", ["ar.deadline", "ar.Timeout", "retry further out"])
async def test_no_wait_overruns_the_ambient_deadline(
    form: Form, limit: str, ambient: float, at: list[float], ended: float
) -> None:
    """A wait of 1 s after an attempt of 1 s is not begun if ar.deadline or an outer policy ends before it."""
    made: list[float] = []
    retry = ar.Retry(on=ConnectionError, attempts=9, backoff=ar.Backoff.constant(1))

    async def call() -> None:
        with pytest.raises(ConnectionError):
            await form(retry, failing(1.0, made))

    if limit == "ar.deadline":
        with ar.deadline(ambient):
            await call()
    elif limit == "ar.Timeout":
        await ar.Timeout(ambient).call(call)
    else:
        await ar.Retry(on=KeyError, deadline=ambient).call(call)
    assert (made, now()) == (at, ended)


@FORMS
async def test_the_nearer_deadline_holds(form: Form) -> None:
    """Under a nearer ambient deadline the own one never comes; it does not make the outer one longer."""
    for outer, error, ended in ((1.0, ar.DeadlineExceeded, 1.0), (5.0, ar.TimedOut, 3.0)):
        started = now()
        with pytest.raises(ar.TimedOut) as caught, ar.deadline(outer):
            await form(ar.Retry(on=ConnectionError, deadline=3), failing(60, []))
        assert (type(caught.value), now() - started) == (error, ended)


@FORMS
async def test_an_ambient_deadline_in_another_task(form: Form) -> None:
    """In a task of its own, which nobody else cancels, the nearer ambient deadline is named for what it is."""
    retry = ar.Retry(on=ConnectionError, deadline=10, name="fetch")
    with ar.deadline(1):
        task = asyncio.ensure_future(form(retry, failing(60, [])))
        await asyncio.sleep(0)
    with pytest.raises(ar.DeadlineExceeded, match="fetch: attempt 1 was cut off by the ambient deadline"):
        await task
    assert now() == 1.0


@FORMS
async def test_what_is_inside_can_tell_how_much_time_is_left(form: Form) -> None:
    """The deadline is the ambient one for every attempt, and over after the call."""
    left: list[float | None] = []

    async def looks() -> None:
        left.append(ar.time_remaining())
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await form(ar.Retry(on=ConnectionError, backoff=ar.Backoff.constant(2), deadline=10), looks)
    assert left == [10.0, 8.0, 6.0]
    assert ar.time_remaining() is None


@FORMS
async def test_two_limits_per_attempt_and_in_total(form: Form) -> None:
    """The limit of an attempt is the smaller of its own and what is left of the total."""
    cut: list[float] = []

    @ar.Timeout(2)
    async def hangs() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cut.append(now())

    retry = ar.Retry(
        on=TimeoutError, attempts=9, backoff=ar.Backoff.constant(1), deadline=timedelta(seconds=7)
    )
    with pytest.raises(ar.TimedOut):
        await form(retry, hangs)
    assert cut == [2.0, 5.0, 7.0]
    assert now() == 7.0


async def test_the_deadline_in_a_block_of_the_iterator_form() -> None:
    """It cuts off what is in the block, wherever it awaits, and not what is in the loop around it."""
    waited: list[str] = []
    retry = ar.Retry(on=ConnectionError, backoff=ar.Backoff.constant(1), deadline=5)

    async def loop() -> None:
        async for attempt in retry:
            if attempt.number == 2:
                await asyncio.sleep(10)  # past the deadline, but outside
                waited.append("outside")
            async with attempt:
                if attempt.number == 1:
                    raise ConnectionError
                await asyncio.sleep(1)
                waited.append("inside")

    with pytest.raises(ar.TimedOut):
        await loop()
    assert waited == ["outside"]
    assert now() == 11.0


@pytest.mark.parametrize("deadline", [0, -1, float("nan"), float("inf")])
def test_a_deadline_that_cannot_be_is_refused(deadline: float) -> None:
    """A deadline is a finite number of seconds greater than 0."""
    with pytest.raises(ValueError, match=r"Retry: deadline must be a number of seconds greater than 0"):
        ar.Retry(on=ConnectionError, deadline=deadline)
