"""Timeout: exact limits, whose cancel it was, and what a nearer deadline does to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aresilience as ar
from aresilience.testing import Recorder, VirtualLoop, run_virtual

EPSILON = 1e-6


def now() -> float:
    """The virtual time."""
    return asyncio.get_running_loop().time()


async def forever() -> NoReturn:
    """Wait for what never comes."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError


async def answer(seconds: float) -> str:
    """Answer after so many seconds."""
    await asyncio.sleep(seconds)
    return "answer"


async def ending(awaitable: Awaitable[object]) -> object:
    """What it returns, or the type of what it raises."""
    try:
        return await awaitable
    except BaseException as error:  # noqa: BLE001 - this is the answer
        return type(error)


# The limit


@pytest.mark.parametrize(
    ("takes", "expected", "at"),
    [
        (0.0, "answer", 0.0),
        (5.0 - EPSILON, "answer", 5.0 - EPSILON),
        (5.0, ar.TimedOut, 5.0),
        (5.0 + EPSILON, ar.TimedOut, 5.0),
        (3600.0, ar.TimedOut, 5.0),
    ],
)
async def test_a_call_that_needs_the_whole_limit_is_too_late(
    takes: float, expected: object, at: float
) -> None:
    """A call has less than `seconds`, and is cut off at exactly that moment, not later."""
    assert await ending(ar.Timeout(5.0).call(answer, takes)) == expected
    assert now() == at


async def test_what_is_too_late_is_cancelled() -> None:
    """The call itself is cancelled at its limit (resilience4j's TimeLimiter leaves it running, #905 #1041)."""
    ended: list[float] = []

    async def call() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            ended.append(now())
            raise

    assert await ending(ar.Timeout(1.0).call(call)) is ar.TimedOut
    assert ended == [1.0]


async def test_a_timedelta_is_a_limit() -> None:
    """A limit may be written as a timedelta."""
    assert await ending(ar.Timeout(timedelta(minutes=2)).call(forever)) is ar.TimedOut
    assert now() == 120.0


async def test_the_error_says_who_and_how_long() -> None:
    """`TimedOut` is a TimeoutError that names the policy and the limit, caused by the cancel."""
    with pytest.raises(TimeoutError, match=r"^stock: no answer within 1\.5 s$") as caught:
        await ar.Timeout(1.5, name="stock").call(forever)
    assert type(caught.value) is ar.TimedOut
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)


async def test_every_expiry_is_told_once() -> None:
    """`TimeoutExpired` is told once for each `TimedOut`, and for nothing else."""
    recorder = Recorder()
    limit = ar.Timeout(2.0, name="stock", listeners=[recorder])
    await ending(limit.call(forever))
    await ending(limit.call(answer, 1.0))
    await ending(limit.call(stubborn, "late"))
    assert recorder.events == [ar.TimeoutExpired("stock", 2.0, 2.0)]


async def test_it_shows_its_state() -> None:
    """The repr shows the limit and how many calls it times."""
    limit = ar.Timeout(1.0, name="stock")
    call = asyncio.create_task(limit.call(answer, 0.5))
    assert repr(limit) == "<Timeout 'stock' 1 s, 0 timed now>"
    await asyncio.sleep(0)
    assert repr(limit) == "<Timeout 'stock' 1 s, 1 timed now>"
    await call
    assert repr(limit) == "<Timeout 'stock' 1 s, 0 timed now>"


async def test_it_needs_a_task_to_cancel() -> None:
    """Stepped by hand, outside of any task, it refuses instead of promising a limit."""
    refused: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def step() -> None:
        with pytest.raises(RuntimeError, match="needs a task") as caught:
            ar.Timeout(1.0).call(forever).send(None)
        refused.set_result(str(caught.value))

    asyncio.get_running_loop().call_soon(step)
    assert "none running" in await refused


# Whose cancel


async def test_a_timeout_error_of_the_call_passes_as_it_is() -> None:
    """A TimeoutError raised inside stays itself (hyx and interlock relabel it as their own)."""
    inner = TimeoutError("the socket's")

    async def slow_socket() -> None:
        await asyncio.sleep(0.5)
        raise inner

    with pytest.raises(TimeoutError) as caught:
        await ar.Timeout(1.0).call(slow_socket)
    assert caught.value is inner


