"""admit and record, and the guard: one permit, one result."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aresilience import BreakerState, CircuitBreaker, CircuitOpen, Window

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


def make(**options: Any) -> CircuitBreaker:
    """A breaker that opens on two failures for 10 s; two successes close it."""
    return CircuitBreaker("b", **{"failure_threshold": 2, "recovery_timeout": 10} | options)


async def half_open(**options: Any) -> CircuitBreaker:
    """A breaker whose open time is over."""
    breaker = make(**options)
    for _ in range(2):
        await breaker.record(await breaker.admit(), ConnectionError())
    assert breaker.state is OPEN
    await asyncio.sleep(10)
    return breaker


async def test_a_stream_is_one_call() -> None:
    """A permit lives as long as the stream: its place is kept until it is recorded."""
    breaker = await half_open(success_threshold=1)
    permit = await breaker.admit()
    for _ in range(9):
        await asyncio.sleep(1)
        with pytest.raises(CircuitOpen):
            await breaker.admit()
    await breaker.record(permit)
    assert breaker.state is CLOSED


@pytest.mark.parametrize("error", [None, ConnectionError(), asyncio.CancelledError()])
async def test_a_permit_is_good_for_one_result(error: BaseException | None) -> None:
    """Recording a permit again changes nothing, whether it was a probe or not."""
    breaker = make(failure_threshold=2)
    permit = await breaker.admit()
    for _ in range(5):
        await breaker.record(permit, ConnectionError())
    assert breaker.snapshot().failures == 1

    breaker = await half_open()
    permit = await breaker.admit()
    await breaker.record(permit, error)
    before = breaker.snapshot()
    for _ in range(5):
        await breaker.record(permit)
        await breaker.record(permit, ConnectionError())
    assert breaker.snapshot() == before


async def test_no_permit_is_a_permit_too() -> None:
    """While disabled, and where a shadow would refuse, the call may be made and is not counted."""
    breaker = make(failure_threshold=1)
    breaker.disable()
    assert await breaker.admit() is None
    await breaker.record(None, ConnectionError())
    await breaker.reset()
    assert breaker.snapshot() == make().snapshot()
    breaker.shadow()
    permit = await breaker.admit()
    assert permit is not None
    await breaker.record(permit, ConnectionError())
    assert await breaker.admit() is None
    await breaker.record(None)
    assert breaker.snapshot().circuit is OPEN


async def test_without_a_result_there_is_none_to_judge() -> None:
    """`failure_if` is asked about a result that was given, None included, and about nothing else."""
    asked: list[object] = []

    def bad(result: object) -> bool:
        asked.append(result)
        return result is None

    for breaker in (make(failure_threshold=1, failure_if=bad), await half_open(failure_if=bad)):
        await breaker.record(await breaker.admit())
        async with breaker.guard():
            pass
        assert asked == []
        assert breaker.state is CLOSED
    await breaker.record(await breaker.admit(), result=7)
    async with breaker.guard() as call:
        call.result = 8
    assert (asked, breaker.snapshot().failures) == ([7, 8], 0)
    async with breaker.guard() as call:
        call.result = None
    assert breaker.snapshot().failures == 1
    await breaker.record(await breaker.admit(), result=None)
    assert (asked, breaker.state) == ([7, 8, None, None], OPEN)


async def test_a_body_that_fails_has_no_result() -> None:
    """Where the guard's body raises, its error is judged, not the result that it set before."""
    breaker = make(failure_if=lambda result: result == "bad", ignore=LookupError)
    guard = breaker.guard()
    await guard.__aenter__()
    guard.result = "bad"
    await guard.__aexit__(LookupError, LookupError(), None)
    assert breaker.snapshot().failures == 0


async def test_a_guard_is_for_one_call() -> None:
    """A guard cannot be entered again, neither later nor by a second task, and loses no place by it."""
    breaker = await half_open(success_threshold=1)
    guard = breaker.guard()
    async with guard:
        with pytest.raises(RuntimeError, match=r"one call: write breaker.guard\(\) each time"):
            async with guard:
                pytest.fail("entered twice")
        assert breaker.snapshot().probes == 1
    assert (breaker.state, breaker.snapshot().probes) == (CLOSED, 0)
    with pytest.raises(RuntimeError, match="one call"):
        await guard.__aenter__()


async def test_a_guard_that_was_refused_is_used_up() -> None:
    """A refused guard let nothing pass and lets nothing pass later."""
    breaker = make()
    await breaker.isolate()
    guard = breaker.guard()
    with pytest.raises(CircuitOpen):
        await guard.__aenter__()
    await breaker.reset()
    with pytest.raises(RuntimeError, match="one call"):
        await guard.__aenter__()
    await guard.__aexit__(ConnectionError, ConnectionError(), None)
    assert breaker.snapshot().failures == 0


async def test_guards_of_many_tasks_do_not_mix() -> None:
    """Each task's guard has a permit of its own (hyx shares one state between tasks)."""
    breaker = make(failure_rate=1.0, failure_threshold=None, minimum_calls=10)

    async def one(number: int) -> None:
        async with breaker.guard():
            await asyncio.sleep(number % 3)
            if number % 2:
                raise ConnectionError

    await asyncio.gather(*map(one, range(10)), return_exceptions=True)
    snapshot = breaker.snapshot()
    assert (snapshot.calls, snapshot.failures) == (10, 5)


async def test_a_permit_is_credited_to_when_it_was_given() -> None:
    """The time of admission decides which part of the window a result belongs to, and if it was slow."""
    breaker = make(
        failure_threshold=None, window=Window.seconds(10), minimum_calls=99, slow_call_duration=5
    )
    permits = []
    for _ in range(3):
        permits.append(await breaker.admit())
        await asyncio.sleep(4)
    for permit in permits:
        await breaker.record(permit)
    assert (breaker.snapshot().calls, breaker.snapshot().slow) == (2, 1)
    await asyncio.sleep(2)
    assert (breaker.snapshot().calls, breaker.snapshot().slow) == (1, 0)
