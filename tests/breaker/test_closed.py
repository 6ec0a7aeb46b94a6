"""What opens a closed circuit, in every way of using a breaker: a letter stands for a call.

`call` is what the decorator makes, used once: where a test takes no way, it is the one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aresilience import (
    BreakerChanged,
    BreakerState,
    BulkheadFull,
    CircuitBreaker,
    CircuitOpen,
    DeadlineExceeded,
    Window,
)
from aresilience.testing import Recorder

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN
Call = Callable[[], Awaitable[object]]
Way = Callable[[CircuitBreaker, Call], Awaitable[object]]


async def by_decorator(breaker: CircuitBreaker, fn: Call) -> object:
    """`@breaker`."""
    return await breaker(fn)()


async def by_call(breaker: CircuitBreaker, fn: Call) -> object:
    """`breaker.call(fn)`."""
    return await breaker.call(fn)


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


class Minor(Exception):
    """Ignored by the breakers of this file."""


ENDS: dict[str, tuple[float, object]] = {
    ".": (0.0, "fine"),
    "=": (1.0, "just not slow"),
    "S": (1.125, "slow"),
    "B": (0.0, "bad"),
    "Z": (1.125, "bad"),
    "F": (0.0, ConnectionError("down")),
    "G": (1.125, ConnectionError("down, slowly")),
    "A": (0.0, KeyError("an answer")),
    "W": (1.125, KeyError("an answer, slowly")),
    "I": (1.125, Minor("ignored")),
    "R": (1.125, BulkheadFull("refused inside")),
    "D": (1.125, DeadlineExceeded("too late to begin with")),
    "C": (1.125, asyncio.CancelledError()),
    "K": (1.125, GeneratorExit()),
}
"""How the call of a letter ends, and after how long. The slow calls take longer than 1 s."""


def ending(letter: str) -> Call:
    """A call that ends as the letter says."""
    seconds, end = ENDS[letter]

    async def call() -> object:
        await asyncio.sleep(seconds)
        if isinstance(end, BaseException):
            raise end
        return end

    return call


async def play(breaker: CircuitBreaker, way: Way, letters: str) -> str:
    """Make the calls, one after the other; `-` for each one made and `x` for each refused."""
    made = ""
    for letter in letters:
        try:
            result = await way(breaker, ending(letter))
        except CircuitOpen:
            made += "x"
            continue
        except BaseException as error:  # noqa: BLE001 - compared
            result = error
        assert result is ENDS[letter][1], "the caller gets what the call gave"
        made += "-"
    return made


def make(**options: Any) -> CircuitBreaker:
    """A breaker for which the letters mean what they should."""
    return CircuitBreaker("b", failure_on=ConnectionError, ignore=Minor, **options)


@every_way
@pytest.mark.parametrize(
    ("letters", "made"),
    [
        ("FFF...", "---xxx"),
        ("FF.FF.FFF.", "---------x"),
        ("FFAFFAFFF.", "---------x"),
        ("FFIRDCKF.", "--------x"),
        ("FFIRDCK.FF..", "------------"),
        ("SSSSSBBBBZ", "----------"),
    ],
)
async def test_failures_in_a_row_open(way: Way, letters: str, made: str) -> None:
    """The third failure in a row opens; what is ignored neither breaks the row nor makes it longer."""
    breaker = make(failure_threshold=3)
    assert await play(breaker, way, letters) == made
    assert breaker.state is (OPEN if "x" in made else CLOSED)


@every_way
async def test_five_in_a_row_by_default(way: Way) -> None:
    """Without options, five failures in a row open for 30 s."""
    breaker = CircuitBreaker()
    assert await play(breaker, way, "FFFF.FFFFF.") == "----------x"
    assert breaker.snapshot().retry_after == 30.0


RATES: list[tuple[dict[str, Any], str, str]] = [
    ({"failure_rate": 0.5, "minimum_calls": 4}, "FFF", "---"),
    ({"failure_rate": 0.5, "minimum_calls": 4}, "FFF..", "----x"),
    ({"failure_rate": 0.5, "minimum_calls": 4}, "....FFF.", "--------"),
    ({"failure_rate": 0.5, "minimum_calls": 4}, "....FFFF.", "--------x"),
    ({"failure_rate": 0.5, "minimum_calls": 4}, "....FFFGF", "--------x"),
    ({"failure_rate": 0.5, "minimum_calls": 4}, "FIRDCKIF.", "---------"),
    ({"failure_rate": 0.5, "minimum_calls": 4}, "FIRDCKIF...", "----------x"),
    ({"failure_rate": 0.5, "minimum_calls": 4}, "FFAA.", "----x"),
    ({"failure_rate": 1.0, "minimum_calls": 2}, "F.FFFFF", "-------"),
    ({"failure_rate": 1.0, "minimum_calls": 2}, "FFF", "--x"),
    ({"slow_call_duration": 1.0, "minimum_calls": 2}, "====", "----"),
    ({"slow_call_duration": 1.0, "minimum_calls": 2}, "SS.", "--x"),
    ({"slow_call_duration": 1.0, "minimum_calls": 2}, "SWS", "--x"),
    ({"slow_call_duration": 1.0, "minimum_calls": 2}, ".SSSS", "-----"),
    ({"slow_call_duration": 1.0, "slow_call_rate": 0.5, "minimum_calls": 4}, "..SS.", "----x"),
    ({"slow_call_duration": 1.0, "slow_call_rate": 0.5, "minimum_calls": 4}, "..FS.", "-----"),
    ({"slow_call_duration": 1.0, "failure_rate": 1.0, "minimum_calls": 4}, "FFFS.", "-----"),
    ({"slow_call_duration": 1.0, "failure_rate": 1.0, "minimum_calls": 4}, "GGGG.", "----x"),
]


@pytest.mark.parametrize("way", [by_decorator, by_permit])
@pytest.mark.parametrize("window", [Window.calls(100), Window.seconds(300)], ids=["calls", "time"])
@pytest.mark.parametrize(("options", "letters", "made"), RATES)
async def test_rates_open(
    way: Way, window: Window, options: dict[str, Any], letters: str, made: str
) -> None:
    """The share of failed or of slow calls opens, on successes too, once the minimum is known."""
    breaker = make(window=window, **options)
    assert await play(breaker, way, letters) == made
    assert breaker.state is (OPEN if "x" in made else CLOSED)


@every_way
@pytest.mark.parametrize(
    ("options", "letters", "made"),
    [
        ({"failure_threshold": 3}, "BB.BBB.", "------x"),
        ({"failure_threshold": 3}, "FBF.", "---x"),
        ({"failure_rate": 0.5, "minimum_calls": 4}, "..BF.", "----x"),
        ({"slow_call_duration": 1.0, "slow_call_rate": 0.5, "minimum_calls": 2}, ".Z.", "--x"),
    ],
)
async def test_bad_results_are_failures(way: Way, options: dict[str, Any], letters: str, made: str) -> None:
    """A result that `failure_if` calls bad counts like an error; the caller gets it all the same."""
    breaker = make(failure_if=lambda result: result == "bad", **options)
    assert await play(breaker, way, letters) == made


async def test_a_window_of_time_forgets_and_the_breaker_with_it() -> None:
    """Failures that began longer ago than the window open nothing any more."""
    breaker = make(window=Window.seconds(10), minimum_calls=2, failure_rate=1.0)
    assert await play(breaker, by_call, "F") == "-"
    await asyncio.sleep(9.5)
    assert breaker.snapshot().failures == 1
    await asyncio.sleep(0.5)
    assert breaker.snapshot().failures == 0
    assert await play(breaker, by_call, "F.") == "--"
    await asyncio.sleep(20)
    assert await play(breaker, by_call, "FFF") == "--x"


@every_way
async def test_a_long_call_is_credited_to_where_it_began(way: Way) -> None:
    """A result that comes in with the window already past its call's beginning counts nowhere (gobreaker)."""
    breaker = make(window=Window.seconds(1), minimum_calls=1, failure_if=lambda result: result == "bad")
    assert await play(breaker, way, "GSZ") == "---"
    assert (breaker.state, breaker.snapshot().calls) == (CLOSED, 0)
    assert await play(breaker, way, "F") == "-"
    assert breaker.state is OPEN


