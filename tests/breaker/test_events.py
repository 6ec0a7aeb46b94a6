"""What a breaker tells and shows: events in order, listeners that misbehave, snapshot and repr."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from aresilience import (
    Backoff,
    BreakerChanged,
    BreakerState,
    CallRejected,
    CircuitBreaker,
    CircuitOpen,
    Event,
    LoggingListener,
    Window,
)
from aresilience.breaker import Snapshot
from aresilience.testing import Recorder

CLOSED, OPEN, HALF_OPEN, ISOLATED, DISABLED, SHADOW = (
    BreakerState.CLOSED,
    BreakerState.OPEN,
    BreakerState.HALF_OPEN,
    BreakerState.ISOLATED,
    BreakerState.DISABLED,
    BreakerState.SHADOW,
)


def make(**options: Any) -> CircuitBreaker:
    """A breaker that opens on one failure for 10 s; one success closes it."""
    return CircuitBreaker(
        "b", **{"failure_threshold": 1, "recovery_timeout": 10, "success_threshold": 1} | options
    )


async def fail(breaker: CircuitBreaker) -> None:
    """A call that fails, or is refused."""

    async def down() -> None:
        raise ConnectionError("down")

    with pytest.raises((ConnectionError, CircuitOpen)):
        await breaker.call(down)


async def ok(breaker: CircuitBreaker) -> None:
    """A call that succeeds."""
    await breaker.call(asyncio.sleep, 0)


async def test_every_change_and_every_refusal_is_an_event() -> None:
    """Events come in order, with the policy's name, the loop's time, and the facts."""
    recorder = Recorder()
    breaker = make(recovery_timeout=Backoff.sequence(10, 20), listeners=[recorder])
    await ok(breaker)
    await fail(breaker)
    await asyncio.sleep(4)
    await fail(breaker)
    await asyncio.sleep(6)
    await fail(breaker)
    await asyncio.sleep(20)
    await ok(breaker)
    await asyncio.sleep(1)
    await breaker.isolate()
    await fail(breaker)
    await breaker.reset()
    assert recorder.events == [
        BreakerChanged("b", 0, CLOSED, OPEN, 10),
        CallRejected("b", 4, 6, shadow=False),
        BreakerChanged("b", 10, OPEN, HALF_OPEN),
        BreakerChanged("b", 10, HALF_OPEN, OPEN, 20),
        BreakerChanged("b", 30, OPEN, HALF_OPEN),
        BreakerChanged("b", 30, HALF_OPEN, CLOSED),
        BreakerChanged("b", 31, CLOSED, ISOLATED),
        CallRejected("b", 31, None, shadow=False),
        BreakerChanged("b", 31, ISOLATED, CLOSED),
    ]


async def test_what_is_no_change_is_no_event() -> None:
    """Resetting what is closed, isolating what is isolated, and neutral probes tell nothing."""
    breaker, recorder = make(), Recorder()
    breaker.listen(recorder)
    await breaker.reset()
    await breaker.isolate()
    await breaker.isolate()
    await breaker.reset()
    await breaker.reset()
    assert [(e.old, e.new) for e in recorder.of(BreakerChanged)] == [(CLOSED, ISOLATED), (ISOLATED, CLOSED)]


async def test_who_stops_listening_hears_no_more() -> None:
    """The function that `listen` returns ends it, and only that listener."""
    breaker, first, second = make(), Recorder(), Recorder()
    end = breaker.listen(first)
    breaker.listen(second)
    await fail(breaker)
    end()
    await breaker.reset()
    assert (len(first.events), len(second.events)) == (1, 2)


async def test_a_listener_sees_the_new_state() -> None:
    """When an event is told, the breaker is in the state that it tells, with its last failure."""
    seen: list[tuple[BreakerState, BreakerState, str]] = []
    breaker = make()

    def look(event: Event) -> None:
        if isinstance(event, BreakerChanged):
            seen.append((event.new, breaker.state, str(breaker.snapshot().last_failure)))

    breaker.listen(look)
    await fail(breaker)
    await asyncio.sleep(10)
    await ok(breaker)
    assert seen == [(OPEN, OPEN, "down"), (HALF_OPEN, HALF_OPEN, "down"), (CLOSED, CLOSED, "None")]


def step(coroutine: Any) -> None:
    """Run a coroutine that does not wait for anything."""
    with pytest.raises(StopIteration):
        coroutine.send(None)


@pytest.mark.parametrize(
    ("answer", "states"),
    [
        (lambda b: step(b.reset()), [(CLOSED, OPEN), (OPEN, CLOSED)]),
        (lambda b: step(b.isolate()), [(CLOSED, OPEN), (OPEN, ISOLATED)]),
        (lambda b: b.disable(), [(CLOSED, OPEN), (OPEN, DISABLED)]),
        (lambda b: b.shadow(), [(CLOSED, OPEN), (OPEN, SHADOW)]),
        (repr, [(CLOSED, OPEN)]),
    ],
    ids=["reset", "isolate", "disable", "shadow", "repr"],
)
async def test_a_listener_may_call_the_breaker(
    answer: Callable[[CircuitBreaker], object], states: list[tuple[BreakerState, BreakerState]]
) -> None:
    """A listener that changes the breaker deadlocks nothing (gobreaker #37), and all see one order."""
    breaker, before, after = make(), Recorder(), Recorder()

    def change(event: Event) -> None:
        if isinstance(event, BreakerChanged) and event.new is OPEN:
            answer(breaker)

    for listener in (before, change, after):
        breaker.listen(listener)
    await fail(breaker)
    for recorder in (before, after):
        assert [(e.old, e.new) for e in recorder.of(BreakerChanged)] == states


async def test_a_listener_that_resets_on_half_open_leaves_no_probe() -> None:
    """A reset from within the event of a probe's own admission wins: the probe is nobody's."""
    breaker = make()

    def reset(event: Event) -> None:
        if isinstance(event, BreakerChanged) and event.new is HALF_OPEN:
            step(breaker.reset())

    breaker.listen(reset)
    await fail(breaker)
    await asyncio.sleep(10)
    await fail(breaker)
    assert (breaker.state, breaker.snapshot().probes, breaker.snapshot().failures) == (CLOSED, 0, 0)


async def test_an_event_can_be_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The logging listener writes a change with its fields."""
    caplog.set_level(logging.INFO, "aresilience")
    await fail(make(listeners=[LoggingListener()]))
    assert [record.message for record in caplog.records] == [
        "BreakerChanged 'b' old=<BreakerState.CLOSED: 'closed'> new=<BreakerState.OPEN: 'open'> open_for=10.0"
    ]


async def test_a_snapshot_is_everything_that_can_be_seen() -> None:
    """The snapshot follows the circuit, and looking changes nothing."""
    breaker = make(failure_threshold=None, window=Window.calls(4), minimum_calls=2, slow_call_duration=1)
    assert breaker.snapshot() == Snapshot("b", CLOSED, CLOSED, 0, 0, 0, 0, None, 0, None)
    await breaker.call(asyncio.sleep, 2)
    assert breaker.snapshot() == Snapshot("b", CLOSED, CLOSED, 1, 0, 1, 0, None, 0, None)
    await fail(breaker)
    last = breaker.snapshot().last_failure
    assert breaker.snapshot() == Snapshot("b", OPEN, OPEN, 0, 0, 0, 0, 10.0, 1, last)
    await asyncio.sleep(10)
    for _ in range(2):
        assert breaker.snapshot() == Snapshot("b", HALF_OPEN, HALF_OPEN, 0, 0, 0, 0, 0.0, 1, last)
    async with breaker.guard():
        assert breaker.snapshot() == Snapshot("b", HALF_OPEN, HALF_OPEN, 0, 0, 0, 1, None, 1, last)
    assert breaker.snapshot() == Snapshot("b", CLOSED, CLOSED, 0, 0, 0, 0, None, 1, None)


async def test_repr_shows_the_state() -> None:
    """repr tells the state, what is counted of the window, and the open time that is left."""
    rate = make(failure_threshold=None, window=Window.calls(9), slow_call_duration=1)
    assert repr(rate) == "<CircuitBreaker 'b' closed>"
    await rate.call(asyncio.sleep, 2)
    await fail(rate)
    assert repr(rate) == "<CircuitBreaker 'b' closed, 1 failed and 1 slow of 2 calls>"

    streak = make(failure_threshold=3, recovery_timeout=7200)
    await fail(streak)
    await fail(streak)
    assert repr(streak) == "<CircuitBreaker 'b' closed, 2 failures in a row>"
    await fail(streak)
    await asyncio.sleep(0.25)
    assert repr(streak) == "<CircuitBreaker 'b' open, 7199.75 s left>"
    streak.shadow()
    assert repr(streak) == "<CircuitBreaker 'b' shadow, circuit open, 7199.75 s left>"
    await streak.isolate()
    assert repr(streak) == "<CircuitBreaker 'b' isolated>"


def test_state_can_be_seen_without_a_loop() -> None:
    """Outside a loop the state is what it was last; there is no time to tell how much is left."""
    breaker = make()

    async def opens() -> None:
        await fail(breaker)

    asyncio.run(opens())
    assert breaker.state is OPEN
    assert breaker.snapshot().retry_after is None
    assert repr(breaker) == "<CircuitBreaker 'b' open>"
