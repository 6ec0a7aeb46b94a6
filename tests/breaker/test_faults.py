"""The fault cases of the list (B1 … B13, Y3, Y10), each by its sentence, and the faults of other libraries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from aresilience import (
    BreakerChanged,
    BreakerState,
    Bulkhead,
    BulkheadFull,
    CircuitBreaker,
    CircuitBreakers,
    CircuitOpen,
    Event,
    Pipeline,
    Retry,
    TimedOut,
    Timeout,
    Window,
)
from aresilience.testing import Recorder, run_virtual

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


def make(**options: Any) -> CircuitBreaker:
    """A breaker that opens on three failures for 10 s; one success closes it."""
    usual: dict[str, Any] = {"failure_threshold": 3, "recovery_timeout": 10, "success_threshold": 1}
    return CircuitBreaker("b", **usual | options)


async def fails() -> None:
    """A call that fails."""
    raise ConnectionError("down")


async def fail(breaker: CircuitBreaker, times: int) -> None:
    """Failed calls."""
    for _ in range(times):
        with pytest.raises(ConnectionError):
            await breaker.call(fails)


async def half_open(**options: Any) -> CircuitBreaker:
    """A breaker whose open time is over."""
    breaker = make(**options)
    await fail(breaker, 3)
    await asyncio.sleep(10)
    assert breaker.state is HALF_OPEN
    return breaker


async def hang() -> None:
    """A call that never ends."""
    await asyncio.get_running_loop().create_future()


async def cancelled(breaker: CircuitBreaker) -> None:
    """A call that is cancelled from outside while it waits."""
    task = asyncio.ensure_future(breaker.call(hang))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("probes", [1, 4])
@pytest.mark.parametrize("calls", [20, 50])
async def test_b1_no_stampede_in_half_open(calls: int, probes: int) -> None:
    """B1: half-open with 50 calls at once lets at most k probes through.

    circuitbreaker, aiobreaker, purgatory and hyx let 20 of 20 and 50 of 50 through.
    """
    breaker = await half_open(half_open_max_calls=probes, success_threshold=probes)
    made = 0

    async def call() -> None:
        nonlocal made
        made += 1
        await asyncio.sleep(1)

    answers = await asyncio.gather(*(breaker.call(call) for _ in range(calls)), return_exceptions=True)
    assert made == probes
    assert sum(isinstance(answer, CircuitOpen) for answer in answers) == calls - probes
    assert breaker.state is CLOSED


async def test_b2_a_cancelled_probe_is_neither_success_nor_failure() -> None:
    """B2: a cancelled probe frees its slot and is neither success nor failure.

    circuitbreaker closes on it, aiobreaker stays half-open, purgatory stays open.
    """
    breaker = await half_open()
    for _ in range(3):
        await cancelled(breaker)
        assert (breaker.snapshot().circuit, breaker.snapshot().probes) == (HALF_OPEN, 0)
    await breaker.call(asyncio.sleep, 0)
    assert breaker.state is CLOSED


async def test_b3_a_probe_that_never_returns_times_out() -> None:
    """B3: a probe that never returns has a lease that times out (nopanic and interlock-cb wedge)."""
    breaker = await half_open(probe_timeout=3)
    hung = asyncio.ensure_future(breaker.call(hang))
    await asyncio.sleep(3)
    with pytest.raises(CircuitOpen):
        await breaker.call(asyncio.sleep, 0)
    assert breaker.state is OPEN
    await asyncio.sleep(10)
    await breaker.call(asyncio.sleep, 0)
    assert breaker.state is CLOSED
    hung.cancel()


@pytest.mark.parametrize("kind", [asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit])
def test_b4_cancellation_is_never_a_failure(kind: type[BaseException]) -> None:
    """B4: CancelledError, GeneratorExit, KeyboardInterrupt are never counted as failure."""

    async def exits() -> None:
        raise kind

    async def story() -> None:
        for breaker in (
            make(failure_threshold=1),
            make(failure_rate=0.01, minimum_calls=1, failure_threshold=None),
        ):
            for _ in range(3):
                coroutine = breaker.call(exits)
                with pytest.raises(kind):
                    coroutine.send(None)
            assert (breaker.state, breaker.snapshot().calls) == (CLOSED, 0)

    run_virtual(story())


async def test_b5_groups_are_split() -> None:
    """B5: an ExceptionGroup is split and classified: any failure in it is one, all ignored is ignored."""
    breaker = make(failure_threshold=1, failure_on=OSError, ignore=LookupError)

    async def group(*kinds: type[Exception]) -> None:
        raise ExceptionGroup("children", [kind() for kind in kinds])

    for harmless in ((LookupError, KeyError), (LookupError, BulkheadFull), (ValueError, LookupError)):
        with pytest.raises(ExceptionGroup):
            await breaker.call(group, *harmless)
        assert breaker.state is CLOSED
    with pytest.raises(ExceptionGroup):
        await breaker.call(group, KeyError, ConnectionError)
    assert breaker.state is OPEN


async def test_b6_a_late_failure_is_of_its_own_generation() -> None:
    """B6: a late failure of a call begun before the state changed is ignored by generation."""
    breaker, gate = make(), asyncio.Event()

    async def late() -> None:
        await gate.wait()
        raise ConnectionError("late")

    calls = [asyncio.ensure_future(breaker.call(late)) for _ in range(5)]
    await asyncio.sleep(0)
    await breaker.reset()
    gate.set()
    await asyncio.wait(calls)
    assert [str(call.exception()) for call in calls] == ["late"] * 5
    assert (breaker.state, breaker.snapshot().failures) == (CLOSED, 0)


@pytest.mark.parametrize("share", [0.01, 0.07, 0.5, 1.0])
async def test_b8_rates_are_exact(share: float) -> None:
    """B8: no rate below minimum calls and none without calls; 1 % and 100 % exact by ≥; 0 % is refused."""
    options: dict[str, Any] = {"failure_threshold": None, "failure_rate": share, "minimum_calls": 100}
    for missing in (1, 0):
        breaker = make(**options)
        await fail(breaker, round(share * 100) - missing)
        for _ in range(100 - round(share * 100) + missing):
            assert breaker.state is CLOSED
            await breaker.call(asyncio.sleep, 0)
        assert breaker.state is (CLOSED if missing else OPEN)
    for nothing in ({"failure_rate": 0}, {"slow_call_duration": 1, "slow_call_rate": 0}):
        with pytest.raises(ValueError, match="greater than 0 and at most 1, got 0"):
            CircuitBreaker(**nothing)


async def test_b9_what_has_no_single_result_is_refused() -> None:
    """B9: a sync function and an async generator are refused at decoration, and every way of use counts alike.

    pybreaker takes an `async def` and never sees it fail.
    """

    def plain() -> None:
        """Not async."""

    async def generator() -> AsyncIterator[int]:
        yield 1

    for fn in (plain, generator, len):
        with pytest.raises(TypeError, match="CircuitBreaker"):
            make()(fn)  # type: ignore[arg-type, type-var]


async def test_b10_a_listener_that_raises_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """B10: a listener that raises is logged, the state unharmed, and the other listeners are told."""

    def broken(event: Event) -> None:
        raise ZeroDivisionError

    recorder = Recorder()
    breaker = make(listeners=[broken, recorder])
    await fail(breaker, 3)
    assert breaker.state is OPEN
    assert [e.new for e in recorder.of(BreakerChanged)] == [OPEN]
    assert [record.message for record in caplog.records] == ["a listener failed on BreakerChanged"]


@pytest.mark.parametrize(
    "options",
    [
        {"failure_threshold": 3},
        {"failure_threshold": None, "window": Window.seconds(60), "minimum_calls": 4},
    ],
)
def test_b11_a_clock_that_goes_back_is_clamped(options: dict[str, Any]) -> None:
    """B11: a clock that goes back (here to 0, in a second loop) lengthens no open time and stops no window."""
    breaker = make(probe_timeout=10, **options)

    async def long_ago() -> None:
        await asyncio.sleep(1e6)
        await breaker.call(asyncio.sleep, 0)
        await fail(breaker, 3)
        assert breaker.snapshot().retry_after == 10

    async def now() -> None:
        assert breaker.snapshot().retry_after == 10
        with pytest.raises(CircuitOpen) as refusal:
            await breaker.call(fails)
        assert refusal.value.retry_after == 10
        await asyncio.sleep(10)
        await breaker.admit()  # a probe that this loop will not see end

    async def later() -> None:
        with pytest.raises(CircuitOpen) as refusal:
            await breaker.call(fails)
        assert refusal.value.retry_after == 10
        await asyncio.sleep(20)
        await breaker.call(asyncio.sleep, 0)
        assert breaker.state is CLOSED
        await breaker.call(asyncio.sleep, 0)

    async def at_last() -> None:
        await fail(breaker, 3)
        assert breaker.state is OPEN

    for loop in (long_ago, now, later, at_last):
        run_virtual(loop())


async def test_b12_excluded_is_ignored() -> None:
    """B12: excluded exceptions are ignored, subclasses included, and ignore beats record.

    pybreaker counts an excluded exception as success: the failures before it are forgotten.
    """
    breaker = make(failure_on=(LookupError, ConnectionError), ignore=LookupError)

    async def missing() -> None:
        raise KeyError("a LookupError")

    await fail(breaker, 2)
    for _ in range(5):
        with pytest.raises(KeyError):
            await breaker.call(missing)
    assert breaker.snapshot().failures == 2
    await fail(breaker, 1)
    assert breaker.state is OPEN


async def test_b13_a_hundred_thousand_names_are_capped() -> None:
    """B13: 10^5 breakers by dynamic name are capped."""
    breakers = CircuitBreakers(max_keys=100)
    for number in range(100_000):
        breakers[number]
    assert len(breakers) == 100
    assert list(breakers) == list(range(99_900, 100_000))


async def test_y3_each_try_counts_and_an_open_circuit_is_not_retried() -> None:
    """Y3: with retry outside the breaker each try counts, and an open circuit is not retried."""
    breaker, calls = make(), 0

    async def call() -> None:
        nonlocal calls
        calls += 1
        raise ConnectionError

    pipeline = Pipeline(Retry(on=ConnectionError, attempts=10), breaker)
    with pytest.raises(CircuitOpen):
        await pipeline.call(call)
    assert (calls, breaker.state) == (3, OPEN)


@pytest.mark.parametrize(
    "kind", [asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, ConnectionError]
)
def test_y10_the_permit_is_released_whatever_is_raised(kind: type[BaseException]) -> None:
    """Y10: each layer releases its permit when an inner layer raises BaseException."""

    async def exits() -> None:
        raise kind

    async def story() -> None:
        breaker, bulkhead = await half_open(), Bulkhead(1)
        coroutine = Pipeline(bulkhead, breaker).call(exits)
        with pytest.raises(kind):
            coroutine.send(None)
        assert (breaker.snapshot().probes, bulkhead.running) == (0, 0)

    run_virtual(story())


async def test_a_refusal_inside_does_not_close() -> None:
    """A bulkhead or a limiter that refuses below a half-open breaker is no success (a two-valued prototype)."""
    breaker, bulkhead = await half_open(), Bulkhead(1)
    async with asyncio.timeout(1), asyncio.TaskGroup() as group:
        busy = group.create_task(bulkhead.call(asyncio.sleep, 0.5))
        await asyncio.sleep(0)
        with pytest.raises(BulkheadFull):
            await Pipeline(breaker, bulkhead).call(asyncio.sleep, 0)
        assert (breaker.state, breaker.snapshot().probes) == (HALF_OPEN, 0)
        await busy


async def test_a_cancelled_call_leaves_the_row_as_it_was() -> None:
    """A cancelled call after two failures of three is neither a success nor the third.

    circuitbreaker and hyx's context manager count it as success, purgatory as failure.
    """
    breaker = make()
    await fail(breaker, 2)
    await cancelled(breaker)
    assert (breaker.state, breaker.snapshot().failures) == (CLOSED, 2)
    await fail(breaker, 1)
    assert breaker.state is OPEN


@pytest.mark.parametrize("limit", [1.0, None])
async def test_a_timeout_of_the_call_and_one_of_ours_are_failures(limit: float | None) -> None:
    """A TimeoutError from within stays itself and counts (hyx and interlock relabel it), as ours does."""

    async def inner() -> None:
        await asyncio.sleep(0.5)
        raise TimeoutError("the socket's")

    breaker = make(failure_threshold=1)
    wrapped: Callable[[], Any] = inner if limit else hang
    with pytest.raises(TimeoutError) as caught:
        await Pipeline(breaker, Timeout(1)).call(wrapped)
    assert isinstance(caught.value, TimedOut) == (limit is None)
    assert breaker.state is OPEN


async def test_open_times_are_not_whole_seconds() -> None:
    """Times are kept to the float: pybreaker keeps whole seconds, aiobreaker mixes two wall clocks."""
    breaker = make(failure_threshold=1, recovery_timeout=0.25)
    await asyncio.sleep(0.125)
    await fail(breaker, 1)
    await asyncio.sleep(0.0625)
    assert breaker.snapshot().retry_after == 0.1875
    await asyncio.sleep(0.1875)
    assert breaker.state is HALF_OPEN