async def test_the_window_may_be_smaller_than_the_minimum() -> None:
    """A window of n calls is judged once it is full, whatever the minimum (as in resilience4j)."""
    breaker = make(window=Window.calls(3), minimum_calls=100)
    assert await play(breaker, by_call, "F.FF") == "---x"


@every_way
@pytest.mark.parametrize(
    "options",
    [{"failure_threshold": 3}, {"failure_rate": 1.0, "minimum_calls": 3}],
    ids=["streak", "rate"],
)
async def test_the_tripping_call_raises_its_own_error(way: Way, options: dict[str, Any]) -> None:
    """The call that opens the circuit raises what it raised (pybreaker and aiobreaker replace it)."""
    breaker, error = make(**options), ConnectionError("this one")

    async def down() -> None:
        raise error

    await play(breaker, way, "FF")
    with pytest.raises(ConnectionError) as caught:
        await way(breaker, down)
    assert caught.value is error
    assert error.__cause__ is None
    assert breaker.state is OPEN


@every_way
@pytest.mark.parametrize("letter", [".", "F", "S", "C"])
async def test_calls_of_an_earlier_state_count_nowhere(way: Way, letter: str) -> None:
    """A call that began before the circuit opened, closed or was reset changes nothing when it ends."""
    breaker = make(failure_rate=0.5, minimum_calls=2, success_threshold=1, recovery_timeout=10)
    finish: list[asyncio.Event] = []

    async def begin() -> asyncio.Task[object]:
        gate = asyncio.Event()
        finish.append(gate)

        async def late() -> object:
            await gate.wait()
            return await ending(letter)()

        task = asyncio.ensure_future(way(breaker, late))
        await asyncio.sleep(0)
        return task

    async def end_one(task: asyncio.Task[object]) -> None:
        was, finished = breaker.snapshot(), finish.pop(0)
        finished.set()
        await asyncio.wait([task])
        now = breaker.snapshot()
        assert (now.state, now.calls, now.failures, now.slow, now.probes) == (
            (was.state, was.calls, was.failures, was.slow, was.probes)
        )
        assert task.cancelled() or task.exception() or task.result()

    early = [await begin() for _ in range(4)]
    await play(breaker, way, "FF")
    assert breaker.state is OPEN
    await end_one(early[0])
    await asyncio.sleep(20)
    probe = await begin()
    assert breaker.state is HALF_OPEN
    await end_one(early[1])
    gate = finish.pop()
    assert breaker.state is HALF_OPEN
    assert breaker.snapshot().probes == 1
    await breaker.reset()
    await end_one(early[2])
    await play(breaker, way, "F")
    await end_one(early[3])
    gate.set()
    await asyncio.wait([probe])
    assert probe.cancelled() or probe.exception() or probe.result()
    assert (breaker.state, breaker.snapshot().calls) == (CLOSED, 1)


