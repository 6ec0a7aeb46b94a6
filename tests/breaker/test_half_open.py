"""Probing: how many calls pass a half-open circuit, and what becomes of it, in every way of use."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aresilience import Backoff, BreakerState, CircuitBreaker, CircuitOpen, TimedOut, Timeout
from aresilience.testing import run_virtual

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN
Call = Callable[[], Awaitable[object]]
Way = Callable[[CircuitBreaker, Call], Awaitable[object]]


async def by_decorator(breaker: CircuitBreaker, fn: Call) -> object:
    """`@breaker`."""
    return await breaker(fn)()


async def by_guard(breaker: CircuitBreaker, fn: Call) -> object:
    """`async with breaker.guard()`."""
    async with breaker.guard() as call:
        call.result = await fn()
    return call.result


async def by_permit(breaker: CircuitBreaker, fn: Call) -> object:
    """`admit` and `record`."""
    permit = await breaker.admit()
    try:
        result = await fn()
    except BaseException as error:
        await breaker.record(permit, error)
        raise
    await breaker.record(permit, result=result)
    return result


every_way = pytest.mark.parametrize("way", [by_decorator, by_guard, by_permit])


async def until(when: float) -> None:
    """Wait until exactly this time."""
    loop = asyncio.get_running_loop()
    there = loop.create_future()
    loop.call_at(when, there.set_result, None)
    await there


async def down() -> None:
    """A call that fails."""
    raise ConnectionError("down")


async def fine() -> str:
    """A call that succeeds."""
    return "fine"


async def opened(**options: Any) -> CircuitBreaker:
    """A breaker that opened at 0, for 10 s unless said, and whose probes have 4 s."""
    options = {"recovery_timeout": 10, "probe_timeout": 4, "ignore": LookupError} | options
    breaker = CircuitBreaker("b", failure_threshold=1, **options)
    with pytest.raises(ConnectionError):
        await breaker.call(down)
    assert asyncio.get_running_loop().time() == 0
    return breaker


async def refused(breaker: CircuitBreaker) -> float | None:
    """Make a call that must be refused; when to come back."""
    with pytest.raises(CircuitOpen) as caught:
        await breaker.call(fine)
    return caught.value.retry_after


async def start(breaker: CircuitBreaker, way: Way, fn: Call) -> asyncio.Task[object]:
    """Begin a call that waits for something."""
    task = asyncio.ensure_future(way(breaker, fn))
    await asyncio.sleep(0)
    return task


async def hang() -> None:
    """A call that never ends."""
    await asyncio.get_running_loop().create_future()


async def test_the_open_time_ends_exactly() -> None:
    """Just before the end of the open time a call is refused; at the end it is a probe."""
    breaker = await opened()
    assert await refused(breaker) == 10
    await until(9.999)
    assert breaker.state is OPEN
    assert await refused(breaker) == pytest.approx(0.001)
    await until(10)
    assert breaker.state is HALF_OPEN
    assert await breaker.call(fine) == "fine"
    assert breaker.snapshot().circuit is HALF_OPEN
    assert await breaker.call(fine) == "fine"
    assert breaker.snapshot().circuit is CLOSED


@every_way
@pytest.mark.parametrize(("max_calls", "total", "passed"), [(1, None, 1), (3, None, 3), (5, 2, 2)])
async def test_no_more_than_so_many_probes_at_once(
    way: Way, max_calls: int, total: int | None, passed: int
) -> None:
    """Of 20 calls at once, as many pass as `half_open_max_calls` and `half_open_total` let."""
    breaker = await opened(half_open_max_calls=max_calls, half_open_total=total)
    await until(10)
    calls = [await start(breaker, way, hang) for _ in range(20)]
    errors = [call.exception() for call in calls if call.done()]
    assert [type(error) for error in errors] == [CircuitOpen] * (20 - passed)
    assert breaker.snapshot().probes == passed
    assert await refused(breaker) == 4
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    assert (breaker.state, breaker.snapshot().probes) == (HALF_OPEN, 0)


def test_fifty_calls_at_once_in_any_order() -> None:
    """Whatever the order in which 50 calls run, exactly as many as allowed are made, and they close it."""

    async def story() -> str:
        breaker = await opened(half_open_max_calls=3, success_threshold=3)
        await until(10)

        async def one(number: int) -> str:
            for _ in range(number % 3):
                await asyncio.sleep(0)
            try:
                await breaker.call(asyncio.sleep, 1)
            except CircuitOpen as refusal:
                return "x" if refusal.retry_after == 4 else f"{refusal.retry_after}?"
            return "-"

        answers = "".join(await asyncio.gather(*map(one, range(50))))
        assert (breaker.state, breaker.snapshot().probes) == (CLOSED, 0)
        return answers

    orders = {run_virtual(story(), seed=seed) for seed in range(30)}
    assert {(order.count("-"), order.count("x")) for order in orders} == {(3, 47)}
    assert len(orders) > 10


@every_way
async def test_one_failure_reopens(way: Way) -> None:
    """A probe that fails reopens for another open time, whatever the other probes say later."""
    breaker = await opened(half_open_max_calls=3, success_threshold=1)
    await until(10)
    gate = asyncio.Event()
    other = await start(breaker, way, gate.wait)
    with pytest.raises(ConnectionError):
        await way(breaker, down)
    assert await refused(breaker) == 10
    gate.set()
    assert await other
    assert (breaker.state, breaker.snapshot().probes) == (OPEN, 0)
    await until(20)
    assert breaker.state is HALF_OPEN


@every_way
async def test_an_error_that_is_no_failure_closes(way: Way) -> None:
    """An error outside `failure_on` means that the dependency answered: it counts as success."""

    async def not_found() -> None:
        raise KeyError("no such user")

    breaker = await opened(failure_on=ConnectionError, ignore=(), success_threshold=1)
    await until(10)
    with pytest.raises(KeyError):
        await way(breaker, not_found)
    assert breaker.state is CLOSED


async def ignored() -> None:
    """A call that ends with an error that is ignored."""
    raise LookupError


async def rejected() -> None:
    """A call that another policy refused."""
    raise CircuitOpen("another circuit", retry_after=99)


async def exits() -> None:
    """A call during which the generator is closed."""
    raise GeneratorExit


async def cancels() -> None:
    """A call that is cancelled from within."""
    raise asyncio.CancelledError


@every_way
@pytest.mark.parametrize("ends", [ignored, rejected, exits, cancels])
async def test_what_counts_neither_way_gives_the_place_back(way: Way, ends: Call) -> None:
    """An ignored probe, or one that another policy refused, neither closes nor reopens, nor keeps a place."""
    breaker = await opened(success_threshold=1, half_open_total=1)
    await until(10)
    for _ in range(3):
        with pytest.raises((LookupError, CircuitOpen, GeneratorExit, asyncio.CancelledError)):
            await way(breaker, ends)
        assert (breaker.state, breaker.snapshot().probes) == (HALF_OPEN, 0)
    assert await way(breaker, fine) == "fine"
    assert breaker.state is CLOSED


@every_way
async def test_slow_probes_reopen(way: Way) -> None:
    """A probe that takes strictly longer than a slow call is a failure, though it succeeded."""

    async def slow() -> str:
        await asyncio.sleep(1.125)
        return "slow"

    async def just_not_slow() -> str:
        await asyncio.sleep(1)
        return "fine"

    breaker = CircuitBreaker(
        failure_rate=1, minimum_calls=1, slow_call_duration=1, recovery_timeout=10, success_threshold=2
    )
    with pytest.raises(ConnectionError):
        await way(breaker, down)
    await until(10)
    assert await way(breaker, just_not_slow) == "fine"
    assert await way(breaker, slow) == "slow"
    assert breaker.state is OPEN
    assert await refused(breaker) == 10


@every_way
async def test_bad_results_reopen(way: Way) -> None:
    """A probe whose result `failure_if` calls bad is a failure, and the caller gets the result."""
    breaker = await opened(failure_if=lambda result: result == "fine")
    await until(10)
    assert await way(breaker, fine) == "fine"
    assert breaker.state is OPEN


def explode(_: object) -> bool:
    """A predicate that fails."""
    raise ZeroDivisionError


async def strange() -> None:
    """A call that ends with an error that nobody named."""
    raise TypeError


@every_way
@pytest.mark.parametrize(
    ("options", "ends"),
    [
        ({"failure_if": explode}, fine),
        ({"failure_on": (ConnectionError, explode)}, strange),
    ],
)
async def test_a_predicate_that_raises_keeps_no_place(
    way: Way, options: dict[str, Any], ends: Call
) -> None:
    """When a predicate raises, the probe counts neither way and its place is free."""
    breaker = await opened(success_threshold=1, **options)
    await until(10)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            await way(breaker, ends)
        assert (breaker.state, breaker.snapshot().probes) == (HALF_OPEN, 0)


@every_way
async def test_a_hung_probe_does_not_wedge(way: Way) -> None:
    """A probe that never ends has failed when its lease is over, and the next round goes on without it.

    nopanic and interlock-cb stay half-open for ever.
    """
    breaker = await opened(success_threshold=1)
    await until(10)
    hung = await start(breaker, way, hang)
    await until(13.999)
    assert await refused(breaker) == pytest.approx(0.001)
    await until(14)
    assert await refused(breaker) == 10
    assert breaker.state is OPEN
    await until(24)
    assert await way(breaker, fine) == "fine"
    assert breaker.state is CLOSED
    hung.cancel()
    await asyncio.wait([hung])
    assert breaker.state is CLOSED


@every_way
@pytest.mark.parametrize("late", [fine, down, cancels])
async def test_a_probe_of_round_one_does_not_decide_round_two(way: Way, late: Call) -> None:
    """A probe that answers in a later round changes nothing there (nopanic counts it)."""
    breaker, gate = await opened(success_threshold=1), asyncio.Event()

    async def slow_answer() -> object:
        await gate.wait()
        return await late()

    await until(10)
    old = await start(breaker, way, slow_answer)
    await until(14)
    assert await refused(breaker) == 10
    await until(24)
    new = await start(breaker, way, hang)
    assert (breaker.snapshot().circuit, breaker.snapshot().probes) == (HALF_OPEN, 1)
    last = breaker.snapshot().last_failure
    gate.set()
    await asyncio.wait([old])
    assert old.cancelled() or old.exception() or old.result()
    assert (breaker.snapshot().circuit, breaker.snapshot().probes) == (HALF_OPEN, 1)
    assert breaker.snapshot().last_failure is last
    new.cancel()
    await asyncio.wait([new])


@every_way
async def test_a_probe_after_its_lease_is_late(way: Way) -> None:
    """An answer after `probe_timeout` reopens, as of the end of the lease, even if nobody asked meanwhile."""

    async def slow() -> None:
        await asyncio.sleep(5)

    breaker = await opened(success_threshold=1)
    await until(10)
    await way(breaker, slow)
    assert asyncio.get_running_loop().time() == 15
    assert await refused(breaker) == 9
    await until(24)
    assert breaker.state is HALF_OPEN


async def test_a_timeout_inside_makes_a_hang_a_failure() -> None:
    """A time limit inside the breaker fails the probe itself, and says so as the last failure."""
    breaker = await opened(recovery_timeout=10)
    await until(10)
    with pytest.raises(TimedOut):
        await breaker.call(Timeout(1).wrap(hang))
    assert breaker.state is OPEN
    assert isinstance(breaker.snapshot().last_failure, TimedOut)


async def test_open_times_grow_and_health_forgets_them() -> None:
    """Each failed recovery opens for longer; a closed period as long as the last one starts over."""
    growing = Backoff.exponential(initial=1, multiplier=3, maximum=20, jitter=None)
    breaker = await opened(recovery_timeout=growing, success_threshold=1)
    seen = []
    for _ in range(4):
        left = breaker.snapshot().retry_after
        seen.append(left)
        await asyncio.sleep(left or 0)
        with pytest.raises(ConnectionError):
            await breaker.call(down)
    assert seen == [1, 3, 9, 20]
    assert breaker.snapshot().rounds == 5
    for healthy, rounds, open_for in [(19.999, 6, 20), (20, 1, 1)]:
        await asyncio.sleep(20)
        assert await breaker.call(fine) == "fine"
        await asyncio.sleep(healthy)
        with pytest.raises(ConnectionError):
            await breaker.call(down)
        assert breaker.snapshot().rounds == rounds
        assert breaker.snapshot().retry_after == open_for


def test_jitter_comes_from_the_loops_entropy() -> None:
    """The same seed gives the same open times, each within the schedule."""

    async def story() -> list[float]:
        jittered = Backoff.constant(100, jitter="equal")
        return [(await opened(recovery_timeout=jittered)).snapshot().retry_after or 0 for _ in range(20)]

    times = run_virtual(story(), seed=1)
    assert times == run_virtual(story(), seed=1)
    assert times != run_virtual(story(), seed=2)
    assert len(set(times)) == 20
    assert all(50 <= time < 100 for time in times)