async def test_an_inner_asyncio_timeout_passes_as_it_is() -> None:
    """An `asyncio.timeout` that expires inside is not this limit's expiry."""

    async def inner() -> None:
        async with asyncio.timeout(0.5):
            await forever()

    assert await ending(ar.Timeout(1.0).call(inner)) is TimeoutError
    assert now() == 0.5


async def test_a_cancel_from_outside_passes_as_it_is() -> None:
    """A cancel before the limit is a cancel, and is not told as an expiry."""
    recorder = Recorder()
    call = asyncio.create_task(ar.Timeout(1.0, listeners=[recorder]).call(forever))
    asyncio.get_running_loop().call_at(1.0 - EPSILON, call.cancel)
    await asyncio.wait([call])
    assert (call.cancelled(), call.cancelling(), recorder.events) == (True, 1, [])


@pytest.mark.parametrize("seed", [None, *range(8)])
@pytest.mark.parametrize("cancel_first", [True, False])
def test_a_cancel_at_the_moment_of_expiry_wins(cancel_first: bool, seed: int | None) -> None:
    """When the limit and a cancel come in the same turn, in either order, the cancel is not lost."""

    async def main() -> tuple[bool, int]:
        loop = asyncio.get_running_loop()

        async def body() -> None:
            if not cancel_first:
                loop.call_at(1.0, call.cancel)
            await forever()

        call = asyncio.create_task(ar.Timeout(1.0).call(body))
        if cancel_first:
            loop.call_at(1.0, call.cancel)
        await asyncio.wait([call])
        assert loop.time() == 1.0
        return call.cancelled(), call.cancelling()

    assert run_virtual(main(), seed=seed) == (True, 1)


async def test_a_task_that_is_being_cancelled_can_still_be_limited() -> None:
    """In a `finally` of a cancelled task the limit works, and the task stays cancelled."""
    seen: list[object] = []

    async def work() -> None:
        try:
            await forever()
        finally:
            seen.append(await ending(ar.Timeout(1.0).call(forever)))
            seen.append(asyncio.current_task().cancelling())  # type: ignore[union-attr]

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert (seen, task.cancelled(), now()) == ([ar.TimedOut, 1], True, 1.0)


async def test_a_second_cancel_during_the_clean_up_of_an_expiry_wins() -> None:
    """Cancelled from outside while the body cleans up after the expiry, the call is cancelled."""

    async def body() -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(5.0)

    call = asyncio.create_task(ar.Timeout(1.0).call(body))
    asyncio.get_running_loop().call_at(2.0, call.cancel)
    await asyncio.wait([call])
    assert (call.cancelled(), call.cancelling(), now()) == (True, 1, 2.0)


async def stubborn(result: object, takes: float = 5.0) -> object:
    """Ignore a cancel, and return or raise `result` some time after it."""
    try:
        await forever()
    except asyncio.CancelledError:
        await asyncio.sleep(takes)
    if isinstance(result, BaseException):
        raise result
    return result


@pytest.mark.parametrize(("result", "expected"), [("late", "late"), (ValueError("clean-up"), ValueError)])
async def test_a_call_that_ignores_its_cancel_is_waited_for(result: object, expected: object) -> None:
    """A body that swallows the cancel is waited for, and what it says is the answer: no task is abandoned."""
    assert await ending(ar.Timeout(1.0).call(stubborn, result)) == expected
    assert now() == 6.0
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]
    await asyncio.sleep(1.0)  # a cancel left over would come here


async def test_a_task_group_inside_is_cancelled_whole() -> None:
    """A TaskGroup in the body is cancelled with it, and the result is `TimedOut`, not a group."""
    ended: list[float] = []

    async def child() -> None:
        try:
            await forever()
        finally:
            ended.append(now())

    async def body() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())
            group.create_task(child())

    assert await ending(ar.Timeout(1.0).call(body)) is ar.TimedOut
    assert ended == [1.0, 1.0]


# One in another