async def test_late_successes_close_nothing() -> None:
    """A late success neither closes an open circuit (circuitbreaker) nor a half-open one (aioresilience)."""
    breaker = make(failure_threshold=1, success_threshold=1)
    first, second, third = gates = [asyncio.Event() for _ in range(3)]
    late = [asyncio.ensure_future(breaker.call(gate.wait)) for gate in gates]
    await asyncio.sleep(0)
    await play(breaker, by_call, "F")
    first.set()
    assert await late[0]
    assert breaker.state is OPEN
    await asyncio.sleep(30)
    second.set()
    assert await late[1]
    assert breaker.state is HALF_OPEN
    probe = await breaker.admit()
    third.set()
    assert await late[2]
    assert (breaker.state, breaker.snapshot().probes) == (HALF_OPEN, 1)
    await breaker.record(probe)
    assert breaker.state is CLOSED


async def test_many_failures_at_once_open_once() -> None:
    """Twenty calls that fail at the same moment are one opening, one event, one round."""
    breaker, recorder = make(failure_threshold=3), Recorder()
    breaker.listen(recorder)
    calls = [play(breaker, by_call, "F") for _ in range(20)]
    assert await asyncio.gather(*calls) == ["-"] * 20
    assert [(e.old, e.new, e.open_for) for e in recorder.of(BreakerChanged)] == [(CLOSED, OPEN, 30.0)]
    assert breaker.snapshot().rounds == 1


@every_way
async def test_a_predicate_that_raises_is_heard(way: Way) -> None:
    """The error of a user's predicate reaches the caller, and the circuit stays as it was."""

    def explode(_: object) -> bool:
        raise ZeroDivisionError

    breaker = CircuitBreaker(failure_if=explode, ignore=explode)
    for letter in ".F":
        with pytest.raises(ZeroDivisionError):
            await way(breaker, ending(letter))
    assert (breaker.state, breaker.snapshot().failures) == (CLOSED, 0)
