"""Cancelled at every await, in every state and way of use: no place is kept, nothing is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from aresilience import BreakerState, Bulkhead, CircuitBreaker, CircuitBreakers, Retry, Timeout
from aresilience.breaker import Snapshot
from aresilience.testing import cancel_sweep

CLOSED, HALF_OPEN = BreakerState.CLOSED, BreakerState.HALF_OPEN


async def work() -> str:
    """What is guarded: three awaits, the middle one a timer."""
    await asyncio.sleep(0)
    await asyncio.sleep(1)
    await asyncio.sleep(0)
    return "done"


async def decorated(breaker: CircuitBreaker) -> None:
    """`@breaker`."""
    assert await breaker(work)() == "done"


async def guarded(breaker: CircuitBreaker) -> None:
    """`async with breaker.guard()`."""
    async with breaker.guard() as call:
        call.result = await work()


async def two_steps(breaker: CircuitBreaker) -> None:
    """`admit` and `record`, as a stream does it."""
    permit, error = await breaker.admit(), None
    try:
        await work()
    except BaseException as caught:
        error = caught
        raise
    finally:
        await breaker.record(permit, error)


async def beside_another(breaker: CircuitBreaker) -> None:
    """Two calls in one task group."""
    async with asyncio.TaskGroup() as group:
        group.create_task(decorated(breaker))
        group.create_task(guarded(breaker))


async def inside_others(breaker: CircuitBreaker) -> None:
    """Inside a retry, a bulkhead and around a time limit."""
    await Retry(on=OSError).call(Bulkhead(1).wrap(breaker.wrap(Timeout(9).wrap(work))))


def make(**options: object) -> CircuitBreaker:
    """A breaker with a window that shows all that is counted."""
    return CircuitBreaker(
        failure_rate=0.6,
        minimum_calls=2,
        slow_call_duration=100,
        recovery_timeout=10,
        half_open_max_calls=2,
        success_threshold=99,
    )


async def closed() -> CircuitBreaker:
    """Closed, with a failure counted."""
    breaker = make()
    await breaker.record(await breaker.admit(), ConnectionError())
    return breaker


async def half_open() -> CircuitBreaker:
    """Half-open, with no probe on its way."""
    breaker = await closed()
    await breaker.record(await breaker.admit(), ConnectionError())
    assert breaker.state is BreakerState.OPEN
    await asyncio.sleep(10)
    return breaker


async def shadow() -> CircuitBreaker:
    """Half-open in the shadow."""
    breaker = await half_open()
    breaker.shadow()
    return breaker


async def disabled() -> CircuitBreaker:
    """Disabled, half-open below."""
    breaker = await half_open()
    breaker.disable()
    return breaker


def nothing_is_held(breaker: CircuitBreaker) -> None:
    """No probe is on its way, and the cancelled call is not among those counted."""
    seen: Snapshot = breaker.snapshot()
    assert seen.probes == 0
    assert seen.circuit in (CLOSED, HALF_OPEN)
    assert seen.failures == (seen.circuit is CLOSED)
    assert seen.slow == 0
    assert seen.rounds == (seen.circuit is HALF_OPEN)


@pytest.mark.parametrize("use", [decorated, guarded, two_steps, beside_another, inside_others])
@pytest.mark.parametrize("state", [closed, half_open, shadow, disabled])
def test_a_cancel_anywhere_leaves_nothing_behind(
    use: Callable[[CircuitBreaker], Awaitable[None]], state: Callable[[], Awaitable[CircuitBreaker]]
) -> None:
    """A call that is cancelled at any of its awaits counts nowhere and gives its place back."""
    report = cancel_sweep(use, make=state, check=nothing_is_held)
    assert report.points == (1 if use is beside_another else 3)
    assert report.runs == 1 + 3 * report.points


def test_by_hand_waits_for_nothing() -> None:
    """isolate and reset have no await at which a cancel could cut them."""

    async def by_hand(breaker: CircuitBreaker) -> None:
        await breaker.isolate()
        await breaker.reset()
        await breaker.record(await breaker.admit(), ConnectionError())

    assert cancel_sweep(by_hand, make=closed).points == 0


def test_a_family_keeps_no_place_either() -> None:
    """The same through the breaker of a key."""

    async def use(breakers: CircuitBreakers) -> None:
        assert await breakers.call(work) == "done"

    async def family() -> CircuitBreakers:
        breakers = CircuitBreakers(
            key=lambda: "a", failure_threshold=1, recovery_timeout=10, success_threshold=99
        )
        await breakers["a"].record(await breakers["a"].admit(), ConnectionError())
        await asyncio.sleep(10)
        return breakers

    def check(breakers: CircuitBreakers) -> None:
        seen = breakers["a"].snapshot()
        assert (seen.circuit in (BreakerState.OPEN, HALF_OPEN), seen.state, seen.probes) == (
            True,
            HALF_OPEN,
            0,
        )

    assert cancel_sweep(use, make=family, check=check).points == 3


async def test_a_probe_that_is_closed_gives_its_place_back() -> None:
    """A coroutine that is closed while it waits (GeneratorExit) is a probe that counts neither way."""
    breaker = await half_open()
    call = breaker.call(work)
    call.send(None)
    assert breaker.snapshot().probes == 1
    call.close()
    nothing_is_held(breaker)