@pytest.mark.parametrize(
    ("outer", "inner", "expected", "at"),
    [
        (2.0, 1.0, "inner: no answer within 1 s", 1.0),
        (1.0, 1.0, "outer: no answer within 1 s", 1.0),
        (1.0, 2.0, "outer: no answer within 1 s", 1.0),
    ],
)
async def test_of_two_limits_the_nearer_ends_the_call(
    outer: float, inner: float, expected: str, at: float
) -> None:
    """The nearer limit speaks, the outer one if they are equally near: the inner then saw a cancel."""
    call = ar.Timeout(outer, name="outer").wrap(ar.Timeout(inner, name="inner").wrap(forever))
    with pytest.raises(ar.TimedOut) as caught:
        await call()
    assert (str(caught.value), now()) == (expected, at)
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("step", [0.0, 0.25])
async def test_a_call_may_pass_the_same_limit_again(step: float) -> None:
    """A recursion through one Timeout ends when its outermost call does."""
    limit = ar.Timeout(1.0)
    depths: list[int] = []

    @limit
    async def recurse(depth: int) -> None:
        depths.append(depth)
        await asyncio.sleep(step)
        await (recurse(depth + 1) if depth < 3 else forever())

    assert await ending(recurse(1)) is ar.TimedOut
    assert (depths, now()) == ([1, 2, 3], 1.0)
    assert repr(limit).endswith("0 timed now>")


NEAR = [0.0, 1.0, 2.0 - EPSILON, 2.0, 2.0 + EPSILON, 3.0]


@given(
    limits=st.lists(st.sampled_from(NEAR[1:]), min_size=1, max_size=4),
    takes=st.sampled_from(NEAR),
    cancel=st.sampled_from([None, *NEAR[1:]]),
    seed=st.none() | st.integers(0, 999),
)
@settings(max_examples=80, deadline=None)
def test_the_earliest_of_all_limits_and_cancels_decides(
    limits: list[float], takes: float, cancel: float | None, seed: int | None
) -> None:
    """Of nested limits, the call's end and a cancel, the earliest wins; at one instant cancel, limit, end."""

    async def main() -> tuple[object, float]:
        call: Callable[[float], Awaitable[str]] = answer
        for level, limit in reversed(list(enumerate(limits))):
            call = ar.Timeout(limit, name=str(level)).wrap(call)
        task = asyncio.ensure_future(call(takes))
        if cancel is not None:
            asyncio.get_running_loop().call_at(cancel, task.cancel)
        await asyncio.wait([task])
        if task.cancelled():
            return "cancelled", now()
        error = task.exception()
        return (task.result() if error is None else str(error)[0]), now()

    candidates: list[tuple[float, int, object]] = [(takes, 9, "answer")]
    candidates += [(limit, 1 + level, str(level)) for level, limit in enumerate(limits)]
    candidates += [] if cancel is None else [(cancel, 0, "cancelled")]
    at, _, expected = min(candidates, key=lambda candidate: candidate[:2])
    assert run_virtual(main(), seed=seed) == (expected, at)


# What it costs


class CountingLoop(VirtualLoop):
    """Counts the timers that it was asked for."""

    timers = 0

    def call_at(self, *args: object, **kwargs: object) -> asyncio.TimerHandle:
        """As ever, and counted."""
        self.timers += 1
        return super().call_at(*args, **kwargs)  # type: ignore[arg-type]


def counted(main: Callable[[], Awaitable[None]]) -> int:
    """How many timers `main` asks its loop for."""
    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, CountingLoop)

        async def run() -> None:
            await main()

        runner.run(run())
        return loop.timers


def test_ten_thousand_calls_at_once_share_one_timer() -> None:
    """Calls that run at the same time ask the loop for one timer, and all end when they should."""

    async def main() -> None:
        calls = [asyncio.create_task(limit.call(forever)) for _ in range(10_000)]
        await asyncio.wait(calls)
        assert {type(call.exception()) for call in calls} == {ar.TimedOut}
        assert now() == 1.0

    limit = ar.Timeout(1.0)
    assert counted(main) == 1


def test_calls_that_answer_in_time_ask_for_one_timer_per_limit() -> None:
    """A timer is set anew only when it has run out: 10,000 calls in 10 limits need ten or eleven."""

    async def main() -> None:
        gate = asyncio.get_running_loop().create_future()
        gate.set_result(None)
        for k in range(10_000):
            if k % 100 == 0:
                await asyncio.sleep(0.1)  # the loop's own timer
            await limit.call(asyncio.shield, gate)

    limit = ar.Timeout(1.0)
    assert counted(main) - 100 in (10, 11)
